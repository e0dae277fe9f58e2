"""What a rank's script finds in its environment: trainkit's names, those of torch.distributed, of Open MPI and of the
Azure ML SDK v1, all saying the same, so that scripts written for any of them run unchanged.
"""

from __future__ import annotations

from typing import Dict, Mapping

from trainkit.boot.ranks import Rank
from trainkit.job import Job, Node

# Which network interface torch.distributed's backends use, where a node may have several.
_INTERFACE_NAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def job_environment(job: Job, node: Node) -> Dict[str, str]:
    """What all ranks of a node share; the node's agent sets it."""
    head = "%s:%d" % (node.head, node.port)
    values = {
        "TRAINKIT_RUN_DIR": job.run_dir,
        "TRAINKIT_RUN_ID": job.run_id,
        "TRAINKIT_EXPERIMENT": job.experiment,
        "TRAINKIT_ATTEMPT": str(job.attempt),
        "TRAINKIT_BACKEND": job.backend,
        "TRAINKIT_NODES": ",".join(node.names),
        "MASTER_ADDR": node.head,
        "MASTER_PORT": str(node.port),
        "AZUREML_RUN_ID": job.run_id,
        "AZUREML_ARM_PROJECT_NAME": job.experiment,
        "AZUREML_EXPERIMENT_ID": job.experiment,
        "AZUREML_OUTPUT_DIRECTORY": "./outputs",
        "AZ_BATCHAI_MPI_MASTER_NODE": node.head,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if job.nodes > 1:
        values["AZ_BATCH_MASTER_NODE"] = head
    if node.machines:
        values["TRAINKIT_SEVERAL_MACHINES"] = "1"
    if node.interface and job.nodes > 1:
        for name in _INTERFACE_NAMES:
            values[name] = job.environment.get(name, node.interface)
    return values


def node_environment(job: Job, node_rank: int, several_machines: bool = False) -> Dict[str, str]:
    """What one node's processes see: where several logical nodes share a machine, each has its share of the GPUs."""
    if not job.gpus_per_node:
        return {"CUDA_VISIBLE_DEVICES": ""}
    if several_machines:  # each has its own, and what assigned them has said which
        return {}
    first, last = node_rank * job.gpus_per_node, (node_rank + 1) * job.gpus_per_node
    ids = job.environment.get("TRAINKIT_GPUS", "")  # those counted at submit; without them, the machine's first ones
    chosen = ids.split(",")[first:last] if ids else [str(n) for n in range(first, last)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}


def rank_environment(job: Job, rank: Rank, env: Mapping[str, str]) -> Dict[str, str]:
    """What one rank alone sees: its place, in every family of names."""
    names = env.get("TRAINKIT_NODES", "").split(",")
    place = {
        "RANK": rank.rank,
        "WORLD_SIZE": rank.world_size,
        "LOCAL_RANK": rank.local_rank,
        "LOCAL_WORLD_SIZE": rank.local_size,
        "NODE_RANK": rank.node_rank,
        "GROUP_RANK": rank.node_rank,
        "TRAINKIT_RANK": rank.rank,
        "TRAINKIT_WORLD_SIZE": rank.world_size,
        "TRAINKIT_LOCAL_RANK": rank.local_rank,
        "TRAINKIT_LOCAL_WORLD_SIZE": rank.local_size,
        "TRAINKIT_NODE_RANK": rank.node_rank,
        "AZ_BATCHAI_TASK_INDEX": rank.rank,
    }
    values = {name: str(value) for name, value in place.items()}
    values["TRAINKIT_NODE_NAME"] = names[rank.node_rank] if rank.node_rank < len(names) else ""
    values["AZ_BATCHAI_PYTORCH_INIT_METHOD"] = "tcp://%s:%s" % (env.get("MASTER_ADDR", ""), env.get("MASTER_PORT", ""))
    if rank.dialect != "openmpi":  # Open MPI's own processes get these from it, and its library reads them
        values.update(
            OMPI_COMM_WORLD_RANK=str(rank.rank),
            OMPI_COMM_WORLD_SIZE=str(rank.world_size),
            OMPI_COMM_WORLD_LOCAL_RANK=str(rank.local_rank),
            OMPI_COMM_WORLD_LOCAL_SIZE=str(rank.local_size),
        )
    values.update(node_environment(job, rank.node_rank, "TRAINKIT_SEVERAL_MACHINES" in env))
    if job.command:  # the command makes ranks of its own: what it starts says who it is
        return {name: value for name, value in values.items() if not name.startswith("TRAINKIT_") or "NODE" in name}
    return values
