"""Ranks as processes of horovodrun, which thinks that it starts them by ssh: through gloo, through MPI, or elastic."""

from __future__ import annotations

import os
import shlex

from trainkit.errors import LaunchError
from trainkit.job import Command, Job, Node, rank_command

from ..mpidialects import DIALECTS, exec_command, folder_of, place_of, slots_of
from ..mpirun import find_mpi

# What horovodrun itself needs. It shows its variables on command lines, so it sees no others; ranks have all.
_ITS_OWN = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH")


def horovod(job: Job, node: Node) -> list[Command]:
    """One horovodrun, on the head, whose ranks find each other through gloo."""
    return [_horovodrun(job, node, ("--gloo",))] if node.rank == 0 else []


def horovod_mpi(job: Job, node: Node) -> list[Command]:
    """One horovodrun, on the head, that has mpirun start the ranks: the one of the MPI library that they load."""
    if node.rank != 0:
        return []
    found = find_mpi(job.interpreter)
    environment = {"TRAINKIT_MPI": found.words, **DIALECTS[found.dialect].environment(place_of(job, node))}
    words = ("--mpi", "--binding-args=--bind-to none --map-by slot", "--mpi-args=--oversubscribe")
    words = words if found.kind == "openmpi" else words[:1]  # Horovod's own are those of Open MPI 4 alone
    return [_horovodrun(job, node, words, environment, ("--mpirun", found.mpirun))]


def horovod_elastic(job: Job, node: Node) -> list[Command]:
    """One horovodrun, on the head, that goes on with the nodes that are left, down to the job's `min_nodes`."""
    if node.rank != 0:
        return []
    hosts = slots_of(place_of(job, node)) or f"localhost:{job.world_size}"
    least = (job.min_nodes or job.nodes) * job.ranks_per_node
    words = ("--gloo", "--min-np", str(least), "--max-np", str(job.world_size))
    script = os.path.join(job.run_dir, folder_of(job), "hosts")
    return [_horovodrun(job, node, (*words, "--host-discovery-script", shlex.quote(script)), {}, ("--hosts", hosts))]


def _horovodrun(
    job: Job, node: Node, words: tuple[str, ...], carried: dict[str, str] | None = None, programs: tuple[str, ...] = ()
) -> Command:
    place, carried = place_of(job, node), carried or {}
    horovodrun = os.path.join(os.path.dirname(job.interpreter), "horovodrun")
    if not os.access(horovodrun, os.X_OK):
        raise LaunchError(
            f"There is no horovodrun beside {job.interpreter}: install Horovod there (pip install horovod)."
        )
    environment = {**carried, "TRAINKIT_CARRY": ",".join((*carried, "TRAINKIT_CARRY"))}
    where = () if "--host-discovery-script" in words else ("-H", slots_of(place) or f"localhost:{job.world_size}")
    interface = place.interface or "lo"
    argv = (
        horovodrun,
        "-np",
        str(job.world_size),
        *where,
        "--disable-cache",
        "--network-interfaces",
        interface,
        *words,
    )
    folder = os.path.join(job.run_dir, folder_of(job))
    # Ranks that horovodrun starts itself, on the head, have its few variables; the others those of their agents.
    begin = f'PATH="${{PATH#{shlex.quote(folder)}:}}"; [ -n "$TRAINKIT_RUN_ID" ] || . "$0"; exec "$@"'
    rank = ("/bin/sh", "-c", begin, f"{folder}/environment", *rank_command(job))
    only = ",".join((*_ITS_OWN, *carried))
    return Command((*exec_command(job), "--in", folder_of(job), *programs, "--only", only, *argv, *rank), environment)
