"""Which launch a rank belongs to: for ranks that no trainkit job started, so that all of one launch find each other.

The variables of a launcher are not enough: two launches of `torchrun train.py` one after the other have the same ones.
Where all ranks are on one machine, the process that started them tells the launches apart.
"""

from __future__ import annotations

import os
import sys
from typing import Mapping, NamedTuple

from trainkit.boot.ranks import Rank, rank_from

RUN_DIR = "TRAINKIT_RUN_DIR"  # set in a job's ranks
_FAMILY = (
    "TRAINKIT_OFFLINE_RUN"  # "pid:run directory", set by an offline run for the processes that Python forks off it
)


class World(NamedTuple):
    """This process's rank, and the launch that it belongs to."""

    rank: Rank
    key: str  # the same in all ranks of this launch, and in no other launch; empty for a process on its own
    launcher: str  # the process that started the ranks of this machine (see `processes.identity`); empty if unknown


def _launcher(rank: Rank) -> str:
    """The nearest ancestor that is not part of this rank, as a shell script around the program would be."""
    from trainkit.boot.processes import environment_of, identity, parent_of

    pid = os.getppid()
    while pid > 1:
        try:
            other = rank_from(environment_of(pid))
        except Exception:  # a stranger's environment that makes no sense is not this rank's
            other = Rank()
        if (other.dialect, other.world, other.rank) != (rank.dialect, rank.world, rank.rank):
            return identity(pid)
        pid = parent_of(pid)
    return ""


def this_world(env: Mapping[str, str]) -> World:
    """The launch of this process by its environment; RunEnvironmentException where that contradicts itself."""
    import hashlib

    rank = rank_from(env)
    if rank.world_size == 1 or not rank.world:
        return World(rank, "", "")
    one_machine = rank.local_size == rank.world_size
    launcher = _launcher(rank) if one_machine else ""
    text = "\n".join((rank.dialect, rank.world, str(rank.world_size), launcher))
    return World(rank, hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32], launcher)


def here() -> World:
    """`this_world` of this process."""
    return this_world(os.environ)


def adopt_children(run_dir: str) -> None:
    """Let the processes that Python's multiprocessing starts from here find this process's run."""
    os.environ[_FAMILY] = "%d:%s" % (os.getpid(), run_dir)


def parents_run() -> str:
    """The run directory of the process that started this one through Python's multiprocessing; empty if none."""
    pid, _, run_dir = os.environ.get(_FAMILY, "").partition(":")
    if not run_dir or "multiprocessing.process" not in sys.modules:
        return ""
    parent = sys.modules["multiprocessing.process"].parent_process()
    return run_dir if parent is not None and str(parent.pid) == pid else ""
