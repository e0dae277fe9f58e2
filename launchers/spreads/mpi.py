"""Ranks as processes of mpirun: the one that belongs to the MPI library which the job's interpreter loads."""

from __future__ import annotations

from trainkit.job import Command, Job, Node, rank_command

from ..mpirun import find_mpi


def mpi(job: Job, node: Node) -> list[Command]:
    """One mpirun, on the head, for all ranks; where one machine hosts several nodes, ranks belong to them in order."""
    if node.rank != 0:
        return []
    library = find_mpi(job.interpreter)
    environment = {"TRAINKIT_MPI": library.words}
    size = str(job.world_size)
    if library.kind != "openmpi":
        return [Command((library.mpirun, "-n", size, *rank_command(job)), environment)]
    environment.update(
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_ALLOW_RUN_AS_ROOT="1",
        PRTE_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe",
        # of its own: an mpirun that ends takes a folder that all share away from one that starts
        PRTE_MCA_prte_tmpdir_base=f"{job.run_dir}/attempts/{job.attempt}/mpi",
    )
    return [
        Command((library.mpirun, "--oversubscribe", "--bind-to", "none", "-n", size, *rank_command(job)), environment)
    ]
