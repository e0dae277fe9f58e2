"""Exact evaluation over all ranks: each sample counts once, whatever their number, and nothing is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainkit.boot import pulse
from trainkit.errors import UserErrorException
from trainkit.loops.collectives.base import total
from trainkit.loops.feed import Feed
from trainkit.loops.metrics import Metric, plus
from trainkit.loops.precision import autocast
from trainkit.loops.together import each
from trainkit.loops.world import World

Forward = Callable[[Any], Any]


class Evaluator:
    """Runs a model over data without training it; one reduction over the ranks at the end."""

    def __init__(self, model: nn.Module, forward: Forward, world: World, precision: str) -> None:
        self.model, self.forward, self.world = model, forward, world
        self._cast = autocast(precision, world.device) or nullcontext

    def metrics(self, feed: Feed, metrics: Sequence[Metric], asked: Callable[[], bool]) -> dict[str, Any] | None:
        """Each metric's value over all of the data. None where a rank was `asked` to end: it stops, and all learn."""
        sums: list[Tensor | None] = [None] * len(metrics)
        self.model.eval()
        page = pulse.current()
        page.phase(pulse.EVALUATING)
        for micros in feed.epoch(0):
            page.tick()
            if asked():
                break
            for batch in micros:
                if batch.inputs is None:
                    continue
                with torch.no_grad():  # not inference_mode: what a model or a metric keeps is used in training too
                    outputs = self._outputs(batch.inputs)
                    for i, metric in enumerate(metrics):
                        sums[i] = plus(sums[i], metric.sums(outputs, batch.targets))
        return self._added(metrics, sums, asked())

    def _outputs(self, inputs: Any) -> Any:
        with self._cast():
            return self.forward(inputs)

    def _added(self, metrics: Sequence[Metric], sums: list[Tensor | None], asked: bool) -> dict[str, Any] | None:
        """The metrics of all ranks' sums."""
        (flag,), parts = added(self.world, [float(asked)], sums)
        if flag > 0:
            return None
        if any(not len(part) for part in parts):
            raise UserErrorException("There is nothing to evaluate: the data has no samples.")
        return valued(metrics, parts)

    def outputs(self, feed: Feed, count: int) -> Tensor:
        """The model's outputs for all samples, in their order, on every rank: a tensor [count, ...] on the CPU."""
        rows: Tensor | None = None
        self.model.eval()
        for micros in feed.epoch(0):
            for batch in micros:
                if batch.inputs is None:
                    continue
                with torch.no_grad():
                    found = self._outputs(batch.inputs)
                if not isinstance(found, Tensor) or len(found) != len(batch.ids):
                    raise UserErrorException("predict needs a model that returns one tensor with a row a sample.")
                if rows is None:
                    rows = torch.zeros(count, *found.shape[1:], dtype=found.dtype)
                rows[torch.from_numpy(batch.ids)] = found.cpu()
        if self.world.size > 1:
            rows = _together(rows, count, self.world)
        if rows is None:
            raise UserErrorException("There is nothing to predict: the data has no samples.")
        return rows


def added(world: World, head: list[float], sums: Sequence[Tensor | None]) -> tuple[list[float], list[Tensor]]:
    """Numbers and metrics' sums, each added up over the ranks: one exchange for all of them.

    A rank that saw no samples has None for its sums; it learns their lengths from the others first.
    """
    device = world.device
    lengths = torch.tensor([0 if s is None else s.numel() for s in sums], dtype=torch.float64, device=device)
    if world.size > 1 and sums:
        lengths = _largest(lengths, world)
    counts = [int(n) for n in lengths.tolist()]
    parts = [
        torch.zeros(n, dtype=torch.float64, device=device) if s is None else s.flatten().double()
        for s, n in zip(sums, counts, strict=True)
    ]
    first = torch.tensor(head, dtype=torch.float64, device=device)
    vector = total(world.collective, torch.cat([first, *parts]))
    summed = list(torch.split(vector[len(head) :], counts)) if counts else []
    return vector[: len(head)].tolist(), summed


def valued(metrics: Sequence[Metric], sums: Sequence[Tensor]) -> dict[str, Any]:
    """Each metric's value by its name; what is no number is a tensor on the CPU."""
    found = {}
    for metric, part in zip(metrics, sums, strict=True):
        value = metric.value(part)
        found[metric.name] = value.cpu() if isinstance(value, Tensor) and value.ndim else float(value)
    return found


def _largest(lengths: Tensor, world: World) -> Tensor:
    """Of every entry, the largest of all ranks; ranks that know one agree on it."""
    table = torch.zeros(world.size, len(lengths), dtype=torch.float64, device=lengths.device)
    table[world.rank] = lengths
    return total(world.collective, table.flatten()).view(world.size, -1).amax(0)


def _together(rows: Tensor | None, count: int, world: World) -> Tensor | None:
    """All ranks' rows: each is zero but in one rank, and adding zeros changes no bit of a finite number."""
    facts = None if rows is None else [list(rows.shape), str(rows.dtype).removeprefix("torch.")]
    known = [shape for shape in each(world.collective, lambda: facts) if shape]
    if not known:
        return None
    if rows is None:
        rows = torch.zeros(known[0][0], dtype=getattr(torch, known[0][1]))
    data = rows.contiguous().view(-1).view(torch.uint8).to(world.device)
    return total(world.collective, data).cpu().view(rows.dtype).view(rows.shape)
