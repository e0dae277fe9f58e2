"""Reads what runs recorded: metrics, tags and properties, merged from the files of all writers.

Each rank appends to a file of its own, the client to another; they are read whole at each call, also while the run is
still writing. A hundred thousand values take a fraction of a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.boot.metriclog import SCHEMAS
from trainkit.boot.rundir import RunDir, read_json
from trainkit.errors import UserErrorException

Event = dict[str, Any]
_METRIC_KINDS = frozenset(("metric", "list", "row", "table", "image", *SCHEMAS))
_REWIND = b'"k": "rewind"'  # as `trainkit.boot.rundir.encode` writes it


@dataclass(frozen=True)
class Point:
    """One recorded value: when, at which step if the script said so, by which rank."""

    time: float
    step: int | None
    value: Any
    rank: int


def read_events(path: Path) -> list[Event]:
    """All events of one file in the order of writing; torn lines of killed writers are passed over."""
    return _parsed(_bytes(path))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _parsed(data: bytes) -> list[Event]:
    try:  # as one document: twice as fast as line by line
        found = json.loads(b"[" + data.strip(b"\n").replace(b"\n", b",") + b"]")
    except (ValueError, RecursionError):
        found = [_event(line) for line in data.split(b"\n")]
    return [event for event in found if _is_event(event)]


def _is_event(value: Any) -> bool:
    return type(value) is dict and type(value.get("k")) is str and type(value.get("n")) is str


def _event(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def ranks(run_dir: str | Path) -> list[int]:
    """The ranks that recorded anything, ascending."""
    names = (path.stem.removeprefix("rank-") for path in RunDir(run_dir).events.glob("rank-*.jsonl"))
    return sorted(int(name) for name in names if name.isdecimal())


def _of_rank(run_dir: str | Path, rank: int) -> list[Event]:
    """A rank's events; rank 0's are merged with the client's by time."""
    run = RunDir(run_dir)
    found = _standing(run, f"rank-{rank}")
    clients = _standing(run, "client") if rank == 0 else []
    if not clients:
        return found
    return sorted(found + clients, key=_time) if found else clients


def _time(event: Mapping[str, Any]) -> float:
    moment = event.get("t")
    return float(moment) if isinstance(moment, (int, float)) else 0.0


def _attempt(event: Mapping[str, Any]) -> int:
    number = event.get("a")
    return number if isinstance(number, int) else 0


@dataclass(frozen=True)
class _Rewind:
    """A writer's metrics from byte `start` on are void, but those of later attempts and what came after the rewind.

    `void` says whose: "earlier" attempts', the rewind's "own" attempt's, or "both".
    """

    void: str
    start: int
    attempt: int
    time: float
    end: int | None  # where the rewind itself stands; None in another writer's file, where times have to tell

    def voids(self, place: int, event: Event) -> bool:
        if place < self.start or _attempt(event) != self.attempt:
            return self.void != "own" and place >= self.start and _attempt(event) < self.attempt
        if self.void == "earlier":
            return False
        return place < self.end if self.end is not None else _time(event) < self.time


def _rewinds(data: bytes, writer: str, own: bool) -> list[_Rewind]:
    """What the file with this content says of the writer's metrics."""
    found = []
    at = data.find(_REWIND)
    while at >= 0:
        begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        event = _event(data[begin : end if end >= 0 else len(data)])
        if _is_event(event) and event["k"] == "rewind" and isinstance(event.get("v"), dict):
            start = event["v"].get(writer)
            if isinstance(start, int):
                found.append(_Rewind(str(event.get("n")), start, _attempt(event), _time(event), begin if own else None))
        at = data.find(_REWIND, end) if end >= 0 else -1
    return found


def _standing(run: RunDir, writer: str) -> list[Event]:
    """A writer's events without the metrics of stretches that were done again; it or rank 0 has recorded which."""
    data = _bytes(run.events_of(writer))
    rewinds = _rewinds(data, writer, own=True)
    if writer != "rank-0":
        rewinds += _rewinds(_bytes(run.events_of("rank-0")), writer, own=False)
    if not rewinds:
        return _parsed(data)
    first = min(rewind.start for rewind in rewinds)
    kept, place = [], 0
    for line in data.split(b"\n"):
        event = _event(line)
        if _is_event(event) and not (
            place >= first and event["k"] in _METRIC_KINDS and any(r.voids(place, event) for r in rewinds)
        ):
            kept.append(event)
        place += len(line) + 1
    return kept


