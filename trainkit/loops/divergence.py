"""Compares what worlds of several sizes computed in the same steps, and names the first thing that differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import read_lines
from trainkit.errors import TrainkitError

TOLERANCE = 1e-5  # of what is summed in another order, in float32
DOUBLE_TOLERANCE = 1e-9
QUANTITIES = ("samples", "augmentation", "loss", "gradient", "learning rate")


@dataclass
class Step:
    """One optimizer step over all ranks of a world."""

    number: int
    loss: float = 0.0
    ids: list[int] = field(default_factory=list)  # sorted; one that two ranks had is there twice
    hashes: dict[int, str] = field(default_factory=dict)
    gradients: dict[str, float | None] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    double: bool = False

    @property
    def norm(self) -> float:
        """The norm of the whole gradient."""
        return math.sqrt(sum((value or 0.0) ** 2 for value in self.gradients.values()))


@dataclass(frozen=True)
class Divergence:
    """The first difference between a world and the first one."""

    step: int
    quantity: str
    world: int
    words: str


def read(folder: Path, size: int) -> list[Step]:
    """The steps that a world's ranks have traced. Raises TrainkitError where one of them has traced another world."""
    found: dict[int, Step] = {}
    counts: dict[int, int] = {}
    for rank in range(size):
        head: dict[str, Any] | None = None
        for row in read_lines(folder / f"rank-{rank}.jsonl"):
            if head is None:
                head = row
                if row.get("size") != size:
                    raise TrainkitError(
                        f"Of {size} ranks that were started, rank {rank} found a world of {row.get('size')}: the "
                        "script chooses its world itself, or ignores the ranks that it is given."
                    )
                continue
            step = found.setdefault(int(row["step"]), Step(int(row["step"])))
            counts[step.number] = counts.get(step.number, 0) + 1
            step.loss += float(row["loss"])
            step.ids += [int(number) for number, _ in row["samples"]]
            step.hashes.update({int(number): text for number, text in row["samples"]})
            if rank == 0:
                step.gradients, step.rates, step.double = row["gradients"], row["rates"], row["double"]
    for step in found.values():
        step.ids.sort()
    return [found[number] for number in sorted(found) if counts[number] == size]


def first_divergence(worlds: Mapping[int, Sequence[Step]]) -> Divergence | None:
    """The earliest step, and in it the quantity nearest to the cause, in which a world differs from the first one."""
    (base, reference), *others = worlds.items()
    found = []
    for size, steps in others:
        if len(steps) != len(reference):
            found.append(
                Divergence(
                    min(len(steps), len(reference)), "steps", size,
                    f"{size} ranks made {len(steps)} steps, {base} made {len(reference)}",
                )
            )  # fmt: skip
        for one, other in zip(reference, steps, strict=False):
            difference = next(_differences(one, other), None)
            if difference is not None:
                found.append(Divergence(one.number, difference[0], size, difference[1]))
                break
    order = (*QUANTITIES, "steps")
    return min(found, key=lambda d: (d.step, order.index(d.quantity)), default=None)


def _differences(one: Step, other: Step) -> Iterator[tuple[str, str]]:
    """What differs in one step, causes before what follows from them."""
    tolerance = DOUBLE_TOLERANCE if one.double and other.double else TOLERANCE
    if one.ids != other.ids:
        yield "samples", _ids(one.ids, other.ids)
    changed = [number for number, text in one.hashes.items() if other.hashes.get(number, text) != text]
    if changed:
        yield "augmentation", f"the input of sample {changed[0]} differs, as that of {len(changed)} of {len(one.ids)}"
    if not _close(one.loss, other.loss, tolerance):
        yield "loss", f"{one.loss:.9g} and {other.loss:.9g}"
    scale = max(one.norm, other.norm)
    for name in (*one.gradients, *(n for n in other.gradients if n not in one.gradients)):
        a, b = one.gradients.get(name), other.gradients.get(name)
        if (a is None) != (b is None) or (a is not None and b is not None and not _close(a, b, tolerance, scale)):
            yield "gradient", f"the norm of {name} is {_number(a)} and {_number(b)}"
    if one.rates != other.rates:
        yield "learning rate", f"{one.rates} and {other.rates}"


def _close(a: float, b: float, tolerance: float, scale: float = 0.0) -> bool:
    """Whether two numbers are equal but for rounding; `scale` is that of what they are part of."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= tolerance * max(abs(a), abs(b), scale)


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.9g}"


def _ids(one: Sequence[int], other: Sequence[int]) -> str:
    twice = sorted({number for number in other if other.count(number) > 1})
    if twice:
        return f"sample {twice[0]} is in the step more than once"
    missing, more = sorted(set(one) - set(other)), sorted(set(other) - set(one))
    return f"{len(one)} and {len(other)} samples; {_some(missing)} only in the first, {_some(more)} only in the second"


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:4])) + (" ..." if len(ids) > 4 else "") if ids else "none"
