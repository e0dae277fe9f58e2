"""Many commands at once, without a thread or a pipe for each: one loop waits for all of them.

What a command prints goes into memory that the kernel holds, so that a connection which ssh shares with later ones
(ControlMaster), and which may keep it open, holds nobody up. It starts and ends only its own commands.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

_TICK_SECONDS = 0.02  # between looks where the kernel cannot tell of a process's end


@dataclass(frozen=True)
class Call:
    """A command and its standard input: bytes, or a file that several calls may share."""

    argv: tuple[str, ...]
    data: bytes = b""
    file: str = ""


@dataclass(frozen=True)
class Answer:
    """What became of a call: its exit status (None: it took too long and was killed), and all that it printed.

    Where the program could not be started at all, `problem` says why.
    """

    status: int | None
    output: str
    problem: str = ""


class _Running:
    """A started call; `error` where it could not be started."""

    def __init__(self, call: Call) -> None:
        self.output: BinaryIO = os.fdopen(os.memfd_create("output", os.MFD_CLOEXEC), "r+b", buffering=0)
        self.process: subprocess.Popen[bytes] | None = None
        self.error = ""
        self.pidfd = -1
        try:
            with self._input(call) as given:
                self.process = subprocess.Popen(call.argv, stdin=given, stdout=self.output, stderr=self.output)
        except OSError as error:
            self.error = str(error)
            return
        try:
            self.pidfd = os.pidfd_open(self.process.pid)
        except (AttributeError, OSError):  # an old kernel
            pass

    def _input(self, call: Call) -> BinaryIO:
        if call.file:
            return open(call.file, "rb", buffering=0)
        given = os.fdopen(os.memfd_create("input", os.MFD_CLOEXEC), "r+b", buffering=0)
        view = memoryview(call.data)
        while view:
            view = view[given.write(view) :]
        given.seek(0)
        return given

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def answer(self) -> Answer:
        """Kill what still runs, and give back what it said."""
        status: int | None = None
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                self.process.kill()
                self.process.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        self.output.close()
        return Answer(status, text, self.error)


def run_all(calls: Sequence[Call], seconds: float) -> list[Answer]:
    """Run all of them side by side; what has not ended after so many seconds is killed."""
    deadline = time.monotonic() + seconds
    running: list[_Running] = []
    try:
        for call in calls:
            running.append(_Running(call))
        waiting = {r.pidfd: r for r in running if r.pidfd >= 0}
        poll = select.poll()
        for pidfd in waiting:
            poll.register(pidfd, select.POLLIN)
        while waiting and time.monotonic() < deadline:
            for pidfd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                poll.unregister(pidfd)
                del waiting[pidfd]
        while not all(r.ended() for r in running if r.pidfd < 0) and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
    finally:
        answers = [r.answer() for r in running]
    return answers
