"""Whether a job whose attempt has ended badly is started again: decided by recorded facts, so by any driver alike."""

from __future__ import annotations

import time
from typing import Any

from trainkit import outcome
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.job import Job


def launched(run: RunDir) -> list[AttemptDir]:
    """The attempts that are known to have been launched, oldest first; one that a driver left half made is none."""
    return [attempt for attempt in run.attempts() if attempt.handle.exists()]


def made(run: RunDir) -> int:
    """How often the run's job was started again."""
    own = [attempt for attempt in launched(run) if not (read_json(attempt.handle) or {}).get("requeued")]
    return max(0, len(own) - 1)  # those that the cluster made by itself are its own affair


def seconds_left(run: RunDir, job: Job) -> float | None:
    """Of the run's time limit, which is for all attempts together; None where there is none."""
    first = next(iter(launched(run)), None)
    if not job.max_seconds or first is None:
        return None
    begun = read_json(first.agent(0), "time") or read_json(first.handle, "time") or {}  # not the time in a queue
    return job.max_seconds - (time.time() - float(begun["time"]))


def may_restart(run: RunDir, job: Job, verdict: dict[str, Any] | None) -> bool:
    """Whether the job is to be started again; where its restarts or its time are used up, the verdict says so."""
    if verdict is None or verdict["kind"] not in outcome.CURABLE or run.cancel.exists() or not job.max_restarts:
        return False
    left = seconds_left(run, job)
    if made(run) >= job.max_restarts:
        verdict["summary"] += f" (after {made(run)} of {job.max_restarts} restarts)"
        return False
    if left is not None and left <= 0:
        verdict["summary"] += " (the run's time limit leaves no time to start it again)"
        return False
    return True
