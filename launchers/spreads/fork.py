"""Ranks as plain processes of the node's agent."""

from __future__ import annotations

from trainkit.job import Command, Job, Node, rank_command


def fork(job: Job, node: Node) -> list[Command]:
    """One command a rank, each told who it is by torch.distributed's own variables."""
    return [
        Command(
            rank_command(job),
            {
                "RANK": str(node.rank * job.ranks_per_node + local),
                "WORLD_SIZE": str(job.world_size),
                "LOCAL_RANK": str(local),
                "LOCAL_WORLD_SIZE": str(job.ranks_per_node),
                "GROUP_RANK": str(node.rank),
            },
        )
        for local in range(job.ranks_per_node)
    ]
