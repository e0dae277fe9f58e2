"""The command line of horovodrun: which nodes, which network interface, and as few variables as it can do with.

It starts ranks on other nodes by `ssh`, for which it finds a program that asks the nodes' agents instead.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from trainkit.errors import LaunchError
from trainkit.job import Command, Job, Node, boot_command, rank_command

from .mpidialects import folder_of, place_of, slots_of

# What horovodrun itself needs. It shows its variables on command lines, so it sees no others; ranks have all.
_ITS_OWN = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH")


def hosts_of(job: Job, node: Node) -> str:
    """The job's machines and their ranks, as `horovodrun -H` takes them."""
    return slots_of(place_of(job, node)) or f"localhost:{job.world_size}"


def command(
    job: Job, node: Node, words: tuple[str, ...], carried: Mapping[str, str], programs: tuple[str, ...]
) -> Command:
    """The head's horovodrun: `words` say how, `carried` are variables of it and of all ranks.

    `programs` are options of `trainkit.boot.programs`. Raises LaunchError where the interpreter has no Horovod.
    """
    horovodrun = os.path.join(os.path.dirname(job.interpreter), "horovodrun")
    if not os.access(horovodrun, os.X_OK):
        raise LaunchError(
            f"There is no horovodrun beside {job.interpreter}: install Horovod there (pip install horovod)."
        )
    environment = {**carried, "TRAINKIT_CARRY": ",".join((*carried, "TRAINKIT_CARRY"))}
    place = place_of(job, node)
    interface = place.interface if len(place.hosts) > 1 else "lo"  # horovodrun meets ranks of its own machine there
    argv = (horovodrun, "-np", str(job.world_size), "--disable-cache", "--network-interfaces", interface, *words)
    folder = os.path.join(job.run_dir, folder_of(job))
    # Ranks that horovodrun starts itself, on the head, have its few variables; the others those of their agents.
    begin = f'PATH="${{PATH#{shlex.quote(folder)}:}}"; [ -n "$TRAINKIT_RUN_ID" ] || . "$0"; exec "$@"'
    rank = ("/bin/sh", "-c", begin, f"{folder}/environment", *rank_command(job))
    only = ",".join((*_ITS_OWN, *carried))
    return Command(
        (*boot_command(job, "exec"), "--in", folder_of(job), *programs, "--only", only, *argv, *rank), environment
    )


def discovery_script(job: Job) -> str:
    """The program that prints who lives, as a shell takes it: horovodrun gives it to one."""
    return shlex.quote(os.path.join(job.run_dir, folder_of(job), "hosts"))
