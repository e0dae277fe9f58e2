from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from trainkit import UserErrorException
from trainkit.loops.sources import Pinnable, Samples, Source, Tensors, as_source

x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)


class Squares(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return torch.tensor(float(number)), number**2


class Stream(IterableDataset[int]):
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def read(source: Source, *ids: list[int]) -> list[Any]:
    return list(source.batches((np.array(each, np.int64) for each in ids), 0, 0))


def test_tensors_are_read_in_any_order() -> None:
    (first, targets), nothing, (second, _) = read(Tensors(x, y), [5, 0, 0], [], [3])
    assert first.tolist() == [[10, 11], [0, 1], [0, 1]] and targets.tolist() == [5, 0, 0]
    assert nothing is None and second.tolist() == [[6, 7]]
    strided = np.arange(6)[1::2]
    assert [b[1].tolist() for b in Tensors(x, y).batches([strided], 0, 0) if b] == [[1, 3, 5]]


Two = namedtuple("Two", "left right")


def test_nests_of_tensors_keep_their_shape() -> None:
    source = Tensors({"a": x, "b": (y, [x])}, Two(y, y + 1))
    [(inputs, targets)] = read(source, [4, 1])
    assert inputs["a"].tolist() == [[8, 9], [2, 3]] and inputs["b"][0].tolist() == [4, 1]
    assert inputs["b"][1][0].shape == (2, 2)
    assert isinstance(targets, Two) and targets.right.tolist() == [5, 2]


def test_batches_do_not_share_memory_with_the_data() -> None:
    [(inputs, _)] = read(Tensors(x.clone(), y), [0, 1])
    inputs.zero_()
    [(inputs, _)] = read(Tensors(x, y), [1])
    assert inputs.tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ((x, y[:4]), "Tensors of 4, 6 samples do not belong together"),
        (({"a": x, "b": x[:3]}, y), "3, 6 samples"),
        ((x[:0], y[:0]), "empty"),
        ((x.numpy(), y), "not a ndarray; torch.as_tensor"),
        ((torch.tensor(1.0), y), "a tensor without dimensions"),
        (((), y), "not a tuple"),
    ],
)
def test_tensors_that_are_no_samples_are_refused(pair: tuple[Any, Any], said: str) -> None:
    with pytest.raises(UserErrorException, match=said):
        Tensors(*pair)


def squares(source: Source) -> list[Any]:
    return [value.tolist() for batch in read(source, [3, 2]) for value in batch]


def test_every_kind_of_data_becomes_a_source() -> None:
    made = Tensors(x, y)
    assert as_source(made) is made and as_source(made, workers=3) is made
    for data in (TensorDataset(x, y), (x, y), [x, y], DataLoader(TensorDataset(x, y), batch_size=2)):
        source = as_source(data)
        assert isinstance(source, Tensors) and len(source) == 6 and source.x is x
    for data in (
        Squares(),
        DataLoader(Squares(), 2, shuffle=True),
        [(torch.tensor(float(i)), i * i) for i in range(5)],
    ):
        source = as_source(data)
        assert isinstance(source, Samples) and source.workers == 0 and len(source) == 5
        assert squares(source) == [[3, 2], [9, 4]]
    assert squares(as_source(Subset(Squares(), [4, 3, 2, 1]))) == [[1, 2], [1, 4]]
    assert isinstance(made, Pinnable) and isinstance(as_source(Squares()), Pinnable)


def doubled(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([2 * sample[0] for sample in samples]), torch.tensor([sample[1] for sample in samples])


def test_a_dataloader_gives_its_dataset_collate_and_workers() -> None:
    loader = DataLoader(Squares(), 2, collate_fn=doubled, num_workers=2, worker_init_fn=print)
    source = as_source(loader)
    assert isinstance(source, Samples) and source.workers == 2 and source.worker_init is print
    asked = as_source(loader, workers=0)
    assert isinstance(asked, Samples) and asked.workers == 0 and squares(asked) == [[6, 4], [9, 4]]
    tensors = as_source(DataLoader(TensorDataset(x[:, 0], y), 2, collate_fn=doubled))
    assert squares(tensors) == [[12, 8], [3, 2]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Stream(), "Data of type Stream cannot be read in any order"),
        (DataLoader(Stream()), "The DataLoader has an IterableDataset"),
        ((number for number in range(3)), "Data of type generator cannot be read in any order"),
        ({"x": x}, "Data of type dict cannot be read"),
        ("data/train", "Data of type str cannot be read"),
        (None, "Data of type NoneType cannot be read"),
        (x, "a tensor by itself"),
        ((x, y, y), "3 tensors are not inputs and targets"),
        (TensorDataset(x, y, y), "A TensorDataset of 3 tensors"),
        (TensorDataset(x[:0], y[:0]), "empty"),
        ([], "empty: this list"),
        (DataLoader(Subset(Squares(), []), sampler=SequentialSampler([])), "empty: this Subset"),
        (DataLoader(Squares(), batch_size=None), "batch_size=None"),
        (DataLoader(Squares(), sampler=WeightedRandomSampler([1.0] * 5, 5)), "sampler WeightedRandomSampler"),
        (DataLoader(Squares(), sampler=RandomSampler(Squares(), replacement=True)), "twice or not at all"),
        (DataLoader(Squares(), sampler=RandomSampler(Squares(), num_samples=3)), "twice or not at all"),
        (DataLoader(Squares(), batch_sampler=[[0, 1], [2]]), "its own batch_sampler list"),
        (DataLoader(Squares(), batch_sampler=BatchSampler(RandomSampler(Squares()), 2, True)), "drop_last=True"),
        (DataLoader(Squares(), batch_size=2, drop_last=True), "drop_last=True"),
        (DataLoader(Squares(), shuffle=True, generator=torch.Generator()), "its own generator"),
    ],
)
def test_data_without_an_order_of_the_loops_own_is_refused(data: Any, said: str) -> None:
    with pytest.raises(UserErrorException, match=said):
        as_source(data)


@pytest.mark.parametrize("workers", [-1, 1.0, True, "2"])
def test_impossible_numbers_of_workers_are_refused(workers: Any) -> None:
    with pytest.raises(UserErrorException, match="workers must be a whole number"):
        as_source(Squares(), workers)
