"""What a loop reads its samples from: tensors in memory, or any map-style dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from trainkit.errors import UserErrorException
from trainkit.loops.nested import mapped
from trainkit.loops.order import Ids
from trainkit.loops.samples import Samples

__all__ = ["Pinnable", "Samples", "Source", "Tensors", "as_source"]


@runtime_checkable
class Source(Protocol):
    """Samples, numbered from 0, that are read in batches of any ids."""

    def __len__(self) -> int:
        """How many samples there are."""

    def batches(self, shares: Iterable[Ids], epoch: int, seed: int) -> Iterator[tuple[Any, Any] | None]:
        """For each array of sample ids the batch (inputs, targets) of these samples; None for an empty array.

        Reading ahead in `shares` is the source's own affair. What a sample is like may follow from (seed, epoch, id)
        and from nothing else. Closing the iterator ends what works for it.
        """


@runtime_checkable
class Pinnable(Protocol):
    """A source that gives its batches in page-locked memory, for copies to a GPU, once `pinned` is True."""

    pinned: bool


class Tensors:
    """Samples in memory: sample i is `x[i]`, and its target `y[i]`.

    `x` and `y` are tensors of equal length, or nested tuples, lists and dicts of such. Raises UserErrorException else.
    """

    def __init__(self, x: Any, y: Any) -> None:
        lengths = set(_lengths(x)) | set(_lengths(y))
        if len(lengths) != 1:
            raise UserErrorException(
                f"Tensors of {', '.join(map(str, sorted(lengths)))} samples do not belong together; inputs and targets "
                "need as many rows as each other."
            )
        self.x, self.y, self.count = x, y, lengths.pop()
        self.pinned = False
        if self.count == 0:
            raise UserErrorException("The data is empty: its tensors have no rows.")

    def __len__(self) -> int:
        return self.count

    def batches(self, shares: Iterable[Ids], epoch: int, seed: int) -> Iterator[tuple[Any, Any] | None]:
        """See `Source.batches`; nothing is random here."""
        x, y, pinned = self.x, self.y, self.pinned
        plain = isinstance(x, Tensor) and isinstance(y, Tensor) and not pinned and x.is_cpu and y.is_cpu
        for ids in shares:
            if len(ids) == 0:
                yield None
            elif plain:  # the whole cost of a step here: two calls
                rows = torch.from_numpy(ids)
                yield x.index_select(0, rows), y.index_select(0, rows)
            else:
                rows = torch.from_numpy(ids)
                yield _rows(x, rows, pinned), _rows(y, rows, pinned)


def _lengths(value: Any) -> list[int]:
    if isinstance(value, Tensor) and value.dim() > 0:
        return [len(value)]
    if isinstance(value, (tuple, list, Mapping)) and value:
        parts = value.values() if isinstance(value, Mapping) else value
        return [length for part in parts for length in _lengths(part)]
    what = "a tensor without dimensions" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UserErrorException(
        f"Inputs and targets in memory must be tensors with a row for each sample, not {what}; torch.as_tensor makes "
        "tensors of arrays and lists."
    )


def _rows(value: Any, rows: Tensor, pinned: bool) -> Any:
    def gather(tensor: Tensor) -> Tensor:
        if not pinned or not tensor.is_cpu:
            return tensor.index_select(0, rows.to(tensor.device))
        out = torch.empty((len(rows), *tensor.shape[1:]), dtype=tensor.dtype, pin_memory=True)
        return torch.index_select(tensor, 0, rows, out=out)

    return mapped(value, gather)


def as_source(data: Any, workers: int | None = None) -> Source:
    """The source that `data` is or holds.

    `data` is a Source, two tensors (inputs, targets), a TensorDataset of two, a map-style dataset whose samples are
    pairs (input, target), or a DataLoader, of which the dataset, `collate_fn`, `num_workers` and `worker_init_fn` are
    taken: the order is the loop's. `workers`, the processes that read a dataset, goes before the DataLoader's number;
    without either it is 0. Raises UserErrorException for what cannot be read in any order.
    """
    if isinstance(data, DataLoader):
        return _of_loader(data, workers)
    if isinstance(data, (IterableDataset, str, bytes, Mapping)) or not hasattr(data, "__len__"):
        raise UserErrorException(
            f"Data of type {type(data).__name__} cannot be read in any order, as exact sharding and resuming need: "
            "give a dataset with __len__ and __getitem__, two tensors (inputs, targets), or a trainkit.loops.Source."
        )
    if isinstance(data, TensorDataset):
        if len(data.tensors) != 2:
            raise UserErrorException(
                f"A TensorDataset of {len(data.tensors)} tensors is not one of inputs and targets; give "
                "Tensors((first, second), targets)."
            )
        return Tensors(*data.tensors)
    if isinstance(data, (np.ndarray, Tensor)) or (isinstance(data, tuple) and any(map(_is_array, data))):
        raise UserErrorException(
            "Arrays, and a tensor by itself, are not inputs with their targets; give two tensors: "
            "(torch.as_tensor(inputs), torch.as_tensor(targets))."
        )
    if isinstance(data, (tuple, list)) and any(isinstance(part, Tensor) for part in data):
        if len(data) != 2:
            raise UserErrorException(f"{len(data)} tensors are not inputs and targets; give (inputs, targets).")
        return Tensors(*data)
    if len(data) == 0:
        raise UserErrorException(f"The data is empty: this {type(data).__name__} has no samples.")
    if isinstance(data, Source):
        return data
    return Samples(data, workers or 0)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _of_loader(loader: DataLoader[Any], workers: int | None) -> Source:
    sampler, batches = loader.sampler, loader.batch_sampler
    refused = {
        "an IterableDataset, which has no order to share": isinstance(loader.dataset, IterableDataset),
        "batch_size=None": batches is None,
        f"its own batch_sampler {type(batches).__name__}": batches is not None and type(batches) is not BatchSampler,
        f"its own sampler {type(sampler).__name__}": type(sampler) not in (SequentialSampler, RandomSampler),
        "a sampler that draws some samples twice or not at all": isinstance(sampler, RandomSampler)
        and (sampler.replacement or sampler.num_samples != len(loader.dataset)),  # type: ignore[arg-type]
        "drop_last=True": bool(loader.drop_last) or (type(batches) is BatchSampler and batches.drop_last),
        "its own generator": loader.generator is not None,
    }
    for what, there in refused.items():
        if there:
            raise UserErrorException(
                f"The DataLoader has {what}, but the loop orders and shares the samples itself, each exactly once an "
                "epoch; leave that out, or give the dataset."
            )
    if isinstance(loader.dataset, TensorDataset) and loader.collate_fn is default_collate:
        return as_source(loader.dataset)
    if len(loader.dataset) == 0:  # type: ignore[arg-type]
        return as_source(loader.dataset)
    number = loader.num_workers if workers is None else workers
    return Samples(loader.dataset, number, loader.collate_fn, loader.worker_init_fn)
