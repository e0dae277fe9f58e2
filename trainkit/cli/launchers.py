"""trainkit launchers: where jobs can run, and how nodes can become ranks, with what each may be told."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint
from typing import Any

import click

from trainkit.cli import output


@click.command()
@output.json_option
def launchers(as_json: bool) -> None:
    """List the launchers (where jobs run) and spreads (how a node becomes ranks) that are installed, with their fields.

    One that fails to import is listed with the cause.

    \b
    Examples:
      trainkit launchers
      trainkit launchers --json
    """
    from trainkit.boot import plugins

    rows = [
        _described(kind, name, owner, point)
        for kind, group in (("launcher", plugins.LAUNCHERS), ("spread", plugins.SPREADS))
        for name, points in sorted(plugins.found(group).items())
        for owner, point in points
    ]
    output.emit(rows, as_json, "" if as_json else "\n".join(_text(row) for row in rows))


def _described(kind: str, name: str, owner: str, point: EntryPoint) -> dict[str, Any]:
    """One plug-in as plain values; `problem` says why it cannot be used."""
    from trainkit import options

    row: dict[str, Any] = {"kind": kind, "name": name, "distribution": owner, "object": point.value}
    row.update(words="", fields=[], several_machines=None, problem=None)
    try:
        loaded = point.load()
        if kind == "launcher":
            row.update(fields=options.described(loaded), several_machines=options.several_machines(loaded))
    except Exception as error:
        return {**row, "problem": f"{type(error).__name__}: {error}"}
    words = (inspect.getdoc(loaded) or "").partition("\n")[0]
    generated = words.startswith(f"{getattr(loaded, '__name__', '')}(")  # what dataclass writes where there is none
    return {**row, "words": "" if generated else words}


def _text(row: dict[str, Any]) -> str:
    """One plug-in for people: a line of names, one of words, and its fields."""
    lines = [f"{row['kind']} {row['name']}  ({row['distribution']}: {row['object']})"]
    if row["problem"]:
        return "\n".join([*lines, f"    cannot be used: {output.cell(row['problem'])}"])
    lines += [f"    {output.cell(row['words'])}"] if row["words"] else []
    width = max((len(field["name"]) for field in row["fields"]), default=0)
    return "\n".join(lines + [f"    {field['name'].ljust(width)}  {_field(field)}" for field in row["fields"]])


def _field(field: dict[str, Any]) -> str:
    return f"{field['type']}, needed" if field["required"] else f"{field['type']}, by default {field['default']!r}"
