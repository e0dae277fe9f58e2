"""trainkit models: the workspace's model registry."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainkit.cli import find, output
from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.model import Model


@click.group(invoke_without_command=True)
@output.json_option
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List, show, register, download or delete models. Without a command: list the newest version of each.

    A MODEL is a name, which means its newest version, or NAME:VERSION.

    \b
    Examples:
      trainkit models register birds outputs/model.pt --run last
      trainkit models
      trainkit models show birds:1
      trainkit models download birds -o model
    """
    if ctx.invoked_subcommand is None:
        _list(None, False, as_json)


@models.command("list")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Every version, not only the newest.")
@output.json_option
def list_(name: str | None, every: bool, as_json: bool) -> None:
    """List models, or with NAME the versions of one."""
    _list(name, every, as_json)


def _list(name: str | None, every: bool, as_json: bool) -> None:
    from trainkit.model import Model

    found = Model.list(find.workspace(), name=name, latest=not (every or name))
    rows = [
        [m.name, m.version, output.ago(m.created_time.timestamp()), m.run_id, len(m.files), m.description or ""]
        for m in found
    ]
    text = output.table(rows, ["model", "version", "created", "run", "files", "description"]) if rows else "No models."
    output.emit([m.serialize() for m in found], as_json, text)


@models.command("show")
@click.argument("model")
@output.json_option
def show(model: str, as_json: bool) -> None:
    """Tell all about a MODEL: its files, and the run, code, data and environment that it is of."""
    found = registered(model)
    value = found.serialize()
    output.emit(value, as_json, "" if as_json else _page(value))


def _page(value: dict[str, Any]) -> str:
    pairs = [(name, item) for name, item in value.items() if not isinstance(item, (dict, list))]
    pairs += [("tags", [f"{k}={v}" for k, v in value["tags"].items()])]
    pairs += [(f"of {name}", _line(item)) for name, item in value["lineage"].items()]
    rows = [
        [file["name"], output.size(file.get("bytes", file.get("size", 0))), file["sha256"]] for file in value["files"]
    ]
    return output.fields(pairs) + "\n\n" + output.table(rows, ["file", "size", "sha256"])


def _line(item: Any) -> Any:
    return ", ".join(f"{k} {v}" for k, v in item.items() if v) if isinstance(item, dict) else item


@models.command("register")
@click.argument("name")
@click.argument("path")
@click.option("--run", "run", metavar="RUN", help="PATH is a file or folder of this run; else of this machine.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="May be given more than once.")
@click.option("--description", metavar="TEXT")
@output.json_option
def register(
    name: str, path: str, run: str | None, tags: tuple[str, ...], description: str | None, as_json: bool
) -> None:
    """Register PATH, a file or a folder, as the next version of the model NAME."""
    from trainkit.model import Model

    labels = find.pairs("--tag", tags)
    with contextlib.redirect_stdout(io.StringIO()):
        if run is not None:
            made = find.run(run).register_model(name, path, tags=labels, description=description)
        else:
            made = Model.register(find.workspace(), path, name, tags=labels, description=description)
    text = f"Model {made.name}, version {made.version}: {len(made.files)} file(s)."
    output.emit(made.serialize(), as_json, text)


@models.command("download")
@click.argument("model")
@click.option("-o", "--output", "target", type=click.Path(file_okay=False, path_type=Path), default=".", metavar="DIR",
              help="Where to.  [default: the current directory]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over files that exist.")
@output.json_option
def download(model: str, target: Path, force: bool, as_json: bool) -> None:
    """Copy a MODEL's files; each is checked against its checksum."""
    path = registered(model).download(target_dir=str(target), exist_ok=force)
    output.emit({"model": model, "path": str(Path(path).absolute())}, as_json, str(path))


@models.command("delete")
@click.argument("model")
@output.json_option
def delete(model: str, as_json: bool) -> None:
    """Delete one version of a model: NAME:VERSION. Its number is not given again."""
    if ":" not in model:
        raise UserErrorException(
            f"Which version of {model!r}? Type {model}:VERSION; `trainkit models list {model}` lists."
        )
    found = registered(model)
    found.delete()
    output.emit({"id": found.id, "deleted": True}, as_json, f"Model {found.id} is deleted.")


def registered(text: str) -> Model:
    """The registered model that NAME or NAME:VERSION means."""
    from trainkit.model import Model

    name, colon, version = text.partition(":")
    if colon and not version.isdigit():
        raise UserErrorException(f"{text!r} is not a model: type NAME, or NAME:VERSION with a number.")
    return Model(find.workspace(), name, version=int(version) if colon else None)
