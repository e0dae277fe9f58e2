"""Faults for tests of what survives them: kill, stop, cut and disk, each undone when the test has ended.

    pytest_plugins = ["trainkit.testing.faults"]                # once, in conftest.py

    def test_mine(faults):
        run = experiment.submit(config)
        faults.job(run.directory).kill(rank=1)                  # a job's processes on this machine
        faults.nodes(cluster).cut("node2")                      # nodes of anything that is a `Cluster`

A job's processes are found by the files of its run directory that they hold open, so it does not matter what started
them, nor in which namespaces they live, as long as this process sees them. Outside pytest, `with Faults() as faults:`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol

import pytest

from trainkit.boot.processes import identity, is_alive, parent_of, send
from trainkit.boot.rundir import AttemptDir, RunDir
from trainkit.testing import wait_until

START_SECONDS = 60.0
LARGEST_DISK = 1 << 30  # bytes; a larger one is somebody's, not a test's


class Cluster(Protocol):
    """What faults of nodes are done with: for each a verb that does it and one that undoes it.

    Undoing is asked for after a fault that raised, too: it takes back the half that was done, which may be nothing.
    """

    @property
    def names(self) -> list[str]:
        """The nodes that there are."""

    def kill(self, node: str) -> None:
        """End a node, as a loss of power does."""

    def boot(self, node: str) -> None:
        """Start a killed node again; nothing happens to one that is on."""

    def freeze(self, node: str) -> None:
        """Stop all processes of a node."""

    def thaw(self, node: str) -> None:
        """Let them go on."""

    def cut(self, node: str) -> None:
        """Unplug a node's network."""

    def heal(self, node: str) -> None:
        """Plug it in again."""

    def fill(self, node: str, path: str | Path) -> None:
        """Fill the disk that a node has at a path."""

    def clear(self, node: str, path: str | Path) -> None:
        """Give it its room back."""


def holders(path: Path, descriptor: int | None = None) -> list[int]:
    """Pids of the living processes that have a file open, or have it open as this descriptor."""
    wanted, found = str(path.resolve()), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            opened = [str(descriptor)] if descriptor is not None else os.listdir(entry / "fd")
            if any(os.readlink(entry / "fd" / name) == wanted for name in opened):
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is another user's
    return sorted(found)


class JobFaults:
    """Faults of one job's processes on this machine: those of its newest attempt, waited for while they start."""

    def __init__(self, run_directory: str | Path, undo: ExitStack) -> None:
        self._run = RunDir(Path(run_directory).resolve())
        self._undo = undo

    def _attempt(self) -> AttemptDir:
        attempts: list[AttemptDir] = wait_until(self._run.attempts, START_SECONDS, f"an attempt of {self._run.path}")
        return attempts[-1]

    def rank(self, rank: int) -> int:
        """The pid of the process that runs the user's script as this rank."""

        def script() -> int:
            printing = holders(self._attempt().rank_log(rank), descriptor=1)
            return next((pid for pid in printing if parent_of(pid) not in printing), 0)

        pid: int = wait_until(script, START_SECONDS, f"the start of rank {rank}")
        return pid

    def agent(self, node: int = 0) -> int:
        """The pid of a node's agent."""
        found: list[int] = wait_until(
            lambda: holders(self._attempt().agent_lock(node)), START_SECONDS, f"the start of the agent of node {node}"
        )
        return found[0]

    def _victim(self, rank: int | None, agent: int | None) -> int:
        if (rank is None) == (agent is None):
            raise ValueError("name one victim: rank=NUMBER, or agent=NODE")
        return self.rank(rank) if rank is not None else self.agent(agent or 0)

    def kill(self, *, rank: int | None = None, agent: int | None = None) -> int:
        """Kill a rank's script or a node's agent with SIGKILL; its pid, once it is gone."""
        pid = self._victim(rank, agent)
        name = identity(pid)
        send(name, signal.SIGKILL)
        wait_until(lambda: not is_alive(name), START_SECONDS, f"the end of process {pid}")
        return pid

    def stop(self, *, rank: int | None = None, agent: int | None = None) -> int:
        """Stop a rank's script or a node's agent, as a hang does; it goes on when the test has ended. Its pid."""
        pid = self._victim(rank, agent)
        _stop(pid, self._undo)
        return pid


def _stop(pid: int, undo: ExitStack) -> None:
    name = identity(pid)
    undo.callback(send, name, signal.SIGCONT)
    if not send(name, signal.SIGSTOP):
        raise ProcessLookupError(f"process {pid} is gone")


class NodeFaults:
    """Faults of the nodes of a cluster, undone in reverse order; that may find them undone by the test itself."""

    def __init__(self, cluster: Cluster, undo: ExitStack) -> None:
        self._cluster = cluster
        self._undo = undo

    def _do(self, act: Callable[[str], None], undo: Callable[[str], None], node: str) -> None:
        if node not in self._cluster.names:
            raise ValueError(f"no node is called {node!r}; there are {', '.join(self._cluster.names)}")
        self._undo.callback(undo, node)  # first: an act that raises may have done half of it
        act(node)

    def kill(self, node: str) -> None:
        """End a node with all its processes; it is booted when the test has ended."""
        self._do(self._cluster.kill, self._cluster.boot, node)

    def stop(self, node: str) -> None:
        """Stop all processes of a node, whose network still answers."""
        self._do(self._cluster.freeze, self._cluster.thaw, node)

    def cut(self, node: str) -> None:
        """Unplug a node's network."""
        self._do(self._cluster.cut, self._cluster.heal, node)

    def disk(self, node: str, path: str | Path = "/tmp") -> None:
        """Fill the disk that a node has at `path`."""
        self._do(lambda name: self._cluster.fill(name, path), lambda name: self._cluster.clear(name, path), node)


class Faults:
    """The faults of one test, as a context manager: all are undone at its end, the last one first."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def undo(self) -> None:
        """Undo all that was done so far, the last of it first."""
        self._undo.close()

    def stop(self, pid: int) -> None:
        """Stop a process; it goes on when the test has ended. Raises ProcessLookupError where there is none."""
        _stop(pid, self._undo)

    def job(self, run_directory: str | Path) -> JobFaults:
        """The faults of a job, named by its run directory (`run.directory`)."""
        return JobFaults(run_directory, self._undo)

    def nodes(self, cluster: Cluster) -> NodeFaults:
        """The faults of a cluster's nodes."""
        return NodeFaults(cluster, self._undo)

    def disk(self, folder: str | Path) -> Path:
        """Fill the disk on which `folder` lies, until the test has ended; the file that fills it.

        Raises ValueError where that is no small disk made for the purpose (of at most 1 GiB, as a tmpfs of its own).
        """
        status = os.statvfs(folder)
        if status.f_blocks * status.f_frsize > LARGEST_DISK:
            raise ValueError(
                f"the disk of {folder} has {status.f_blocks * status.f_frsize >> 30} GiB; faults fill one of at most "
                f"{LARGEST_DISK >> 30} GiB: mount -t tmpfs -o size=64m tmpfs FOLDER"
            )
        path = Path(folder) / ".filled-by-a-fault"
        self._undo.callback(path.unlink, missing_ok=True)
        with open(path, "wb", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:  # nothing of this size fits any more
                    size //= 2
        return path


@pytest.fixture
def faults() -> Iterator[Faults]:
    """`Faults` for one test."""
    with Faults() as made:
        yield made
