"""Runs an image's builder so that its end, however it comes, leaves nothing half made in the engine.

    python -m trainkit.ending PARENT_PID PATIENCE_SECONDS PROGRAM ARGUMENT...

A builder without a daemon that is killed leaves the step that it runs, and a container in its store. So on SIGTERM,
which the kernel also sends when whoever started this dies, the step is killed instead: the builder then clears up after
a step that failed. One that runs no step is waited for, at most for PATIENCE_SECONDS; with 0 it is a daemon that clears
up, and the builder is only its client.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

from trainkit.boot import processes

_PAUSE_SECONDS = 0.05


class _Asked:
    """Whether somebody wants the end; a signal's handler can only note it."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self, *_: object) -> None:
        self.at = self.at or time.monotonic()


def below(pid: int) -> set[int]:
    """Pids of all that a process has started, and of what these have."""
    parents = {int(name): processes.parent_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    found = {pid}
    while new := {each for each, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


def kill_with_all_below(pid: int) -> None:
    """Kill a child of this process and all that it has started: stopped, none of them starts, or reaps, another."""
    stopped: set[int] = set()
    while new := {pid, *below(pid)} - stopped:
        _send(new, signal.SIGSTOP)
        stopped |= new
    _send(stopped, signal.SIGKILL)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(OSError):  # it has ended
            os.kill(pid, number)


def steps_of(builder: int, program: str) -> list[int]:
    """Pids of what a builder runs for its steps: all below it that is not the builder's own program."""
    steps = below(os.getpid()) - {builder}
    return [pid for pid in steps if os.path.basename((processes.words_of(pid) or [program])[0]) != program]


def end(builder: subprocess.Popen[bytes], program: str, patience_seconds: float) -> None:
    """Have a builder end, as described above."""
    deadline = time.monotonic() + patience_seconds
    while builder.poll() is None and time.monotonic() < deadline:
        _send(steps_of(builder.pid, program), signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)
    if builder.poll() is None:
        builder.kill()
        builder.wait()


def main(argv: list[str]) -> int:
    """Entry point; the builder's exit status."""
    asked = _Asked()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, asked)
    processes.die_with_parent(signal.SIGTERM, int(argv[0]))
    processes.become_subreaper()
    patience, program = float(argv[1]), os.path.basename(argv[2])
    builder = subprocess.Popen(argv[2:], close_fds=False, start_new_session=True)
    while builder.poll() is None:
        if asked.at is not None:
            end(builder, program, patience)
        time.sleep(_PAUSE_SECONDS)
    processes.end_children()
    return builder.returncode if builder.returncode >= 0 else 128 - builder.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
