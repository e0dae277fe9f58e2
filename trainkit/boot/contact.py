"""How the ranks of this launch can reach each other: what their environment says, for `trainkit.loops.world`."""

from __future__ import annotations

import os
from typing import Mapping, NamedTuple, Tuple

from trainkit.boot.worlds import World, this_world

_MPI_LAUNCHERS = ("openmpi", "mpich")
# What an MPI library finds its peers by, under the launchers that speak PMIx or PMI.
_PMI = ("PMIX_NAMESPACE", "PMI_FD", "PMI_PORT", "PMI_SPAWNED", "PMI2_SPAWNED")
# Sums in the same order in every run: no two tensors are put into one message, and nothing is tuned while it runs.
_HOROVOD = {"HOROVOD_FUSION_THRESHOLD": "0", "HOROVOD_AUTOTUNE": "0", "HOROVOD_CYCLE_TIME": "0.5"}


class Contact(NamedTuple):
    """This process's launch, and the ways of its ranks to each other."""

    world: World
    backend: str  # that the job asks for; empty if it leaves the choice
    address: bool  # torch.distributed's own variables name a meeting place
    mpi: bool  # the ranks were started as one MPI world
    rendezvous: Tuple[str, int]  # horovodrun's key-value server; ("", 0) if there is none
    in_job: bool  # a trainkit job watches this rank, and ends the others where one fails
    threads: bool  # the user has said how many threads a rank may use


def contact_from(env: Mapping[str, str]) -> Contact:
    """Read `env`; RunEnvironmentException where it contradicts itself."""
    world = this_world(env)
    dialect = world.rank.dialect
    mpi = (
        dialect in _MPI_LAUNCHERS
        or (dialect == "slurm" and any(name in env for name in _PMI))
        or (dialect == "trainkit" and "TRAINKIT_MPI" in env)
    )
    port = env.get("HOROVOD_GLOO_RENDEZVOUS_PORT", "")
    rendezvous = (env.get("HOROVOD_GLOO_RENDEZVOUS_ADDR", ""), int(port)) if port.isdigit() else ("", 0)
    return Contact(
        world,
        env.get("TRAINKIT_BACKEND", ""),
        dialect in ("trainkit", "torchrun") or {"MASTER_ADDR", "MASTER_PORT"} <= set(env),
        mpi,
        rendezvous if dialect == "horovod" else ("", 0),
        dialect == "trainkit",
        _threads_given(env, world),
    )


def here() -> Contact:
    """`contact_from` of this process."""
    return contact_from(os.environ)


def _threads_given(env: Mapping[str, str], world: World) -> bool:
    """Whether OMP_NUM_THREADS is the user's: where nobody said anything, torchrun gives its ranks one thread each."""
    if not env.get("OMP_NUM_THREADS"):
        return False
    if world.rank.dialect != "torchrun" or not world.launcher:
        return True
    from trainkit.boot.processes import environment_of

    return bool(environment_of(int(world.launcher.split(":")[1])).get("OMP_NUM_THREADS"))


def fix_horovod() -> bool:
    """Have Horovod, when it starts, sum in the same order in every run; whether it already had these settings."""
    had = os.environ.get("HOROVOD_FUSION_THRESHOLD") == "0"
    os.environ.update(_HOROVOD)
    return had


def yield_while_waiting() -> None:
    """Have Open MPI leave the processor to others while it waits, when it starts: training computes on it."""
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
