"""Proves from a run's record that every epoch saw every sample exactly once, and that its checkpoints are whole.

Each stretch of an epoch that one world has trained on left the digest of the samples it saw. The order of an epoch can
be computed again from its seed, and so can these digests: whatever was killed, resumed or resized in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit import events
from trainkit.boot.rundir import RunDir, read_lines
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops import writer
from trainkit.loops.digest import expected
from trainkit.loops.order import Order

Row = Mapping[str, Any]
_MANY = 1_000_000  # epochs: a number beyond is damage


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what of it is wrong; nothing is where `problems` is empty."""

    epochs: int
    samples: int  # seen, over all epochs
    worlds: tuple[int, ...]  # numbers of ranks that have trained
    attempts: tuple[int, ...]
    checkpoints: int
    problems: tuple[str, ...]


def verify(directory: Path) -> Verified:
    """Verify a run. Raises UserErrorException where it left nothing that could be: it trained by no loop."""
    run = RunDir(directory)
    rows = accounts(run.samples)
    folders = sorted({path.parent for path in run.checkpoints.rglob(writer.MANIFEST)})
    if not rows and not folders:
        raise UserErrorException(
            f"{directory.name} left no account of its samples and no checkpoint: no epoch of a training loop has ended "
            "in it."
        )
    problems = [problem for row in rows for problem in wrong_in(row)]
    problems += _gaps(rows, _ended(folders), "resumed_from" in events.tags(directory))
    problems += [problem for folder in folders for problem in _wrong_checkpoint(folder)]
    parts = [part for row in rows for part in _list(row.get("parts")) if _numbers(part)]
    seen = sum(part["stop"] - part["start"] for part in parts)
    worlds, attempts = (tuple(sorted({part[key] for part in parts})) for key in ("world_size", "attempt"))
    return Verified(len(rows), seen, worlds, attempts, len(folders), tuple(problems))


def accounts(path: Path) -> list[Row]:
    """The rows of the account, in order; of several for an epoch of a fit the last one, which made the others void."""
    found: dict[tuple[Any, Any], Row] = {}
    for row in read_lines(path):
        found[(str(row.get("fit", 1)), str(row.get("epoch")))] = row
    return list(found.values())


def _where(row: Row) -> str:
    fit = row.get("fit", 1)
    return f"epoch {row.get('epoch')}" + (f" of fit {fit}" if fit != 1 else "")


def wrong_in(row: Row) -> Iterator[str]:
    """What is wrong with one epoch: stretches that are missing, there twice, or saw other samples than they should."""
    known = all(_whole(row.get(name)) for name in ("samples", "batch", "seed", "epoch"))
    if not known or type(row.get("shuffle")) is not bool or not isinstance(row.get("parts"), list):
        yield f"{_where(row)}: its account is damaged (a number, or its list of parts, is missing or no such thing)"
        return
    epoch, parts = row["epoch"], row["parts"]
    try:
        order = Order(row["samples"], row["batch"], row["seed"], row["shuffle"])
        order.epoch(epoch)
    except (TrainkitError, ValueError, OverflowError, MemoryError) as error:
        yield f"{_where(row)}: its account is damaged ({error})"
        return
    at = 0
    for part in sorted((part for part in parts if _numbers(part)), key=lambda part: (part["start"], part["stop"])):
        start, stop = part["start"], part["stop"]
        if start > at:
            yield f"{_where(row)}: samples {at} to {start} were not seen"
        elif start < at:
            yield f"{_where(row)}: samples {start} to {min(at, stop)} were seen twice"
        if not 0 <= start <= stop <= order.count:
            yield f"{_where(row)}: samples {start} to {stop} are not of its {order.count}"
        elif f"{expected(order, epoch, start, stop):032x}" != str(part["digest"]):
            yield (
                f"{_where(row)}: samples {start} to {stop} (attempt {part.get('attempt')}, {part.get('world_size')} "
                "ranks) are not those that the order says"
            )
        at = max(at, stop)
    if at < order.count:
        yield f"{_where(row)}: samples {at} to {order.count} were not seen"
    if not all(_numbers(part) for part in parts):
        yield f"{_where(row)}: its account is damaged (a part lacks start, stop, ranks, attempt or digest)"


def _numbers(part: Any) -> bool:
    numbers = ("start", "stop", "world_size", "attempt")
    return isinstance(part, dict) and all(_whole(part.get(key)) for key in numbers) and "digest" in part


def _whole(value: object) -> bool:
    return type(value) is int and value >= 0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _ended(folders: list[Path]) -> dict[int, int]:
    """By fit: how many of its epochs have ended, as far as its checkpoints know."""
    found: dict[int, int] = {}
    for folder in folders:
        with suppress(TrainkitError, OSError, ValueError, LookupError, TypeError):
            state = json.loads((folder / "state.json").read_bytes())["state"]
            fit, ended = state["fit"], int(state["position"]["epoch"])
            each = -(-fit["samples"] // fit["batch"])
            name = folder.parent.name
            number = int(name.removeprefix("fit-")) if name.startswith("fit-") else 1
            found[number] = max(found.get(number, 0), min(ended, fit["steps"] // each))  # a part of an epoch has no row
    return found


def _gaps(rows: list[Row], ended: Mapping[int, int], went_on: bool) -> Iterator[str]:
    """Epochs that are missing: before the first where the run did not go on from another one, between, and after."""
    fits: dict[int, set[int]] = {number: set() for number in ended}
    for row in rows:
        if _whole(row.get("epoch")) and row["epoch"] < _MANY and _whole(row.get("fit", 1)):
            fits.setdefault(row.get("fit", 1), set()).add(row["epoch"])
    for fit, epochs in fits.items():
        first = min(epochs, default=ended.get(fit, 0)) if went_on else 0
        stop = max(max(epochs, default=0), ended.get(fit, 0))
        for epoch in sorted(set(range(first, stop)) - epochs):
            yield f"{_where({'fit': fit, 'epoch': epoch})}: there is no account of it"


def _wrong_checkpoint(folder: Path) -> Iterator[str]:
    try:
        for name, fact in writer.read_manifest(folder)["files"].items():
            writer.read_file(folder / writer.checked_file_name(name), fact)
    except (TrainkitError, OSError) as error:
        yield f"checkpoint {folder.name}: {error}"
