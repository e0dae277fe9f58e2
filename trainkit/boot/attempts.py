"""Which attempts a run has had, and whether it may have another one: the one account of restarts, whoever makes them.

Counted from what is recorded, so that the driver and a head's agent come to the same number. Writes nothing.
"""

from __future__ import annotations

import time
from typing import List, Optional

from trainkit.boot.rundir import AttemptDir, RunDir, read_json


def launched(run: RunDir) -> List[AttemptDir]:
    """The attempts that are known to have been launched, oldest first; one that was left half made is none."""
    return [attempt for attempt in run.attempts() if attempt.handle.exists()]


def overtaken(run: RunDir, attempt: AttemptDir) -> bool:
    """Whether a later attempt has been launched."""
    return any(later.number > attempt.number for later in launched(run))


def made(run: RunDir, last: Optional[int] = None) -> int:
    """How often the run's job was started again, up to the attempt of number `last`."""
    counted = [attempt for attempt in launched(run) if last is None or attempt.number <= last]
    own = [attempt for attempt in counted if not (read_json(attempt.handle) or {}).get("requeued")]
    return max(0, len(own) - 1)  # those that the cluster made by itself are its own affair


def time_limit(run: RunDir) -> float:
    """Seconds that all attempts of the run have together; 0 where they are not limited, or nothing was launched."""
    first = next(iter(launched(run)), None)
    return float((read_json(first.job) or {}).get("max_seconds") or 0) if first is not None else 0.0


def seconds_left(run: RunDir) -> Optional[float]:
    """Of the run's time limit, which is for all attempts together; None where there is none."""
    first, limit = next(iter(launched(run)), None), time_limit(run)
    if first is None or not limit:
        return None
    begun = read_json(first.agent(0), "time") or read_json(first.handle, "time") or {}  # not the time in a queue
    return limit - (time.time() - float(begun["time"]))


def spent(run: RunDir, max_restarts: int) -> str:
    """Why the run's job may not be started again; empty where it may."""
    if made(run) >= max_restarts:
        return "after %d of %d restarts" % (made(run), max_restarts)
    left = seconds_left(run)
    if left is not None and left <= 0:
        return "the run's time limit leaves no time to start it again"
    return ""
