"""What an agent does beside starting and ending ranks: each a part of its own, with the same few calls.

The agent calls `step` in every turn of its loop (at least every 50 ms), offers each message of other nodes' agents to
`take`, and calls `close` once when all is over. A part never waits.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Protocol

from trainkit.boot.channel import Channel
from trainkit.boot.lognotes import LogNotes
from trainkit.boot.rundir import AttemptDir
from trainkit.job import Job, Node


class Part(Protocol):
    """One of the agent's other tasks."""

    ended_by: str  # why the job should end, in one sentence; empty while there is no reason

    def environment(self) -> Dict[str, str]:
        """What this node's ranks are told about it."""
        ...

    def step(self) -> None:
        """Do what is due."""
        ...

    def take(self, node: int, message: Dict[str, Any]) -> bool:
        """Take in a message of a node's agent; whether it was meant for this part."""
        ...

    def lost(self, node: int) -> None:
        """A node is gone."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def parts_of(
    job: Job, attempt: AttemptDir, node: Node, channel: Optional[Channel], on_network: bool, start: Callable[..., Any]
) -> List[Part]:
    """The parts that this job's agents need; `start` starts a process that dies with the agent."""
    found: List[Part] = []
    if on_network and node.rank == 0:
        from trainkit.boot.lifesign import LifeSign

        found.append(LifeSign(attempt))
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
