"""What was typed, as workspaces and runs: a run's id, the beginning or end of one, or `last`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainkit.boot.rundir import RunDir
from trainkit.cli.codes import NotFound
from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.run import Run
    from trainkit.workspace import Workspace

LAST = "last"


def workspace() -> Workspace:
    """The workspace of `--workspace`, else the one around the current directory."""
    from trainkit.workspace import Workspace

    found = Workspace.from_config(path=_named())
    _adopt(found.root)
    return found


def _named() -> str | None:
    """What --workspace says."""
    named: str | None = click.get_current_context().find_root().obj["workspace"]
    return named


def root() -> Path:
    """The directory of the workspace's files; cheaper than `workspace`, for commands that only read."""
    from trainkit.boot.config import load_config, require_config

    found = load_config(require_config(Path(_named() or "."))).root
    _adopt(found)
    return found


def _adopt(root: Path) -> None:
    """After a restart of the machine, the first command goes on with what was queued."""
    if (root / "targets").is_dir():
        from trainkit.drivers import adopt

        adopt(root)


def run_dirs(root: Path) -> Iterator[Path]:
    """Directories of all runs, in no order."""
    from trainkit.boot.newrun import NAME_RULE
    from trainkit.boot.newrun import run_dirs as of_experiment

    for folder in (root / "runs").glob("*"):
        if NAME_RULE.fullmatch(folder.name):
            yield from of_experiment(root, folder.name)


def run_dir(root: Path, text: str) -> Path:
    """The directory of the run that `text` means. Raises NotFound, or UserErrorException where it means several."""
    from trainkit.boot.newrun import find_run

    exact = find_run(root, text)
    if exact is not None:
        return exact
    if text == LAST:
        from trainkit.summaries import newest

        for path, _ in newest(root):
            return path
        raise NotFound(f"There is no run in {root} yet; `trainkit submit SCRIPT` makes one.")
    fitting = [path for path in run_dirs(root) if text and (path.name.startswith(text) or path.name.endswith(text))]
    if not fitting:
        raise NotFound(f"There is no run {text!r} in {root}; `trainkit runs` lists them.")
    if len(fitting) > 1:
        names = ", ".join(sorted(path.name for path in fitting)[:4])
        more = f" and {len(fitting) - 4} more" if len(fitting) > 4 else ""
        raise UserErrorException(f"{text!r} means {len(fitting)} runs: {names}{more}; type more of the id.")
    return fitting[0]


def run(text: str) -> Run:
    """The run that `text` means."""
    space = workspace()
    return space.get_run(run_dir(space.root, text).name)


def status(path: Path) -> tuple[str, str]:
    """A run's status and its details; a run that has lost its driver gets a new one, a script that died is noticed."""
    from trainkit.rundetails import look

    return look(RunDir(path))


def pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE texts as a dict."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UserErrorException(f"{option} {text!r}: it must be KEY=VALUE.")
        found[key] = value
    return found
