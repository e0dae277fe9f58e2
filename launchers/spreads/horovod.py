"""Ranks as processes of horovodrun, which thinks that it starts them by ssh: through gloo, through MPI, or elastic."""

from __future__ import annotations

from trainkit.job import Command, Job, Node

from ..horovodrun import command, discovery_script, hosts_of
from ..mpidialects import DIALECTS, place_of
from ..mpirun import find_mpi

_OPEN_MPI = ("--binding-args=--bind-to none --map-by slot", "--mpi-args=--oversubscribe")  # of 4 and of 5


def horovod(job: Job, node: Node) -> list[Command]:
    """One horovodrun, on the head, whose ranks find each other through gloo."""
    return [command(job, node, ("--gloo", "-H", hosts_of(job, node)), {}, ())] if node.rank == 0 else []


def horovod_mpi(job: Job, node: Node) -> list[Command]:
    """One horovodrun, on the head, that has mpirun start the ranks: the one of the MPI library that they load."""
    if node.rank != 0:
        return []
    found = find_mpi(job.interpreter)
    environment = {"TRAINKIT_MPI": found.words, **DIALECTS[found.dialect].environment(place_of(job, node))}
    words = ("--mpi", "-H", hosts_of(job, node), *(_OPEN_MPI if found.kind == "openmpi" else ()))
    return [command(job, node, words, environment, ("--mpirun", found.mpirun))]


class _Elastic:
    """Says of itself that a node or a rank that is lost is its own affair, and not the agents'."""

    owns_restarts = True

    def __call__(self, job: Job, node: Node) -> list[Command]:
        """One horovodrun, on the head, that goes on with the nodes that are left, down to the job's `min_nodes`."""
        if node.rank != 0:
            return []
        least = (job.min_nodes or job.nodes) * job.ranks_per_node
        script = ("--host-discovery-script", discovery_script(job))
        words = ("--gloo", "--min-np", str(least), "--max-np", str(job.world_size), *script)
        return [command(job, node, words, {}, ("--hosts", hosts_of(job, node)))]


horovod_elastic = _Elastic()
