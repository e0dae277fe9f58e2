"""Processes of a run found by their environment: the ranks below an agent, and what earlier attempts have left."""

from __future__ import annotations

import os
import signal
from typing import List

from trainkit.boot import processes
from trainkit.job import Job, is_rank


def ranks_below(agent: int, run_id: str) -> List[int]:
    """The shims of all ranks that the agent, or what it has started, has started."""
    found = []
    for pid in processes.with_environment("TRAINKIT_RUN_ID", run_id):
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as file:
                words = os.fsdecode(file.read()).split("\0")
        except OSError:
            continue
        if is_rank(words):
            found.append(pid)
    ranks = []
    for pid in found:
        parent = processes.parent_of(pid)
        if parent in found:
            continue  # a shim's script, which has the same words
        while parent > 1 and parent != agent:
            parent = processes.parent_of(parent)
        if parent == agent:
            ranks.append(pid)
    return ranks


def end_earlier(job: Job) -> None:
    """Kill what earlier attempts of the job's run have left on this machine.

    A cluster that kills all of a job's processes at once, as Slurm does when it queues a job again, may miss those that
    a script had started: nobody is left then who would end them.
    """
    for pid in processes.with_environment("TRAINKIT_RUN_ID", job.run_id):
        try:
            with open("/proc/%d/environ" % pid, "rb") as file:
                values = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0") if entry)
            if int(values.get(b"TRAINKIT_ATTEMPT") or job.attempt) < job.attempt:
                os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):  # it has ended
            continue
