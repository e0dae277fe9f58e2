"""trainkit logs, wait: what a run prints, while it runs and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trainkit.boot.rundir import TERMINAL, RunDir, read_json
from trainkit.cli import codes, find, output
from trainkit.cli.codes import NotFound
from trainkit.cli.follow import ALL, Follower, rank_logs


def until_ended(path: Path, step: Callable[[], bool] = lambda: False) -> str:
    """Wait for the run's end, calling `step`, which tells whether there was news, again and again; its final status."""
    from trainkit.console import wait as wait_until

    find.status(path)
    wait_until(RunDir(path), step)
    return find.status(path)[0]


def wait_for(path: Path, *, show_output: bool, rank: str = "0", as_json: bool = False) -> int:
    """Wait until the run has ended, printing its log or its stages; the exit code that says how it ended."""
    from trainkit.outcome import status_of

    follower = Follower(path, rank)
    said: list[tuple[str, str]] = []

    def tell_stage() -> bool:
        stage = status_of(path)
        if as_json or stage in said:
            return False
        said.append(stage)
        click.echo(f"{stage[0]}: {stage[1]}" if stage[1] and stage[0] != "Failed" else stage[0], err=True)
        return False  # a stage is no reason to look again at once

    try:
        status = until_ended(path, follower.step if show_output else tell_stage)
    except KeyboardInterrupt:
        name = path.name
        click.echo(
            f"\nThe run goes on. `trainkit wait {name}` waits again, `trainkit cancel {name}` ends it.", err=True
        )
        return codes.INTERRUPTED
    if show_output:
        follower.finish()
    if status == "Failed" and not as_json:
        _tell_why(path)
    return codes.OF_STATUS[status]


def _tell_why(path: Path) -> None:
    from trainkit.outcome import describe

    verdict = (read_json(RunDir(path).state, "status") or {}).get("verdict") or {}
    click.echo(f"trainkit: {path.name} failed: {describe(verdict)}", err=True)


def _rank(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if value == ALL or value.isdigit():
        return value
    raise click.BadParameter(f"{value!r} is neither a rank (0, 1, ...) nor `{ALL}`", ctx, parameter)


@click.command()
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended, and exit as it did.")
@click.option("-r", "--rank", default="0", show_default=True, callback=_rank, help="Which rank's log, or `all`.")
@output.json_option
def logs(run: str, follow: bool, rank: str, as_json: bool) -> int:
    """Print what a RUN printed.

    \b
    Examples:
      trainkit logs last -f
      trainkit logs 4f2a90c1 --rank 1
      trainkit logs last --rank all
    """
    path = find.run_dir(find.root(), run)
    if not RunDir(path).job.exists():
        raise NotFound(f"{path.name} was not submitted, so its output went to its own terminal and was not kept.")
    if follow and not as_json:
        return wait_for(path, show_output=True, rank=rank)
    status = until_ended(path) if follow else find.status(path)[0]
    if as_json:
        output.print_json({"id": path.name, "status": status, "logs": _whole(path, rank)})
        return codes.OF_STATUS[status] if follow else codes.DONE
    _tell_attempts(RunDir(path))
    follower = Follower(path, rank)
    follower.finish()
    if not follower.printed and status in TERMINAL:
        _check_rank(path, rank)
    return codes.DONE


def _tell_attempts(run: RunDir) -> None:
    attempts = run.attempts()
    if len(attempts) > 1:
        click.echo(f"trainkit: this is attempt {len(attempts)}; logs of earlier ones: {attempts[0].logs}", err=True)


def _whole(path: Path, rank: str) -> dict[str, str]:
    run = RunDir(path)
    found = {"prepare": run.prepare_log} if run.prepare_log.exists() else {}
    found.update((str(number), log) for number, log in rank_logs(run, rank).items())
    return {name: log.read_text(encoding="utf-8", errors="replace") for name, log in found.items()}


def _check_rank(path: Path, rank: str) -> None:
    record: dict[str, Any] = read_json(RunDir(path).run) or {}
    world = int(record.get("nodes", 1)) * int(record.get("ranks_per_node", 1))
    if rank != ALL and int(rank) >= world:
        raise NotFound(f"{path.name} has no rank {rank}: its ranks are 0 to {world - 1}.")


@click.command()
@click.argument("run")
@output.json_option
def wait(run: str, as_json: bool) -> int:
    """Wait until a RUN has ended, and exit as it did: 0 completed, 1 failed, 4 canceled.

    \b
    Examples:
      trainkit wait last && trainkit download last outputs/model.pt
    """
    path = find.run_dir(find.root(), run)
    code = wait_for(path, show_output=False, as_json=as_json)
    if as_json and code != codes.INTERRUPTED:
        state = read_json(RunDir(path).state, "status") or {}
        output.print_json({"id": path.name, "status": state.get("status"), "verdict": state.get("verdict")})
    return code
