"""Which parts (see `trainkit.boot.part`) an agent has, for a job like this."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

from trainkit.boot.channel import Channel
from trainkit.boot.lognotes import LogNotes
from trainkit.boot.part import Part
from trainkit.boot.rundir import AttemptDir, RunDir
from trainkit.job import Job, Node


def parts_of(
    job: Job, attempt: AttemptDir, node: Node, channel: Optional[Channel], on_network: bool, start: Callable[..., Any]
) -> List[Part]:
    """The parts that this job's agents need; `start` starts a process that dies with the agent."""
    found: List[Part] = []
    if on_network and node.rank == 0:
        from trainkit.boot.lifesign import LifeSign

        found.append(LifeSign(RunDir(job.run_dir), attempt))
    if node.machines and channel is not None:
        from trainkit.boot.relay import Relay

        found.append(Relay(node.rank, node.names, channel.send, start))
    if job.world_size > 1:
        from trainkit.boot.hangs import watch

        found.append(watch(job, attempt, node.rank, node.names, channel))
    first = node.rank * job.ranks_per_node
    ranks = range(first, first + job.ranks_per_node)
    found.append(LogNotes(attempt, node.rank, ranks, job.log_limit_bytes))
    return found
