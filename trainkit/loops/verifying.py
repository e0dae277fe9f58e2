"""Proves from a run's record that every epoch saw every sample exactly once, and that its checkpoints are whole.

Each stretch of an epoch that one world has trained on left the digest of the samples it saw. The order of an epoch can
be computed again from its seed, and so can these digests: whatever was killed, resumed or resized in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import RunDir, read_lines
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops import writer
from trainkit.loops.digest import expected
from trainkit.loops.order import Order

Row = Mapping[str, Any]


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
    problems += _gaps(rows)
    problems += [problem for folder in folders for problem in _wrong_checkpoint(folder)]
    parts = [part for row in rows for part in row.get("parts") or () if isinstance(part, dict)]
    seen = sum(int(part["stop"]) - int(part["start"]) for part in parts if _numbers(part))
    worlds, attempts = ({part.get(key) for part in parts} for key in ("world_size", "attempt"))
    return Verified(
        len(rows), seen, tuple(sorted(filter(None, worlds))), tuple(sorted(filter(None, attempts))), len(folders),
        tuple(problems),
    )  # fmt: skip


def accounts(path: Path) -> list[Row]:
    """The rows of the account, in order; of several for an epoch of a fit the last one, which made the others void."""
    found: dict[tuple[Any, Any], Row] = {}
    for row in read_lines(path):
        found[(row.get("fit", 1), row.get("epoch"))] = row
    return list(found.values())


def _where(row: Row) -> str:
    fit = row.get("fit", 1)
    return f"epoch {row.get('epoch')}" + (f" of fit {fit}" if fit != 1 else "")


def wrong_in(row: Row) -> Iterator[str]:
    """What is wrong with one epoch: stretches that are missing, there twice, or saw other samples than they should."""
    try:
        order = Order(int(row["samples"]), int(row["batch"]), int(row["seed"]), bool(row["shuffle"]))
        epoch, parts = int(row["epoch"]), list(row["parts"])
    except (KeyError, TypeError, ValueError, TrainkitError) as error:
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
        yield f"{_where(row)}: its account is damaged (a part has no start, stop or digest)"


def _numbers(part: Any) -> bool:
    return isinstance(part, dict) and all(type(part.get(k)) is int for k in ("start", "stop")) and "digest" in part


def _gaps(rows: list[Row]) -> Iterator[str]:
    """Epochs that are missing between those that there are."""
    fits: dict[Any, set[int]] = {}
    for row in rows:
        if type(row.get("epoch")) is int:
            fits.setdefault(row.get("fit", 1), set()).add(row["epoch"])
    for fit, epochs in fits.items():
        for epoch in sorted(set(range(min(epochs), max(epochs))) - epochs):
            yield f"{_where({'fit': fit, 'epoch': epoch})}: there is no account of it"


def _wrong_checkpoint(folder: Path) -> Iterator[str]:
    try:
        for name, fact in writer.read_manifest(folder)["files"].items():
            writer.read_file(folder / writer.checked_file_name(name), fact)
    except (TrainkitError, OSError) as error:
        yield f"checkpoint {folder.name}: {error}"
