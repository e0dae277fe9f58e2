"""How an attempt's folder is made, and which attempt an agent belongs to.

A cluster that starts the same allocation again makes a new one: Slurm requeues a job that was preempted, or whose node
failed, under the same id and the same command line. What was attempt K then becomes K + 1, K + 2, ...: the head's agent
makes that attempt's folder, the others wait for it.
"""

from __future__ import annotations

import os
import time
from typing import Mapping

from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.errors import LaunchError

RESTARTS = "SLURM_RESTART_COUNT"
_PATIENCE_SECONDS = 60.0


def formation(run: RunDir, number: int, node: int, env: Mapping[str, str]) -> AttemptDir:
    """The attempt of an agent that was told `number`. Raises LaunchError where the head never made it."""
    first = run.attempt(number)
    restarts = int(env.get(RESTARTS) or 0)
    if not restarts:
        return first
    attempt = run.attempt(number + restarts)
    if node == 0:
        _form(first, attempt)
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


def _form(first: AttemptDir, attempt: AttemptDir) -> None:
    """Make the folder of an attempt that the cluster has begun; its handle, last, makes it count."""
    prepare_attempt(attempt)
    job, begun = read_json(first.job) or {}, read_json(first.agent(0), "time")
    if begun and job.get("max_seconds"):  # they are for all attempts together
        job["max_seconds"] = max(1.0, job["max_seconds"] - (time.time() - begun["time"]))
    publish(attempt.job, {**job, "attempt": attempt.number})
    handle = read_json(first.handle, "handle") or {}
    publish(attempt.handle, {**handle, "time": time.time(), "requeued": True})
