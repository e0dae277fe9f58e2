"""Whether a job whose attempt has ended badly is started again: decided by recorded facts, so by any driver alike."""

from __future__ import annotations

from typing import Any

from trainkit import outcome
from trainkit.boot.attempts import launched, made, spent
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.job import Job


def may_restart(run: RunDir, job: Job, verdict: dict[str, Any] | None) -> bool:
    """Whether the job is to be started again; where its restarts or its time are used up, the verdict says so."""
    if verdict is None or verdict["kind"] not in outcome.CURABLE or run.cancel.exists() or not job.max_restarts:
        return False
    if why := spent(run, job.max_restarts):
        verdict["summary"] += f" ({why})"
        return False
    return True


def begun(run: RunDir, attempt: AttemptDir) -> str:
    """What is said of an attempt that the agents have begun by themselves; empty where the cluster has."""
    before = [one for one in launched(run) if one.number < attempt.number]
    if not before or (read_json(attempt.handle) or {}).get("requeued"):
        return ""
    job = Job.from_json(read_json(before[-1].job, "interpreter") or {})
    records, ends = outcome.records_of(before[-1]), outcome.ends_of(before[-1])
    _, verdict = outcome.judge(job.world_size, records, ends, nodes=job.nodes)
    words = restart_words(made(run, attempt.number), job, str((verdict or {}).get("summary", "its ranks have ended")))
    return f"{words}{job.world_size} rank(s) on the same {job.nodes} node(s)"


def restart_words(number: int, job: Job, why: str) -> str:
    """The beginning of what is said of a job's restart, counted from 1."""
    return f"restart {number} of {job.max_restarts}: {_bare(why)}; "


def refusal_words(why: str, problem: str) -> str:
    """What is said of a job that was to be started again, and could not; only the problem where that was not so."""
    return f"{_bare(why)}; it could not be started again: {problem}" if why else problem


def _bare(why: str) -> str:
    """A verdict's sentence without its end, for more to follow."""
    return why.removesuffix(outcome.HOW_TO_GO_ON).removesuffix(".")
