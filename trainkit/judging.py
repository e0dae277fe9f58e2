"""What became of an attempt, read from the files that its ranks and agents have left."""

from __future__ import annotations

import shutil
import time
from typing import Any

from trainkit import outcome
from trainkit.boot import processes
from trainkit.boot.asked import ASKED
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.job import Job
from trainkit.sentences import tail

GRACE_SECONDS = 3.0  # for ranks whose agent was killed: they see it, and end what they have started
_FENCED_SECONDS = 10.0  # after which a node that hears nothing of its head has begun to end its ranks
_FULL_BYTES = 256 << 10  # a disk with less room than this may be why something could not be written
_KEPT = ("rank", "node", "node_name", "started", "ended", "exit_code", "signal", "exception", "asked_to_end")
_MOST_RECORDS = 256
Records = list[dict[str, Any]]


def judged(run: RunDir, attempt: AttemptDir, lost: str, words: str = "") -> tuple[str, dict[str, Any] | None, Records]:
    """The status that the run has now, the verdict where it failed, and the ranks' records.

    `lost` says why nobody can tell how the job ended, if so; `words` are the cluster's on its end.
    """
    job = Job.from_json(read_json(attempt.job, "interpreter") or {})
    if lost and attempt.beat.exists():
        _await_reports(attempt, job)
    ends = outcome.ends_of(attempt)
    if len(ends) < job.nodes and not lost:
        processes.sweep("TRAINKIT_RUN_ID", job.run_id, grace=GRACE_SECONDS)
    records = outcome.records_of(attempt)
    status, verdict = outcome.judge(job.world_size, records, ends, lost, run.cancel.exists(), job.nodes)
    # Agents that the cluster has asked to end, or that it has killed with their reports: it knows why, if anybody does.
    only_asked = all(end.get("problem") == ASKED for end in ends)
    if verdict is not None and (words or lost) and only_asked and not records:
        began = any(attempt.agent(node).exists() for node in range(job.nodes))
        if not (began and lost):
            told = words or lost
            verdict.update(kind="lost" if began else "launch", message=told, summary=told + ".")
    return status, _explained(verdict, run, attempt), records


def _await_reports(attempt: AttemptDir, job: Job) -> None:
    """Give the nodes that have lost their head the time to notice, to end their ranks and to say so."""
    deadline = time.monotonic() + _FENCED_SECONDS + job.grace_seconds
    while time.monotonic() < deadline:
        if all(attempt.agent_end(node).exists() for node in range(1, job.nodes)):
            return
        time.sleep(0.1)


def _explained(verdict: dict[str, Any] | None, run: RunDir, attempt: AttemptDir) -> dict[str, Any] | None:
    """The verdict with what no rank's record can say: what its agent printed, and that the disk is full."""
    if verdict is not None and verdict["kind"] in ("lost", "launch") and not verdict.get("log"):
        log = attempt.agent_log(int(verdict.get("node") or 0))
        verdict.update(log=str(log), tail=tail(log))
        if shutil.disk_usage(run.path).free < _FULL_BYTES:
            verdict["summary"] += f" The disk of {run.path.parents[2]} is full."
    return verdict


def brief(records: Records) -> Records:
    """What the run's final state keeps of the ranks' records."""
    return [{key: record.get(key) for key in _KEPT} for record in records[:_MOST_RECORDS]]
