"""Opens a shell, or runs a command, in the place of one rank that runs on this node: its environment, its directory.

    python -m trainkit.boot.enter RUN_DIR ATTEMPT RANK [COMMAND WORDS...]

The environment is what the kernel says that the rank's process was started with, and what its shim has added to that
for the script. Nothing is written; this process becomes the shell.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Dict, List, Mapping, NamedTuple, Optional

from trainkit.boot.identity import rank_environment
from trainkit.boot.inside import IN_CONTAINER, seen_here
from trainkit.boot.processes import children_of, environment_of
from trainkit.boot.ranks import Rank, rank_from
from trainkit.boot.rundir import RunDir, read_json
from trainkit.boot.shims import shims_of
from trainkit.errors import RunEnvironmentException, TrainkitError
from trainkit.job import Job, boot_command

_NOT_FOUND = 3
_NO_SUCH_COMMAND = 127
_OF_TERMINALS = ("TERM", "COLORTERM", "LANG", "LC_ALL")  # of whoever looks, not of the job


class Place(NamedTuple):
    """Where a rank runs: its script's process, directory and environment."""

    pid: int
    directory: str
    environment: Dict[str, str]


def find(run_id: str, attempt: int, rank: int) -> Optional[Place]:
    """The place of a rank that runs on this node; None where it does not."""
    for pid in shims_of(run_id):
        env = environment_of(pid)
        if env.get("TRAINKIT_ATTEMPT") != str(attempt) or _rank_in(env) != rank:
            continue
        script = next(iter(children_of(pid)), None)
        job = read_json(RunDir(env["TRAINKIT_RUN_DIR"]).attempt(attempt).job)
        if script is None or job is None:
            continue
        directory = _directory_of(script) or str(RunDir(env["TRAINKIT_RUN_DIR"]).code)
        return Place(script, directory, {**env, **_told(seen_here(Job.from_json(job), env), env)})
    return None


def _rank_in(env: Mapping[str, str]) -> int:
    """Which rank a shim with this environment is; -1 where it does not know."""
    try:
        found = rank_from(env)
    except RunEnvironmentException:
        return -1
    return found.rank


def _told(job: Job, env: Mapping[str, str]) -> Dict[str, str]:
    """What a shim with this environment tells its script."""
    found = rank_from(env)
    node, local = divmod(found.rank, job.ranks_per_node)
    rank = Rank(found.rank, job.world_size, local, job.ranks_per_node, node, found.dialect, found.world)
    return rank_environment(job, rank, env)


def _directory_of(pid: int) -> str:
    try:
        return os.readlink("/proc/%d/cwd" % pid)
    except OSError:
        return ""


def _run_id(run_dir: str, attempt: int) -> str:
    """The run's id; on a node that holds its files elsewhere, the directory's name, which is the same."""
    job = read_json(RunDir(run_dir).attempt(attempt).job) or {}
    return str(job.get("run_id") or os.path.basename(run_dir.rstrip("/")))


def _missing(run_dir: str, attempt: int, rank: int) -> str:
    """Why a rank is not here."""
    run = RunDir(run_dir)
    if run.attempt(attempt).rank_record(rank).exists():
        return "rank %d of %s has ended" % (rank, run.path.name)
    return "rank %d of %s does not run on %s; it has not begun yet, or is on another node" % (
        rank,
        run.path.name,
        socket.gethostname(),
    )


def _into_container(argv: List[str]) -> None:
    """Become this same program in the job's container on this node, where the job has one and this is not it."""
    values = read_json(RunDir(argv[0]).attempt(int(argv[1])).job)
    job = None if values is None or IN_CONTAINER in os.environ else Job.from_json(values)
    if job is None or job.container is None or not job.container.engine:
        return
    from trainkit.boot.guard import enter

    words = boot_command(job, "enter", job.container.interpreter)
    node = int(argv[2]) // job.ranks_per_node
    command = enter(job, int(argv[1]), node, [*words, *argv])
    os.execvp(command[0], command)


def main(argv: List[str]) -> int:
    """Entry point of `python -m trainkit.boot.enter`; returns only where there is nothing to enter."""
    if len(argv) < 3 or not argv[1].isdigit() or not argv[2].isdigit():
        sys.stderr.write("usage: enter RUN_DIR ATTEMPT RANK [COMMAND WORDS...]\n")
        return 2
    run_dir, attempt, rank, words = argv[0], int(argv[1]), int(argv[2]), argv[3:]
    try:
        _into_container(argv)
        place = find(_run_id(run_dir, attempt), attempt, rank)
    except TrainkitError as error:
        sys.stderr.write("trainkit: %s\n" % error.message)
        return _NOT_FOUND
    if place is None:
        sys.stderr.write("trainkit: %s.\n" % _missing(run_dir, attempt, rank))
        return _NOT_FOUND
    words = words or [os.environ.get("SHELL") or "/bin/sh"]
    environment = {**place.environment, **{n: os.environ[n] for n in _OF_TERMINALS if n in os.environ}}
    try:
        os.chdir(place.directory)
        os.execvpe(words[0], words, environment)
    except OSError as error:
        sys.stderr.write("trainkit: %s cannot be run in %s: %s.\n" % (words[0], place.directory, error.strerror))
        return _NO_SUCH_COMMAND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
