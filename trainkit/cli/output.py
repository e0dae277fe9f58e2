"""How commands print: one value, as text for people or as JSON for programs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Adds --json, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def plain(value: Any) -> Any:
    """`value` with only what JSON has a form for: NaN and infinities become the texts NaN, Infinity, -Infinity."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return plain(value.item()) if hasattr(value, "item") else str(value)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a small alphabet, or half a character
        text = json.dumps(plain(value), indent=2, allow_nan=False)
    click.echo(text)


def emit(value: Any, as_json: bool, text: str) -> None:
    """Print `value` as JSON, or `text`."""
    if as_json:
        print_json(value)
    elif text:
        click.echo(text)


def table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Columns as wide as their widest cell; numbers to the right. Only the header where there are no rows."""
    cells = [[cell(value) for value in row] for row in rows]
    numbers = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(header))]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line([name.upper() for name in header]), *(line(row) for row in cells)])


def fields(pairs: Iterable[tuple[str, Any]]) -> str:
    """`name   value` lines; what is empty is left out."""
    kept = [(name, cell(value)) for name, value in pairs if value not in (None, "", [], {}, ())]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in kept)


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace("-", "", 1).isdigit() or cell in ("", "-")


def cell(value: Any) -> str:
    """A value as one line of text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    # A name or a tag may hold line ends or terminal codes of others' making: shown, never obeyed.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def ago(moment: float | None, now: float | None = None) -> str:
    """A point in time as a person says it: 12 s ago, 3 h ago, or the date."""
    if moment is None:
        return "-"
    seconds = (time.time() if now is None else now) - moment
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago" if seconds < 30 * 86400 else time.strftime("%F", _local(moment))
    return f"{max(seconds, 0):.0f} s ago"


def clock(moment: float | None) -> str:
    """A point in time, exactly."""
    return "-" if moment is None else time.strftime("%F %T", _local(moment))


def _local(moment: float) -> time.struct_time:
    return time.localtime(moment)


def span(seconds: float | None) -> str:
    """A length of time: 0.8 s, 42 s, 3:07, 2:05:10."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(count: float) -> str:
    """A number of bytes: 0 B, 12.3 kB, 4.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def here(path: Path) -> str:
    """A path as short as it can be typed from the current directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
