"""trainkit env: the environments that were built in the workspace: virtual environments and images."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from trainkit.cli import codes, find, output, packages
from trainkit.cli.codes import NotFound
from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.environment import Environment
    from trainkit.prepare import Prepared
    from trainkit.prepare.inventory import Entry
    from trainkit.workspace import Workspace

_KINDS = {"dockerfile": "image of a Dockerfile", "packages": "image with packages"}
_NAMES = 8  # that an error lists
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@click.group(invoke_without_command=True)
@output.json_option
@click.pass_context
def env(ctx: click.Context, as_json: bool) -> None:
    """List, show, build or remove environments: packages and images. Without a command: list.

    Jobs build what they need, once, and use it again; nothing has to be done here. An ENVIRONMENT is a digest, the
    beginning of one, or a name: what the list shows.

    \b
    Examples:
      trainkit env
      trainkit env build --pip timm==1.0.31
      trainkit env build --image pytorch/pytorch:latest --pip timm
      trainkit env prune --older-than 30d
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


@env.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """List environments, the one used last first."""
    _list(as_json)


def _list(as_json: bool) -> None:
    from trainkit.prepare.inventory import entries

    found = [(entry, entry.bytes()) for entry in entries(find.root())]
    rows = [
        [entry.digest, entry.name, _kind(entry), entry.engine or "-", "-" if size is None else output.size(size),
         output.ago(entry.used), len(entry.runs)]
        for entry, size in found
    ]  # fmt: skip
    header = ["environment", "name", "kind", "engine", "size", "used", "runs"]
    output.emit(
        [_short(entry, size) for entry, size in found],
        as_json,
        output.table(rows, header) if rows else "No environments.",
    )


def _kind(entry: Entry) -> str:
    return _KINDS.get(entry.kind, entry.kind)


def _short(entry: Entry, size: int | None) -> dict[str, Any]:
    return {
        "digest": entry.digest, "name": entry.name, "kind": entry.kind, "engine": entry.engine or None,
        "bytes": size, "used": entry.used, "runs": list(entry.runs),
    }  # fmt: skip


@env.command("show")
@click.argument("environment")
@output.json_option
def show(environment: str, as_json: bool) -> None:
    """Tell all about an ENVIRONMENT: what went into it, and the runs not yet ended that use it."""
    entry = _one(environment)
    value = {**entry.to_json(), "name": entry.name, "path": str(entry.path), "bytes": entry.bytes()}
    inputs = {key.replace("_", " "): _line(item) for key, item in value.get("inputs", {}).items()}
    image = [("image", value.get("image")), ("of", [b["digest"] or b["name"] for b in value.get("bases", ())])]
    pairs = [
        ("environment", entry.digest), ("name", entry.name), ("kind", _kind(entry)), ("engine", entry.engine),
        *image, ("interpreter", value.get("interpreter")), ("path", value["path"]),
        ("size", "" if value["bytes"] is None else output.size(value["bytes"])),
        ("built", output.clock(value.get("built"))), ("used", output.clock(entry.used)), ("used by", value["runs"]),
        *((f"of {key}", item) for key, item in inputs.items() if key not in ("kind", "engine", "format", "image")),
    ]  # fmt: skip
    output.emit(value, as_json, output.fields(pairs))


def _line(item: Any) -> Any:
    if isinstance(item, dict):
        return ", ".join(f"{key} {value}" for key, value in item.items())
    return f"{len(item)} of them" if isinstance(item, list) and len(item) > 12 else item


