"""Who am I, inside a rank: every launcher's dialect in one table, read in one place.

`rank_from(env)` reads it; `without_ranks(env)` removes every trace of an outer launcher, so that a job started from
inside an mpirun, torchrun or srun does not take itself for a rank of that one.
"""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple, Optional, Tuple

from trainkit.errors import RunEnvironmentException


class Rank(NamedTuple):  # not a dataclass: that module costs every rank 10 ms
    """One process's place in its world."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node_rank: int = 0
    dialect: str = ""  # the launcher that said so; empty for a process on its own
    world: str = ""  # the same text in all ranks of this world and in no other


class _Dialect(NamedTuple):
    """The names under which one launcher tells a rank who it is; absent ones are derived."""

    name: str
    rank: str
    world_size: str
    local_rank: str
    local_size: str
    node_rank: str
    world: Tuple[str, ...]


# Tried in this order: what started this very process comes before what an outer allocation left behind.
_DIALECTS = (
    _Dialect(
        "trainkit",
        "TRAINKIT_RANK",
        "TRAINKIT_WORLD_SIZE",
        "TRAINKIT_LOCAL_RANK",
        "TRAINKIT_LOCAL_WORLD_SIZE",
        "TRAINKIT_NODE_RANK",
        ("TRAINKIT_RUN_ID", "TRAINKIT_ATTEMPT"),
    ),
    _Dialect(
        "torchrun",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"),
    ),
    _Dialect(
        "openmpi",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "",
        ("PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri"),
    ),
    _Dialect(
        "horovod",
        "HOROVOD_RANK",
        "HOROVOD_SIZE",
        "HOROVOD_LOCAL_RANK",
        "HOROVOD_LOCAL_SIZE",
        "HOROVOD_CROSS_RANK",
        ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"),
    ),
    _Dialect("mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "", ("PMI_PORT", "PMI_ID_SPACE")),
    _Dialect(
        "slurm",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_LOCALID",
        "SLURM_NTASKS_PER_NODE",
        "SLURM_NODEID",
        ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    ),
)

_PREFIXES = (
    "OMPI_",
    "PMIX_",
    "PRTE_",
    "PMI_",
    "HYDI_",
    "MPIR_CVAR_",
    "HOROVOD_",
    "TORCHELASTIC_",
    "SLURM_",
    "TRAINKIT_",
    "AZUREML_",
    "AZ_BATCH",
    "MPI_LOCAL",
)
_NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_NAME",
    "ROLE_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCHFT_MANAGER_PORT",
)
# The user's own settings of these families: they say how to run, not who one is.
_KEPT = (
    "OMPI_ALLOW_RUN_AS_ROOT",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
    "OMPI_MCA_btl",
    "OMPI_MCA_pml",
    "OMPI_MCA_btl_tcp_if_include",
    "TRAINKIT_HOME",
    "TRAINKIT_CACHE",
    "TRAINKIT_TEST_DATA",
    "TRAINKIT_TEST_DOCUMENTS",
)


def _number(env: Mapping[str, str], name: str, dialect: str) -> Optional[int]:
    text = env.get(name, "") if name else ""
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise RunEnvironmentException(
            "%s=%r is not a number, but %s sets it to this process's place in the job; unset it, or correct the "
            "launcher that set it." % (name, text, dialect)
        ) from None


def rank_from(env: Mapping[str, str]) -> Rank:
    """This process's place in its world, by the first dialect that names both a rank and a size.

    Raises RunEnvironmentException where a variable has no number, or the rank is not below the size.
    """
    for d in _DIALECTS:
        rank, size = _number(env, d.rank, d.name), _number(env, d.world_size, d.name)
        if rank is None or size is None or (d.name == "slurm" and "SLURM_STEP_ID" not in env):
            continue
        if not 0 <= rank < size:
            raise RunEnvironmentException(
                "%s=%d and %s=%d contradict each other: a rank is at least 0 and below the size."
                % (d.rank, rank, d.world_size, size)
            )
        local_size = _number(env, d.local_size, d.name) or 1
        local_rank = _number(env, d.local_rank, d.name)
        if local_rank is None:
            local_rank = rank % local_size
        node_rank = _number(env, d.node_rank, d.name)
        if node_rank is None:
            node_rank = rank // local_size
        world = "-".join(env[name] for name in d.world if env.get(name))
        return Rank(rank, size, local_rank, local_size, node_rank, d.name, world)
    return Rank()


def without_ranks(env: Mapping[str, str]) -> Dict[str, str]:
    """A copy of `env` without any variable by which a launcher tells a process who it is."""
    return {
        name: value
        for name, value in env.items()
        if name in _KEPT or not (name in _NAMES or name.startswith(_PREFIXES))
    }
