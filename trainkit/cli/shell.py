"""trainkit shell: a shell, or a command, where one rank of a running job runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.cli import find, output
from trainkit.cli.codes import NotFound
from trainkit.errors import LaunchError, UnsupportedJob, UserErrorException
from trainkit.job import Job, boot_command


@click.command()
@click.argument("run")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("-r", "--rank", type=click.IntRange(0), default=0, show_default=True, help="Where this rank runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the command line as JSON instead of running it.")
def shell(run: str, command: tuple[str, ...], rank: int, as_json: bool) -> None:
    """Open a shell where a rank of a running RUN runs, with its environment; or run a COMMAND there.

    \b
    Examples:
      trainkit shell last
      trainkit shell last --rank 3
      trainkit shell last --rank 3 -- nvidia-smi
    """
    path = find.run_dir(find.root(), run)
    attempt = _running(path)
    job = Job.from_json(read_json(attempt.job, "interpreter") or {})
    if rank >= job.world_size:
        raise NotFound(f"{path.name} has no rank {rank}: its ranks are 0 to {job.world_size - 1}.")
    node = rank // job.ranks_per_node
    argv = [*_there(path, attempt, job, node), job.run_dir, str(attempt.number), str(rank), *command]
    if as_json:
        output.print_json({"id": path.name, "attempt": attempt.number, "rank": rank, "node": node, "argv": argv})
        return
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        raise LaunchError(f"{shlex.join(argv)} cannot be run: {error.strerror}.", command=argv) from error


def _running(path: Path) -> AttemptDir:
    """The attempt of a run that is running. Raises UserErrorException for any other run."""
    from trainkit.boot.attempts import launched

    status = find.status(path)[0]
    attempts = launched(RunDir(path)) if RunDir(path).job.exists() else []
    if status != "Running" or not attempts:
        why = f"{path.name} is {status}" if RunDir(path).job.exists() else f"{path.name} was not submitted"
        raise UserErrorException(f"{why}: a shell is opened where a run that was submitted is running.")
    return attempts[-1]


def _there(path: Path, attempt: AttemptDir, job: Job, node: int) -> tuple[str, ...]:
    """The words that enter a rank on that node, without saying which."""
    from trainkit.options import launcher_of, several_machines

    target: dict[str, Any] = (read_json(RunDir(path).job, "target") or {})["target"]
    launcher = launcher_of(str(target["launcher"]), target.get("options") or {})
    if not several_machines(launcher):
        return (sys.executable, "-m", "trainkit.boot.enter")
    open_shell = getattr(launcher, "shell", None)
    if open_shell is None:
        raise UnsupportedJob(
            f"The launcher {target['launcher']!r} cannot open a shell on a node: it has no method `shell`."
        )
    words = open_shell(str((read_json(attempt.handle, "handle") or {})["handle"]), node)
    return (*words, *boot_command(job, "enter"))
