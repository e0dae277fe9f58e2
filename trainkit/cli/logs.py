"""trainkit logs, wait: what a run prints, while it runs and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from trainkit.boot.rundir import TERMINAL, RunDir, read_json
from trainkit.cli import codes, find, output
from trainkit.cli.codes import NotFound
from trainkit.cli.follow import ALL, NEWEST, Chosen, Follower, whole, world_of
from trainkit.ranklog import readable


def until_ended(path: Path, step: Callable[[], bool] = lambda: False) -> str:
    """Wait for the run's end, calling `step`, which tells whether there was news, again and again; its final status."""
    from trainkit.console import wait as wait_until

    find.status(path)
    wait_until(RunDir(path), step)
    return find.status(path)[0]


def wait_for(path: Path, *, show_output: bool, chosen: Chosen = NEWEST, as_json: bool = False) -> int:
    """Wait until the run has ended, printing its logs or its stages; the exit code that says how it ended."""
    from trainkit.outcome import status_of

    follower = Follower(path, chosen)
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
    from trainkit.sentences import describe

    verdict = (read_json(RunDir(path).state, "status") or {}).get("verdict") or {}
    click.echo(f"trainkit: {path.name} failed: {describe(verdict)}", err=True)


def _rank(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if value in ("", ALL) or value.isdigit():
        return value
    raise click.BadParameter(f"{value!r} is neither a rank (0, 1, ...) nor `{ALL}`", ctx, parameter)


@click.command()
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended, and exit as it did.")
@click.option(
    "-r",
    "--rank",
    default="",
    callback=_rank,
    help="One rank's log as it is; without it, or `all`: all of them in one.",
)
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt's logs; without it the newest's.")
@click.option("--no-fold", is_flag=True, help="Print lines that several ranks have in common once for each.")
@output.json_option
def logs(run: str, follow: bool, rank: str, attempt: int | None, no_fold: bool, as_json: bool) -> int:
    """Print what a RUN printed: of several ranks in the order of time, lines that are the same said once.

    \b
    Examples:
      trainkit logs last -f
      trainkit logs 4f2a90c1 --rank 1
      trainkit logs last --attempt 1 --no-fold
    """
    path, chosen = find.run_dir(find.root(), run), Chosen(rank, attempt, not no_fold)
    if not RunDir(path).job.exists():
        raise NotFound(f"{path.name} was not submitted, so its output went to its own terminal and was not kept.")
    _check_attempt(path, attempt)
    if follow and not as_json:
        return wait_for(path, show_output=True, chosen=chosen)
    status = until_ended(path) if follow else find.status(path)[0]
    if as_json:
        output.print_json({"id": path.name, "status": status, "logs": whole(path, chosen)})
        return codes.OF_STATUS[status] if follow else codes.DONE
    if attempt is None:
        _tell_attempts(RunDir(path))
    follower = Follower(path, chosen)
    follower.pin_cause()
    follower.finish()
    if not follower.printed and status in TERMINAL:
        _check_rank(path, rank)
    return codes.DONE


def _tell_attempts(run: RunDir) -> None:
    attempts = readable(run)
    if len(attempts) > 1:
        words = f"`trainkit logs {run.path.name} --attempt N` prints an earlier one's"
        click.echo(f"trainkit: this is attempt {attempts[-1].number}; {words}.", err=True)


def _check_attempt(path: Path, number: int | None) -> None:
    there = [attempt.number for attempt in RunDir(path).attempts()]
    if number is not None and number not in there:
        words = f"its attempts are {there[0]} to {there[-1]}" if there else "none of its attempts has begun"
        raise NotFound(f"{path.name} has no attempt {number}: {words}.")


def _check_rank(path: Path, rank: str) -> None:
    world = world_of(path)
    if rank.isdigit() and int(rank) >= world:
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
