"""Ranks as workers of torchrun: static rendezvous, no restarts of its own."""

from __future__ import annotations

from trainkit.job import Command, Job, Node, rank_command


def torchrun(job: Job, node: Node) -> list[Command]:
    """One torchrun a node; node 0 hosts the rendezvous."""
    options = {
        "--nnodes": job.nodes,
        "--node-rank": node.rank,
        "--nproc-per-node": job.ranks_per_node,
        "--master-addr": node.head,
        "--master-port": node.port,
        "--max-restarts": 0,
        "--rdzv-id": f"{job.run_id}-{job.attempt}",
    }
    words = [f"{name}={value}" for name, value in options.items()]
    argv = [job.interpreter, "-m", "torch.distributed.run", *words, "--no-python", *rank_command(job)]
    return [Command(tuple(argv))]
