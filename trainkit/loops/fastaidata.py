"""A fastai DataLoader's samples, in an order that all ranks share and that can be taken up anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data

from trainkit.errors import UserErrorException
from trainkit.loops.digest import hashes
from trainkit.loops.feed import Feed, moved
from trainkit.loops.order import Ids, Order
from trainkit.loops.samples import Samples
from trainkit.loops.sources import Source, as_source
from trainkit.loops.world import World

_BATCH = 3  # what a seed is for: samples and their collation have 1 and 2
# What DataLoaders of fastai override that draw samples by rules of their own (WeightedDL, PartialDL, LMDataLoader).
_ORDERING = ("get_idxs", "sample", "shuffle_fn", "create_batches", "create_item")


class Share(NamedTuple):
    """This rank's part of a batch: `tensors` as fastai's batches are (None where it has no sample of it)."""

    tensors: tuple[Any, ...] | None
    ids: Ids
    total: int


class Items:
    """The items of a fastai DataLoader, each after `item_tfms`; `batch` makes a batch of some."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader.dataset)

    def __getitem__(self, number: int) -> Any:
        item = self.loader.do_item(number)
        if item is None:
            raise ValueError("a transform skipped it; which samples there are must be known before: filter the items")
        return item

    def batch(self, items: list[Any]) -> tuple[Any, None]:
        """The items as one batch, before `batch_tfms`."""
        return self.loader.do_batch(items), None


class SharedLoader:
    """What stands in for a DataLoader of a Learner during a loop: len, and what else callbacks may ask of it.

    `source` is read instead of the DataLoader's own items where it is given: its batches (inputs, targets) are taken as
    they are, without the DataLoader's transforms.
    """

    def __init__(
        self, loader: Any, world: World, batch: int, seed: int, *, shuffle: bool, source: Source | None = None,
        workers: int | None = None, channels_last: bool = False,
    ) -> None:  # fmt: skip
        self.loader, self.world, self.channels_last = loader, world, channels_last
        self.own = source is None and not isinstance(loader, torch.utils.data.DataLoader)
        if source is None:
            source = _items(loader, workers, world) if self.own else as_source(loader, workers)
        self.order = Order(len(source), min(batch, len(source)), seed, shuffle)
        self.feed = Feed(source, self.order, world.rank, world.size, world.device)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # unpickling asks before there is one
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return self.order.steps

    def shares(self, epoch: int, position: int = 0) -> Iterator[Share]:
        """This rank's part of each batch after the epoch's first `position` samples."""
        if self.own:
            self.loader.before_iter()
        for (batch,) in self.feed.epoch(epoch, position):
            if batch.inputs is None:
                yield Share(None, batch.ids, batch.total)
                continue
            if self.own:
                with keyed(batch.ids, self.order.seed, epoch, self.world.device):
                    tensors = self.loader.after_batch(batch.inputs)
            else:
                inputs = batch.inputs if isinstance(batch.inputs, (tuple, list)) else (batch.inputs,)
                tensors = (*inputs, batch.targets)
            if self.channels_last:
                tensors = moved(tensors, self.world.device, True)
            yield Share(tuple(tensors), batch.ids, batch.total)
        if self.own:
            self.loader.after_iter()


def _items(loader: Any, workers: int | None, world: World) -> Source:
    """A fastai DataLoader as a source of batches. Raises UserErrorException where its order is its own affair."""
    from fastai.data.load import DataLoader

    kind = type(loader).__name__
    if not isinstance(loader, DataLoader):
        raise UserErrorException(f"The Learner's data is a {kind}; a loop reads DataLoaders of fastai or PyTorch.")
    own = [name for name in _ORDERING if not _is_fastais(loader, name, DataLoader)]
    if own:
        raise UserErrorException(
            f"{kind} decides itself which samples come when ({', '.join(own)}), but the loop orders and shares them, "
            "each exactly once an epoch; use an ordinary DataLoader (DataBlock.dataloaders)."
        )
    if not loader.indexed or loader.n is None or loader.bs is None or loader.n != len(loader.dataset):
        raise UserErrorException(
            f"{kind} has no numbered samples to share (indexed={loader.indexed}, n={loader.n}, bs={loader.bs}); exact "
            "sharding and resuming need a dataset with __len__ and __getitem__, and a batch size."
        )
    if loader.n == 0:
        raise UserErrorException(f"The data is empty: this {kind} has no samples.")
    number = loader.fake_l.num_workers if workers is None else workers
    items = Items(loader)
    return Samples(items, number if workers is not None else min(number, max(1, world.cores)), items.batch)


def _is_fastais(loader: Any, name: str, base: type) -> bool:
    method = getattr(loader, name)
    return getattr(method, "__func__", None) is getattr(base, name)


@contextmanager
def keyed(ids: Ids, seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """What is drawn inside follows from (seed, epoch, the first sample's id); the streams outside stay as they were."""
    key = int(hashes(ids[:1], _BATCH, seed, epoch)[0])
    devices = [device.index or 0] if device.type == "cuda" else []
    streams = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices):
        torch.manual_seed(key)
        np.random.seed(key & 0xFFFFFFFF)
        random.seed(key)
        try:
            yield
        finally:
            np.random.set_state(streams[0])
            random.setstate(streams[1])
