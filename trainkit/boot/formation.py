"""How an attempt's folder is made where no driver makes it: by the head's agent, for a job that is started again.

A cluster that starts the same allocation again makes a new attempt: Slurm requeues a job that was preempted, or whose
node failed, and its batch script gives the agents the next number. So does the head's agent itself, in an allocation
that still lives (`trainkit.boot.again`). The head makes that attempt's folder, the others wait for it.
"""

from __future__ import annotations

import os
import time

from trainkit.boot.attempts import launched, seconds_left
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.errors import LaunchError

_PATIENCE_SECONDS = 60.0


def formation(run: RunDir, number: int, node: int) -> AttemptDir:
    """The attempt of an agent that was told `number`. Raises LaunchError where the head never made it."""
    attempt = run.attempt(number)
    if attempt.job.exists():
        return attempt
    earlier = [one for one in launched(run) if one.number < number]
    if not earlier:
        return attempt
    if node == 0:
        form(run, earlier[-1], attempt, requeued=True)
        return attempt
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not attempt.handle.exists():
        if time.monotonic() > deadline:
            raise LaunchError("The head's agent has not formed attempt %d." % attempt.number, transient=True)
        time.sleep(0.05)
    return attempt


def prepare_attempt(attempt: AttemptDir) -> None:
    """Make an attempt's folders, and the secret of its agents in a private file; what is there stays."""
    for folder in (attempt.path, attempt.logs, attempt.ranks, attempt.nodes):
        make_private(folder)
    if not attempt.key.exists():
        descriptor = os.open(str(attempt.key), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))


def form(run: RunDir, before: AttemptDir, attempt: AttemptDir, requeued: bool) -> None:
    """Make the folder of an attempt after `before`; its handle, last, makes it count.

    `requeued` says that the cluster has begun it by itself: then it is no restart of the job's own.
    """
    prepare_attempt(attempt)
    job, left = read_json(before.job) or {}, seconds_left(run)
    limit = {} if left is None else {"max_seconds": max(1.0, left)}  # they are for all attempts together
    publish(attempt.job, {**job, **limit, "attempt": attempt.number})
    handle = read_json(before.handle, "handle") or {}
    publish(attempt.handle, {**handle, "time": time.time(), "requeued": requeued})
