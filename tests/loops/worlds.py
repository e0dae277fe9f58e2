"""Runs a script on several ranks, by a real launcher or by plain environment variables, and gathers what they report.

Importing torch takes seconds in each rank, so one launch should carry many checks. A script reports with
`report(name=value, ...)`; what it reported last under a name counts. When `run` returns, none of its processes is left.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot import ports, processes

BIN = Path(sys.executable).parent
LAUNCHERS = ("plain", "torchrun", "mpirun", "horovodrun")
_MARK = "TEST_WORLD"  # in the environment of every process of one world

_HEAD = """
import json as _json, os as _os
def report(**values):
    with open(_os.path.join({folder!r}, f"rank-{{RANK}}.jsonl"), "a") as file:
        file.write(_json.dumps(values) + "\\n")
from trainkit.boot.worlds import here as _here
RANK = _here().rank.rank
"""


@dataclass
class Outcome:
    """How a world ended."""

    code: int
    output: str
    seconds: float
    ranks: list[dict[str, Any]] = field(default_factory=list)

    def each(self, name: str) -> list[Any]:
        """What every rank reported under a name."""
        return [rank[name] for rank in self.ranks]

    def same(self, name: str) -> Any:
        """What all ranks reported under a name, which must be the same."""
        values = self.each(name)
        assert all(value == values[0] for value in values), (name, values)
        return values[0]


@dataclass
class Running:
    """A world that has been started: to wait for, or to kill ranks of."""

    process: subprocess.Popen[str]
    folder: Path
    size: int
    mark: str
    begun: float

    def wait(self, seconds: float = 120.0) -> Outcome:
        """Wait for the end; fails the test, and ends everything, after so many seconds."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end()
            output, _ = self.process.communicate()
            pytest.fail(f"the ranks had not ended after {seconds} s:\n{output[-6000:]}")
        took = time.monotonic() - self.begun
        left = self.left_after(15.0)
        self.end()
        assert not left, f"left behind: {left}"
        return Outcome(self.process.returncode, output, took, [self.reported(rank) for rank in range(self.size)])

    def reported(self, rank: int) -> dict[str, Any]:
        """What a rank has reported so far."""
        file = self.folder / f"rank-{rank}.jsonl"
        found: dict[str, Any] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            found.update(json.loads(line))
        return found

    def until(self, rank: int, name: str, seconds: float = 60.0) -> Any:
        """Wait until a rank has reported `name`; its value."""
        deadline = time.monotonic() + seconds
        while name not in self.reported(rank):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.end()
                pytest.fail(f"rank {rank} never reported {name}:\n{self.process.communicate()[0][-6000:]}")
            time.sleep(0.02)
        return self.reported(rank)[name]

    def left_after(self, seconds: float) -> list[str]:
        """Command lines of what still runs after so many seconds at most."""
        deadline = time.monotonic() + seconds
        while True:
            pids = [pid for pid in processes.with_environment(_MARK, self.mark) if _lives(pid)]
            if not pids or time.monotonic() > deadline:
                return [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids]
            time.sleep(0.05)

    def end(self) -> None:
        """Kill what is left."""
        processes.sweep(_MARK, self.mark)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return processes.is_alive(processes.identity(pid))
    except ValueError:
        return False


def start(
    folder: Path, script: str, size: int, by: str = "mpirun", env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> Running:  # fmt: skip
    """Start `script` on `size` ranks by a launcher; its current directory is `folder`."""
    if "horovod" in arguments and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; scripts/build-horovod builds it")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "script.py"
    file.write_text(_HEAD.format(folder=str(folder)) + script)
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    values = {**os.environ, **(env or {}), _MARK: mark, "TMPDIR": str(folder)}
    command = [*command_of(by, size, folder), sys.executable, str(file), *arguments]
    begun = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=values, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    return Running(process, folder, size, mark, begun)


def run(
    folder: Path, script: str, size: int, by: str = "mpirun", env: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (), seconds: float = 120.0,
) -> Outcome:  # fmt: skip
    """Run `script` on `size` ranks to its successful end."""
    outcome = start(folder, script, size, by, env, arguments).wait(seconds)
    assert outcome.code == 0, outcome.output[-8000:]
    return outcome


def _port() -> int:
    port, handle = ports.reserve_port("127.0.0.1")
    os.close(handle)  # the draw is among thousands: the next test gets another one
    return port


def command_of(by: str, size: int, folder: Path) -> list[str]:
    """A launcher's command line, without the program; skips the test where the launcher is not installed."""
    if by == "plain":
        return [sys.executable, "-c", _FORKS, str(size), str(_port())]
    program = BIN / by
    if not program.exists():
        pytest.skip(f"{by} is not installed in {BIN}")
    if by == "torchrun":
        return [str(program), "--nnodes=1", f"--nproc-per-node={size}", "--no-python",
                f"--master-port={_port()}", "--log-dir", str(folder / "torchrun")]  # fmt: skip
    if by == "horovodrun":
        return [str(program), "--gloo", "--network-interfaces", "lo", "-np", str(size)]
    return [str(program), "--oversubscribe", "--bind-to", "none", "-np", str(size)]


# Ranks as plain processes: what a user's own shell loop would do. Ends them all when one fails.
_FORKS = """
import os, signal, subprocess, sys, time
size, port, *command = sys.argv[1:]
ranks = []
for rank in range(int(size)):
    env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": size, "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": size,
           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks.append(subprocess.Popen(command, env=env))
codes = [rank.wait() for rank in ranks]
sys.exit(next((abs(code) for code in codes if code), 0))
"""
