"""What `trainkit doctor --target` does: a job of which only the preflight is wanted, and its record as a table."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit import outcome
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.bundle import bundle
from trainkit.cli import output
from trainkit.compute import resolve
from trainkit.errors import LaunchError, UserErrorException
from trainkit.job import Job, Launcher
from trainkit.options import launcher_of
from trainkit.sentences import tail

if TYPE_CHECKING:
    from trainkit.targets import Target
    from trainkit.workspace import Workspace

_SPREAD = "fork"
_RANKS = 2  # on each node, which then need room to meet in
_FEWEST = 2  # one node has nobody to compare notes with
_END_SECONDS = 20.0  # for a job that was cancelled


@dataclass(frozen=True)
class Examination:
    """What the nodes of a target said, what keeps jobs from running on them, and what is worth knowing."""

    target: str
    nodes: Sequence[Mapping[str, Any]] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values, with "healthy"."""
        return {"healthy": not self.problems, "target": self.target, "problems": list(self.problems),
                "notes": list(self.notes), "nodes": list(self.nodes), "seconds": self.seconds}  # fmt: skip

    def text(self) -> str:
        """A table of the nodes, and the findings below it."""
        header = ["node", "name", "address", "python", "torch", "cpus", "gpus", "driver", "disk free", "/dev/shm",
                  "MB/s to next", "ms"]  # fmt: skip
        table = [output.table([_row(n, node) for n, node in enumerate(self.nodes)], header)] if self.nodes else []
        lines = [f"BAD   {words}" for words in self.problems] + [f"note  {words}" for words in self.notes]
        good = f"ok    {len(self.nodes)} nodes of {self.target} are fit for a job together ({self.seconds:.1f} s)"
        return "\n".join(table + (lines if self.problems else [*lines, good]))


def examine(workspace: Workspace, name: str, nodes: int | None, wait_seconds: float) -> Examination:
    """Have the nodes of a target compare notes; no run is submitted, and no place at the target is taken.

    Raises UserErrorException for a target that is this machine, LaunchError where its nodes cannot be started.
    """
    target = resolve(workspace, name)
    if not target.several_machines:
        raise UserErrorException(f"{name} is this machine: `trainkit doctor`, without --target, checks that.")
    launcher = launcher_of(target.launcher, target.options)
    with _folder(workspace.root / "doctor") as run:
        attempt = run.attempt(1)
        prepare_attempt(attempt)
        job = Job(
            run.path.name, "doctor", str(run.path), 1, sys.executable, command=("true",), ranks_per_node=_RANKS,
            nodes=nodes or _count(target, launcher), spread=_SPREAD, boot=str(bundle(workspace.root / "boot", _SPREAD)),
            shared=bool(getattr(launcher, "shared_disk", True)),
        )  # fmt: skip
        publish(attempt.job, job.to_json())
        _live(launcher, job, attempt, wait_seconds)
        return _result(name, job, attempt)


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[RunDir]:
    """A run directory for this examination alone."""
    run = RunDir(parent / f"doctor_{int(time.time())}_{uuid.uuid4().hex[:8]}")
    try:
        make_private(run.code)
        yield run
    finally:
        shutil.rmtree(run.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # another one is at work
            parent.rmdir()


def _count(target: Target, launcher: Launcher) -> int:
    """How many nodes a target has, as far as its description says."""
    return max(_FEWEST, target.max_nodes or len(getattr(launcher, "hosts", ())))


def _live(launcher: Launcher, job: Job, attempt: AttemptDir, wait_seconds: float) -> None:
    """Start the job and wait for its end. Raises LaunchError where it does not start in time."""
    handle = launcher.start(job)
    publish(attempt.handle, {"handle": handle, "time": time.time()})
    deadline, canceled = time.monotonic() + wait_seconds, ""
    try:
        while (status := launcher.poll(handle)).phase in ("queued", "running"):
            if time.monotonic() > deadline:
                canceled = f"{status.phase}{f' ({status.words})' if status.words else ''}"
                break
            time.sleep(0.05)
    finally:
        launcher.cancel(handle)  # Ctrl-C too leaves nothing
    until = time.monotonic() + _END_SECONDS
    while launcher.poll(handle).phase in ("queued", "running") and time.monotonic() < until:
        time.sleep(0.05)
    if canceled and not attempt.preflight.exists():
        raise LaunchError(f"After {wait_seconds:g} s the nodes were still {canceled}; nothing is left of the attempt.")


def _result(name: str, job: Job, attempt: AttemptDir) -> Examination:
    """What the attempt's records say."""
    record = read_json(attempt.preflight) or {}
    problems = list(record.get("problems", ()))
    if not problems:
        problems = list(_ended_badly(job, attempt))
    return Examination(
        name, record.get("nodes", ()), problems, record.get("notes", ()), float(record.get("seconds", 0.0))
    )


def _ended_badly(job: Job, attempt: AttemptDir) -> Iterator[str]:
    """Why agents or ranks failed that agreed with each other, or never met."""
    ends = outcome.ends_of(attempt)
    records = outcome.records_of(attempt)
    if len(records) == job.world_size and all(outcome.ok(record) for record in records):
        return
    _, verdict = outcome.judge(job.world_size, records, ends, nodes=job.nodes)
    last = "; ".join(tail(attempt.agent_log(0))[-1:])
    yield str((verdict or {}).get("summary", "")) + (f" (node 0: {last})" if last else "")


def _row(number: int, node: Mapping[str, Any]) -> list[Any]:
    """A node's line in the table."""
    python, link = node["python"], node.get("link") or {}
    rate, latency = link.get("rate"), link.get("latency")
    return [
        number, node["name"], node["address"], python.get("version") or python.get("problem"),
        python.get("main", {}).get("torch"), node["cpus"], node["gpus"], node["driver"] or "-",
        None if node["disk_free"] is None else output.size(node["disk_free"]),
        None if node["shm_free"] is None else output.size(node["shm_free"]),
        link.get("problem", "-") if rate is None else f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}",
        None if latency is None else f"{latency:.2f}",
    ]  # fmt: skip