def metrics(run_dir: str | Path, rank: int | str = 0, name: str | None = None) -> dict[str, Any]:
    """Metrics by name: one value as it is, several as a list; a table as a dict of columns.

    `rank` 0 includes what the client recorded; "all" gives `{rank: {name: value}}`. With `name`, only that metric.
    """
    if rank == "all":
        found = {one: metrics(run_dir, one, name) for one in sorted({0, *ranks(run_dir)})}
        return {one: values for one, values in found.items() if values}  # type: ignore[misc]
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise UserErrorException(f"rank={rank!r}: give a rank's number, from 0, or 'all'.")
    return fold(_of_rank(run_dir, rank), name)


def fold(events: Iterable[Event], name: str | None = None) -> dict[str, Any]:
    """Events, in order, as values by metric name."""
    several: dict[str, list[Any]] = {}
    tables: dict[str, dict[str, list[Any]]] = {}
    lists: set[str] = set()
    for event in events:
        kind, key = event["k"], event["n"]
        if name is not None and key != name:
            continue
        if kind == "metric":  # nearly all are
            if key in several:
                several[key].append(event.get("v"))
            else:
                several[key] = [event.get("v")]
        elif kind in _METRIC_KINDS:
            values = several.setdefault(key, [])
            if kind in ("row", "table"):
                _append_rows(tables.setdefault(key, {}), event.get("v"))
            elif kind == "list":
                values.extend(event["v"] if isinstance(event.get("v"), list) else [])
                lists.add(key)
            else:
                values.append(event.get("v"))
    result: dict[str, Any] = {}
    for key, values in several.items():
        if key in tables:
            result[key] = _table(tables[key])
        else:
            result[key] = values[0] if len(values) == 1 and key not in lists else values
    return result


def _append_rows(columns: dict[str, list[Any]], value: Any) -> None:
    """Add a row, or a table's columns, below what is there; missing cells are None."""
    if not isinstance(value, dict):
        return
    height = max((len(column) for column in columns.values()), default=0)
    added = max((len(cells) if isinstance(cells, list) else 1 for cells in value.values()), default=0)
    for key, cells in value.items():
        column = columns.setdefault(key, [None] * height)
        column.extend(cells if isinstance(cells, list) else [cells])
    for column in columns.values():
        column.extend([None] * (height + added - len(column)))


def _table(columns: dict[str, list[Any]]) -> dict[str, Any]:
    return {key: column[0] if len(column) == 1 else column for key, column in columns.items()}


def points(run_dir: str | Path, name: str, rank: int = 0) -> list[Point]:
    """The single values recorded under one name, with their times and steps."""
    return [
        Point(_time(event), event.get("s"), event.get("v"), rank)
        for event in _of_rank(run_dir, rank)
        if event["k"] == "metric" and event["n"] == name
    ]


def tags(run_dir: str | Path) -> dict[str, Any]:
    """The run's tags: those of its submission, then every later change by any rank or client, the last one counting."""
    run = RunDir(run_dir)
    record = read_json(run.run) or {}
    found: dict[str, Any] = dict(record.get("tags") or {})
    changes = []
    for path in run.events.glob("*.jsonl"):
        data = path.read_bytes()
        if b'"tag"' in data or b'"untag"' in data:
            changes += [event for event in read_events(path) if event["k"] in ("tag", "untag")]
    for event in sorted(changes, key=_time):
        if event["k"] == "tag":
            found[event["n"]] = event.get("v")
        else:
            found.pop(event["n"], None)
    return found


def properties(run_dir: str | Path) -> dict[str, Any]:
    """The run's properties, which are written once."""
    found = [read_json(path) for path in RunDir(run_dir).properties.glob("*.json")]
    return {entry["key"]: entry.get("value") for entry in found if isinstance(entry, dict) and "key" in entry}
