"""In which order the samples of an epoch are seen, and by which rank: the same whatever the number of ranks is.

An epoch's order follows from (seed, epoch) alone. A step takes the next `batch` samples of it, over all ranks; a rank
takes its share of these. So a position in the epoch, a number of samples, is all that resuming needs to know, also with
another number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainkit.errors import UserErrorException

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The order of `count` samples, `batch` of them a step over all ranks.

    Nothing is dropped: the last step may be smaller. Raises UserErrorException where a number is out of range.
    """

    count: int
    batch: int
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                what = {"count": "The number of samples", "batch": "batch, the samples of a step,", "seed": "seed"}[
                    name
                ]
                raise UserErrorException(f"{what} must be a whole number of at least {least}, not {value!r}.")

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.count // self.batch)

    def epoch(self, number: int) -> Ids:
        """The ids of all samples in the order of epoch `number`, counted from 0."""
        if not self.shuffle:
            return np.arange(self.count, dtype=np.int64)
        return np.random.default_rng([self.seed, number]).permutation(self.count)

    def steps_from(self, number: int, position: int = 0) -> Iterator[Ids]:
        """The batches of all ranks together, after the epoch's first `position` samples."""
        if not 0 <= position <= self.count:
            raise UserErrorException(
                f"An epoch of {self.count} samples cannot go on after {position} of them: has the data changed?"
            )
        ids = self.epoch(number)
        for start in range(position, self.count, self.batch):
            yield ids[start : start + self.batch]


def share(ids: Ids, rank: int, size: int) -> Ids:
    """What one of `size` ranks takes of a batch: sizes differ by one at most, each id is in exactly one share."""
    return ids[rank::size]


def pieces(ids: Ids, count: int) -> list[Ids]:
    """A batch in `count` consecutive pieces, sizes differing by one at most, the larger first; some may be empty."""
    each, more = divmod(len(ids), count)
    starts = [number * each + min(number, more) for number in range(count + 1)]
    return [ids[start:stop] for start, stop in zip(starts, starts[1:], strict=False)]
