"""Processes of a run found by their environment: the ranks below an agent, and what earlier attempts have left."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import List

from trainkit.boot import processes
from trainkit.boot.processes import environment_of, parent_of, words_of
from trainkit.job import Job, is_rank

ALONE = signal.SIGRTMAX - 6  # tells a shim that its rank need not wait for the others' ends; nobody else uses it


def shims_of(run_id: str) -> List[int]:
    """The waiting parents of all ranks of a run on this machine."""
    found = [pid for pid in processes.with_environment("TRAINKIT_RUN_ID", run_id) if is_rank(words_of(pid))]
    return [pid for pid in found if parent_of(pid) not in found]  # else a shim's script, which has the same words


def ranks_below(agent: int, run_id: str) -> List[int]:
    """The shims of all ranks that the agent, or what it has started, has started."""
    return [pid for pid in shims_of(run_id) if _is_below(agent, pid)]


def _is_below(ancestor: int, pid: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = parent_of(pid)
    return pid == ancestor


def end_earlier(job: Job) -> None:
    """Kill what earlier attempts of the job's run have left on this machine.

    A cluster that kills all of a job's processes at once, as Slurm does when it queues a job again, may miss those that
    a script had started: nobody is left then who would end them.
    """
    for pid in processes.with_environment("TRAINKIT_RUN_ID", job.run_id):
        attempt = environment_of(pid).get("TRAINKIT_ATTEMPT", "")
        if attempt.isdigit() and int(attempt) < job.attempt:
            with suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGKILL)
