"""Ranks as processes of mpirun: the one that belongs to the MPI library which the job's interpreter loads."""

from __future__ import annotations

from trainkit.errors import LaunchError
from trainkit.job import Command, Job, Node

from ..mpidialects import command
from ..mpirun import find_mpi


def mpi(job: Job, node: Node) -> list[Command]:
    """One mpirun, on the head, for all ranks; where one machine hosts several nodes, ranks belong to them in order.

    On other machines it starts its daemons through the nodes' agents. Raises LaunchError on a machine that has no
    mpirun that fits the job's MPI library.
    """
    if node.rank != 0 and (not node.machines or node.machines[node.rank] != node.rank):
        return []
    try:
        found = find_mpi(job.interpreter)
    except LaunchError as error:
        where = f"On node {node.rank} ({node.name}): " if node.machines else ""
        raise LaunchError(where + error.message) from error
    return [command(job, node, found)] if node.rank == 0 else []
