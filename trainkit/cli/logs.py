"""trainkit logs, wait: what a run prints, while it runs and after."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from trainkit.boot.rundir import TERMINAL, RunDir, read_json
from trainkit.cli import codes, find, output
from trainkit.cli.codes import NotFound

_FASTEST_SECONDS, _SLOWEST_SECONDS = 0.05, 0.5
ALL = "all"


class Tail:
    """One growing file: `more` returns what was added since it was asked last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def more(self) -> str:
        """The new text; nothing where there is none, or no file yet."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return ""
        self._at += len(data)
        return self._decode(data)


class Prefixed:
    """Prints several files' text as whole lines, each with its rank in front."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._rest = ""

    def lines(self, text: str, final: bool = False) -> str:
        """`text` as lines with the prefix; an unfinished line waits for its end."""
        *whole, self._rest = (self._rest + text).split("\n")
        if final and self._rest:
            whole.append(self._rest)
            self._rest = ""
        return "".join(f"{self.prefix}{line}\n" for line in whole)


class Follower:
    """Prints the logs of the chosen ranks of a run's newest attempt, and before that what preparing it prints."""

    def __init__(self, path: Path, rank: str) -> None:
        self.run = RunDir(path)
        self.rank = rank
        self._prepare = Tail(self.run.prepare_log)
        self._tails: dict[Path, tuple[Tail, Prefixed | None]] = {}

    def step(self, final: bool = False) -> bool:
        """Print what is new; whether there was anything."""
        text = self._prepare.more()
        for log in self._logs():
            if log not in self._tails:
                prefix = f"[{log.stem.rpartition('-')[2]}] "
                self._tails[log] = (Tail(log), Prefixed(prefix) if self.rank == ALL else None)
        for tail, prefixed in self._tails.values():
            more = tail.more()
            text += prefixed.lines(more, final) if prefixed else more
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
        return bool(text)

    def _logs(self) -> list[Path]:
        attempts = self.run.attempts()
        if not attempts:
            return []
        if self.rank != ALL:
            return [attempts[-1].rank_log(int(self.rank))]
        return sorted(attempts[-1].logs.glob("rank-*.log"), key=lambda log: int(log.stem.rpartition("-")[2]))


def pauses() -> Iterator[float]:
    """How long to sleep between looks: short at first, for short runs."""
    seconds = _FASTEST_SECONDS
    while True:
        yield seconds
        seconds = min(seconds * 1.2, _SLOWEST_SECONDS)


def until_ended(path: Path, look: Callable[[], object] = lambda: None) -> str:
    """Wait for the run's end, calling `look` again and again; its final status."""
    for pause in pauses():
        status = find.status(path)[0]
        look()
        if status in TERMINAL:
            return status
        time.sleep(pause)
    raise AssertionError("pauses() does not end")


def wait_for(path: Path, *, show_output: bool, rank: str = "0", as_json: bool = False) -> int:
    """Wait until the run has ended, printing its log or its stages; the exit code that says how it ended."""
    follower = Follower(path, rank)
    seen: list[tuple[str, str]] = []

    def look() -> None:
        if show_output:
            follower.step()
            return
        stage = find.status(path)
        if not as_json and stage not in seen:
            seen.append(stage)
            click.echo(f"{stage[0]}: {stage[1]}" if stage[1] and stage[0] != "Failed" else stage[0], err=True)

    try:
        status = until_ended(path, look)
    except KeyboardInterrupt:
        name = path.name
        click.echo(
            f"\nThe run goes on. `trainkit wait {name}` waits again, `trainkit cancel {name}` ends it.", err=True
        )
        return codes.INTERRUPTED
    if show_output:
        follower.step(final=True)
    if status == "Failed" and not as_json:
        _tell_why(path)
    return codes.OF_STATUS[status]


def _tell_why(path: Path) -> None:
    from trainkit.outcome import describe

    verdict = (read_json(RunDir(path).state) or {}).get("verdict") or {}
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
    if not Follower(path, rank).step(final=True) and status in TERMINAL:
        _check_rank(path, rank)
    return codes.DONE


def _whole(path: Path, rank: str) -> dict[str, str]:
    run = RunDir(path)
    attempts = run.attempts()
    found = {"prepare": run.prepare_log} if run.prepare_log.exists() else {}
    for log in attempts[-1].logs.glob("rank-*.log") if attempts else ():
        number = log.stem.rpartition("-")[2]
        if rank in (ALL, number):
            found[number] = log
    return {name: log.read_text(encoding="utf-8", errors="replace") for name, log in sorted(found.items())}


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
        state = read_json(RunDir(path).state) or {}
        output.print_json({"id": path.name, "status": state.get("status"), "verdict": state.get("verdict")})
    return code
