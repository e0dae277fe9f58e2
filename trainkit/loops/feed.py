"""What a rank reads in each step: its share of the batch, in micro-batches, on its device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops.nested import mapped, tensors
from trainkit.loops.order import Ids, Order, pieces, share
from trainkit.loops.sources import Pinnable, Source


class Batch(NamedTuple):
    """This rank's samples of a micro-batch; `inputs` and `targets` are None where it has none.

    `total` counts the samples of the step over all ranks and micro-batches: `len(ids) / total` is this part's weight in
    the mean over the step.
    """

    inputs: Any
    targets: Any
    ids: Ids
    total: int


class Feed:
    """Reads a source in an order, for one of `size` ranks.

    A step's batch is cut into `accumulate` consecutive pieces, and each piece is shared among the ranks: all ranks and
    pieces together are that batch, each sample once, whatever their numbers are. Raises UserErrorException where the
    source has another number of samples than the order.
    """

    def __init__(
        self, source: Source, order: Order, rank: int, size: int, device: torch.device, accumulate: int = 1,
        channels_last: bool = False,
    ) -> None:  # fmt: skip
        if accumulate < 1:
            raise UserErrorException(f"accumulate must be at least 1 micro-batch a step, not {accumulate}.")
        if not 0 <= rank < size:
            raise UserErrorException(f"There is no rank {rank} of {size}.")
        if len(source) != order.count:
            raise UserErrorException(f"The data has {len(source)} samples, but the order is of {order.count}.")
        self.source, self.order, self.rank, self.size = source, order, rank, size
        self.device, self.accumulate, self.channels_last = device, accumulate, channels_last
        if device.type == "cuda" and isinstance(source, Pinnable):
            source.pinned = True  # only copies from page-locked memory overlap with computing

    def epoch(self, number: int, position: int = 0) -> Generator[list[Batch], None, None]:
        """One list of `accumulate` micro-batches a step, after the epoch's first `position` samples.

        A step's samples count as seen when its list was handed out: the next position is that of `total` more.
        """
        batches = self._batches(number, position)
        if self.device.type == "cuda":
            batches = self._ahead(batches)
        step: list[Batch] = []
        try:
            for batch in batches:
                step.append(batch)
                if len(step) == self.accumulate:
                    yield step
                    step = []
        finally:
            batches.close()

    def nothing(self) -> Any:
        """Inputs as the model gets them, with no sample in them."""
        batches = self.source.batches([np.zeros(1, dtype=np.int64)], 0, self.order.seed)
        try:
            first = next(iter(batches))
        finally:
            if hasattr(batches, "close"):
                batches.close()
        assert first is not None
        return mapped(moved(first[0], self.device, self.channels_last), lambda tensor: tensor[:0])

    def _batches(self, number: int, position: int) -> Generator[Batch, None, None]:
        """The micro-batches one by one, on the device; the copies to a GPU may still be under way."""
        read: deque[tuple[Ids, int]] = deque()  # what the source has taken from `shares` and not yet given back

        def shares() -> Iterator[Ids]:
            for ids in self.order.steps_from(number, position):
                total = len(ids)
                for piece in (ids,) if self.accumulate == 1 else pieces(ids, self.accumulate):
                    mine = piece if self.size == 1 else share(piece, self.rank, self.size)
                    read.append((mine, total))
                    yield mine

        moves = self.device.type != "cpu" or self.channels_last
        left = -(-(self.order.count - position) // self.order.batch) * self.accumulate
        batches = self.source.batches(shares(), number, self.order.seed)
        try:
            for batch in batches:
                inputs, targets = (None, None) if batch is None else batch
                if moves and batch is not None:
                    inputs = moved(inputs, self.device, self.channels_last)
                    targets = moved(targets, self.device)
                ids, total = read.popleft()
                left -= 1
                yield Batch(inputs, targets, ids, total)
        finally:
            if hasattr(batches, "close"):
                batches.close()
        if left:
            raise TrainkitError(f"{type(self.source).__name__} ended {left} batches before the end of the epoch.")

    def _ahead(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        """The same, copied one batch ahead on a stream of its own, while the GPU computes on the one before."""
        stream: torch.cuda.Stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

        def following() -> Batch | None:
            with torch.cuda.stream(stream):
                return next(batches, None)

        try:
            batch = following()
            while batch is not None:
                now = torch.cuda.current_stream(self.device)
                now.wait_stream(stream)
                for tensor in (*tensors(batch.inputs), *tensors(batch.targets)):
                    tensor.record_stream(now)  # its memory is not reused for a later copy before it was read
                after = following()
                yield batch
                batch = after
        finally:
            batches.close()


def moved(value: Any, device: torch.device, channels_last: bool = False) -> Any:
    """A nest of tensors on `device`; pictures [N, C, H, W] in channels-last memory if asked.

    Other objects with a method `to` move themselves; what has none stays as it is.
    """

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf.to(device) if hasattr(leaf, "to") else leaf
        leaf = leaf.to(device, non_blocking=True)
        return leaf.contiguous(memory_format=torch.channels_last) if channels_last and leaf.dim() == 4 else leaf

    return mapped(value, move)
