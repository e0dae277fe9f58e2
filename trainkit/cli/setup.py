"""trainkit init, snapshot: a workspace, and what of a directory a job would get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from trainkit.cli import output
from trainkit.errors import UserErrorException


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--name", help="The workspace's name.  [default: the directory's name]")
@output.json_option
def init(directory: Path, name: str | None, as_json: bool) -> None:
    """Make DIRECTORY (default: this one) a workspace: config.json, and .trainkit/ for all that it records.

    Does nothing where it is one already.

    \b
    Examples:
      trainkit init
      trainkit init ~/pets --name pets
    """
    from trainkit.workspace import Workspace

    directory = directory.expanduser().absolute()
    if name is None and (directory / "config.json").is_file():
        made = Workspace.from_config(path=directory / "config.json")
        made.prepare_root()
    else:
        made = Workspace.create(name or _name_for(directory), path=directory, exist_ok=True)
    value = {"name": made.name, "config": str(made.config.path), "root": str(made.root)}
    text = f"Workspace {made.name}: {output.here(made.config.path)}; runs and models go to {output.here(made.root)}/"
    output.emit(value, as_json, text)


def _name_for(directory: Path) -> str:
    """A name that the rule for names allows, as near to the directory's as can be."""
    name = re.sub(r"[^\w-]+", "-", directory.name, flags=re.ASCII).strip("-_")[:33]
    return name if len(name) >= 3 else f"workspace-{name}".rstrip("-")


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option("--dry-run", is_flag=True, help="Only list what would go, and what is left out and why.")
@output.json_option
def snapshot(source: Path, dry_run: bool, as_json: bool) -> None:
    """List what a job that is submitted from SOURCE (default: here) would get of it.

    `submit` takes the snapshot itself; this command only shows it. Ignored files are named by .gitignore files at any
    level, or by one .amlignore.

    \b
    Examples:
      trainkit snapshot --dry-run
      trainkit snapshot src --dry-run --json
    """
    if not dry_run:
        raise UserErrorException("`trainkit submit` takes the snapshot; `trainkit snapshot --dry-run` lists it.")
    from trainkit.boot.config import find_config, load_config
    from trainkit.snapshot import listing

    config = find_config(source.absolute())
    found = listing(source, load_config(config).root if config else None)
    value = {
        "source": str(source.absolute()),
        "files": {file.path: file.bytes for file in found.files},
        "bytes": found.bytes,
        "left_out": found.left_out,
    }
    output.emit(value, as_json, "" if as_json else _listing(value))


def _listing(value: dict[str, Any]) -> str:
    lines = [f"{output.size(count):>9}  {output.cell(name)}" for name, count in value["files"].items()]
    lines += [f"{'left out':>9}  {output.cell(words)}" for words in value["left_out"]]
    lines.append(f"{output.size(value['bytes']):>9}  in {len(value['files'])} files of {value['source']}")
    return "\n".join(lines)
