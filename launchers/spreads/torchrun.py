"""Ranks as workers of torchrun: static rendezvous, no restarts of its own."""

from __future__ import annotations

from trainkit.job import Command, Job, Node, rank_command


def torchrun(job: Job, node: Node) -> list[Command]:
    """One torchrun a node; node 0 hosts the rendezvous. Spelled as every torchrun takes it, also those before 2.0."""
    options = {
        "--nnodes": job.nodes,
        "--node_rank": node.rank,
        "--nproc_per_node": job.ranks_per_node,
        "--master_addr": node.head,
        "--master_port": node.port,
        "--max_restarts": 0,
        "--rdzv_id": f"{job.run_id}-{job.attempt}",
    }
    words = [f"{name}={value}" for name, value in options.items()]
    argv = [job.interpreter, "-m", "torch.distributed.run", *words, "--no_python", *rank_command(job)]
    return [Command(tuple(argv))]
