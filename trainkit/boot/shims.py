"""The ranks' waiting parents below an agent, whoever started them: found so that they can be asked to end, by pid."""

from __future__ import annotations

import os
from typing import List

from trainkit.boot import processes
from trainkit.job import is_rank


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
