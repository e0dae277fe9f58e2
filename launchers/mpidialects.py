"""How each MPI's mpirun is told where ranks belong: one table, pure functions.

Open MPI 4 starts its daemons on other nodes by `plm_rsh_agent`, Open MPI 5 by `plm_ssh_agent`, MPICH and Intel MPI by
Hydra's `-launcher-exec`: all call it as they would call ssh. Here that is a program which asks the nodes' agents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainkit.errors import LaunchError
from trainkit.job import Command, Job, Node, boot_command, rank_command

from .mpirun import Mpi


@dataclass(frozen=True)
class Place:
    """Where the ranks of a job go: machines with their numbers of ranks, and how this job's nodes are reached."""

    hosts: tuple[tuple[str, int], ...]  # empty where all nodes are on this machine
    program: str  # called like ssh; relative to the run directory, for Open MPI divides it at blanks
    interface: str


@dataclass(frozen=True)
class Dialect:
    """One family of mpirun: its words before the number of ranks, and the variables of mpirun and all ranks."""

    words: Callable[[Place], tuple[str, ...]]
    environment: Callable[[Place], Mapping[str, str]]


def place_of(job: Job, node: Node) -> Place:
    """Raises LaunchError where mpirun would number the ranks in another order than the job's nodes."""
    if list(node.machines) != sorted(node.machines):
        raise LaunchError(
            f"mpirun numbers ranks machine by machine, but this job's nodes alternate between machines "
            f"({', '.join(node.names)}). List the nodes of one machine next to each other, or use the spread torchrun "
            "or fork."
        )
    slots: dict[str, int] = {}
    for machine in node.machines:
        slots[node.names[machine]] = slots.get(node.names[machine], 0) + job.ranks_per_node
    return Place(tuple(slots.items()), f"{folder_of(job)}/ssh", node.interface)


def folder_of(job: Job) -> str:
    """Where programs that stand in for others lie; relative to the run directory, where commands are started."""
    return f"attempts/{job.attempt}/bin"


def slots_of(place: Place) -> str:
    """As `mpirun -H`, Hydra's `-hosts` and `horovodrun -H` take them."""
    return ",".join(f"{name}:{count}" for name, count in place.hosts)


def _open_words(place: Place) -> tuple[str, ...]:
    words = ("--oversubscribe", "--bind-to", "none")
    return (*words, "--map-by", "slot", "-H", slots_of(place)) if place.hosts else words


def _open_mpi(fixed: Mapping[str, str], shell: str, interfaces: tuple[str, ...]) -> Dialect:
    """Open MPI, whose major versions differ in what their variables are called."""

    def environment(place: Place) -> Mapping[str, str]:
        values = dict(fixed)
        if place.hosts:
            values[shell] = place.program
        if place.hosts and place.interface:
            values.update((name, place.interface) for name in interfaces)
        return values

    return Dialect(_open_words, environment)


_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def _hydra_words(place: Place) -> tuple[str, ...]:
    if not place.hosts:
        return ()
    words = ("-launcher", "ssh", "-launcher-exec", place.program, "-genvnone", "-hosts", slots_of(place))
    return (*words, "-iface", place.interface) if place.interface else words


def _hydra(place: Place) -> Mapping[str, str]:
    """libfabric's TCP provider picks an interface of its own, unless it is told which."""
    return {"FI_TCP_IFACE": place.interface} if place.hosts and place.interface else {}


DIALECTS: Mapping[str, Dialect] = {
    "openmpi4": _open_mpi(
        {**_AS_ROOT, "OMPI_MCA_rmaps_base_oversubscribe": "1"},
        "OMPI_MCA_plm_rsh_agent",
        ("OMPI_MCA_oob_tcp_if_include", "OMPI_MCA_btl_tcp_if_include"),
    ),
    "openmpi5": _open_mpi(
        {
            **_AS_ROOT,
            "PRTE_ALLOW_RUN_AS_ROOT": "1",
            "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        },
        "PRTE_MCA_plm_ssh_agent",
        ("PRTE_MCA_prte_if_include", "OMPI_MCA_btl_tcp_if_include"),
    ),
    "mpich": Dialect(_hydra_words, _hydra),
    "intel": Dialect(_hydra_words, _hydra),
}


def command(job: Job, node: Node, mpi: Mpi) -> Command:
    """The head's mpirun for all ranks of the job."""
    place = place_of(job, node)
    dialect = DIALECTS[mpi.dialect]
    environment = {"TRAINKIT_MPI": mpi.words, **dialect.environment(place)}
    environment = {name: job.environment.get(name, value) for name, value in environment.items()}
    if mpi.dialect == "openmpi5":  # of its own: an mpirun that ends takes a folder that all share away from others
        environment["PRTE_MCA_prte_tmpdir_base"] = f"{job.run_dir}/attempts/{job.attempt}/mpi"
    argv = (mpi.mpirun, *dialect.words(place), "-n", str(job.world_size), *rank_command(job))
    if not place.hosts:
        return Command(argv, environment)
    environment["TRAINKIT_CARRY"] = ",".join((*environment, "TRAINKIT_CARRY"))
    return Command((*boot_command(job, "exec"), "--in", folder_of(job), *argv), environment)