@env.command("build")
@click.argument("name", required=False)
@packages.options
@output.json_option
def build(name: str | None, as_json: bool, **options: Any) -> None:
    """Build what a job with these options would use, or a registered environment by its NAME or NAME:VERSION."""
    from trainkit.environment import Environment

    workspace = find.workspace()
    asked = any(options[key] for key in ("packages", "env_file", "isolated", "image", "dockerfile"))
    if name and (asked or options["engine"]):
        raise UserErrorException("A registered environment has all that it needs: leave the other options out.")
    if name:
        known, _, version = name.partition(":")
        environment = Environment.get(workspace, known, version or None)
    elif asked:
        environment = packages.environment_of(options)
    else:
        raise UserErrorException("Say what to build: packages (--pip, --env-file), an image, or a registered name.")
    with contextlib.redirect_stdout(sys.stderr):
        prepared = _built(environment, workspace, show_output=not as_json)
    value = {
        "digest": prepared.digest, "reused": prepared.reused, "interpreter": prepared.interpreter,
        "image": prepared.container.image if prepared.container else None, "words": prepared.words,
    }  # fmt: skip
    output.emit(value, as_json, prepared.digest or prepared.words)


def _built(environment: Environment, workspace: Workspace, show_output: bool) -> Prepared:
    """Build an environment. A signal that asks for this process's end is obeyed once nothing half made is left."""
    signals: list[int] = []
    going = None

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        if going is not None:
            going.cancel()

    wanted = [number for number in _ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = [signal.signal(number, stop) for number in wanted]
    try:
        going = environment.build(workspace)
        if signals:
            going.cancel()
        going.wait_for_completion(show_output)
    except Exception:  # the build was canceled, its installer had the signal too, or the terminal is gone
        if not signals:
            raise
        if going is not None:
            with contextlib.suppress(Exception):
                going.wait_for_completion(show_output=False)
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)
    if signals:
        os.kill(os.getpid(), signals[0])
        raise KeyboardInterrupt
    assert going is not None and going.prepared is not None
    return going.prepared


@env.command("prune")
@click.argument("environments", nargs=-1, metavar="[ENVIRONMENT...]")
@click.option("--older-than", metavar="AGE", help="Those not used for so long: 30d, 12h, 0d for all.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@output.json_option
def prune(environments: tuple[str, ...], older_than: str | None, dry_run: bool, as_json: bool) -> int:
    """Remove environments: those named, or those not used for a while. What a run not yet ended uses stays."""
    from trainkit.prepare.inventory import entries, remove, remove_unfinished

    if bool(environments) == (older_than is not None):
        raise UserErrorException("Name the environments to remove, or give --older-than, as in '--older-than 30d'.")
    root = find.root()
    chosen = [_one(text) for text in environments]
    if older_than is not None:
        before = time.time() - _seconds(older_than)
        chosen = [entry for entry in entries(root) if entry.used <= before]
        if not dry_run:
            remove_unfinished(root, before)
    removed, stayed = [], {}
    for entry in chosen:
        why = f"the run {entry.runs[0]} uses it" if entry.runs else "" if dry_run else remove(root, entry)
        if why:
            stayed[entry.digest] = why
        else:
            removed.append(entry.digest)
    verb = "Would remove" if dry_run else "Removed"
    lines = [f"{verb} {len(removed)} environment(s){': ' if removed else ''}{', '.join(removed)}."]
    lines += [f"{digest} stays: {why.rstrip('.')}." for digest, why in stayed.items()]
    output.emit({"removed": removed, "stayed": stayed, "dry_run": dry_run}, as_json, "\n".join(lines))
    return codes.USAGE if environments and stayed else codes.DONE


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+)([dhms])", age.strip())
    if match is None:
        raise UserErrorException(f"--older-than {age!r}: it must be a number with d, h, m or s, as in 30d.")
    return float(match[1]) * _SECONDS[match[2]]


def _one(text: str) -> Entry:
    """The environment that a text means."""
    from trainkit.prepare.inventory import entries, fitting

    root = find.root()
    every = entries(root)
    found = fitting(every, text)
    if not found:
        names = list(dict.fromkeys(entry.name or entry.digest for entry in every))
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        known = f"there are {', '.join(names[:_NAMES])}{more}; `trainkit env` lists them" if names else "there are none"
        raise NotFound(f"There is no environment {text!r} in {root}: {known}.")
    if len(found) > 1:
        digests = ", ".join(entry.digest for entry in found[:4])
        raise UserErrorException(f"{text!r} means {len(found)} environments: {digests}; type more of the digest.")
    return found[0]
