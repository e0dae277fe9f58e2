from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainkit import TrainkitError, UserErrorException
from trainkit.loops.feed import Batch, Feed, moved
from trainkit.loops.order import Ids, Order
from trainkit.loops.sources import Tensors

CPU = torch.device("cpu")


def numbers(count: int) -> Tensors:
    """Sample i is i, its target 2 i."""
    return Tensors(torch.arange(count), 2 * torch.arange(count))


def feeds(order: Order, size: int, accumulate: int = 1) -> list[Feed]:
    return [Feed(numbers(order.count), order, rank, size, CPU, accumulate) for rank in range(size)]


def ids_of(batches: Iterable[Batch]) -> list[int]:
    return [number for batch in batches for number in batch.ids.tolist()]


@given(
    count=st.integers(1, 120), batch=st.integers(1, 40), size=st.integers(1, 5), accumulate=st.integers(1, 5),
    data=st.data(),
)  # fmt: skip
def test_ranks_and_micro_batches_together_are_each_step_of_the_order(
    count: int, batch: int, size: int, accumulate: int, data: st.DataObject
) -> None:
    order, position = Order(count, batch, 5), data.draw(st.integers(0, count))
    ranks = [list(feed.epoch(2, position)) for feed in feeds(order, size, accumulate)]
    whole = list(order.steps_from(2, position))
    assert [len(steps) for steps in ranks] == [len(whole)] * size
    for number, ids in enumerate(whole):
        step = [micros for steps in ranks for micros in steps[number]]
        assert sorted(ids_of(step)) == sorted(ids.tolist())
        assert {micro.total for micro in step} == {len(ids)}
        for i, piece in enumerate(np.array_split(ids, accumulate)):
            for rank in range(size):
                assert ranks[rank][number][i].ids.tolist() == piece[rank::size].tolist()
        for micro in step:
            if len(micro.ids):
                assert (
                    micro.inputs.tolist() == micro.ids.tolist() and micro.targets.tolist() == (2 * micro.ids).tolist()
                )
            else:
                assert micro.inputs is None and micro.targets is None


@given(
    count=st.integers(1, 120), batch=st.integers(1, 40), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    data=st.data(),
)  # fmt: skip
def test_a_changed_world_size_in_mid_epoch_sees_every_sample_once(
    count: int, batch: int, sizes: list[int], data: st.DataObject
) -> None:
    order, position, seen = Order(count, batch, 1), 0, []
    for size in sizes:
        ranks = [feed.epoch(0, position) for feed in feeds(order, size, data.draw(st.integers(1, 3)))]
        last = size is sizes[-1] or position == count
        for _ in range(order.steps if last else data.draw(st.integers(0, order.steps))):
            step = [micro for rank in ranks for micro in next(rank, [])]
            seen += ids_of(step)
            position += step[0].total if step else 0
        for rank in ranks:
            rank.close()
    rest = [ids_of(micros) for micros in feeds(order, 1)[0].epoch(0, position)]
    assert sorted(sum(rest, seen)) == list(range(count))


def test_weights_of_all_parts_of_a_step_add_up_to_one() -> None:
    ranks = [list(feed.epoch(0)) for feed in feeds(Order(50, 16, 0), 3, 2)]
    for step in zip(*ranks, strict=True):
        assert sum(len(micro.ids) / micro.total for micros in step for micro in micros) == pytest.approx(1.0)


class Lazy:
    """A source that reads far ahead in its shares, and may end early."""

    def __init__(self, count: int, given: int = 1000) -> None:
        self.count, self.given, self.closed = count, given, False

    def __len__(self) -> int:
        return self.count

    def batches(self, shares: Iterable[Ids], epoch: int, seed: int) -> Iterator[tuple[Any, Any] | None]:
        try:
            for ids in list(shares)[: self.given]:
                yield (torch.from_numpy(ids), torch.full((len(ids),), epoch * 100 + seed)) if len(ids) else None
        finally:
            self.closed = True


def test_a_source_that_reads_ahead_gets_its_batches_right_and_is_closed_when_the_epoch_is_left() -> None:
    source = Lazy(40)
    steps = Feed(source, Order(40, 8, 9), 1, 2, CPU, 2).epoch(3)
    for micros in (next(steps), next(steps)):
        for micro in micros:
            assert micro.inputs.tolist() == micro.ids.tolist() and set(micro.targets.tolist()) == {309}
    assert not source.closed
    steps.close()
    assert source.closed


def test_a_source_that_ends_early_is_an_error() -> None:
    with pytest.raises(TrainkitError, match="Lazy ended 2 batches before the end"):
        list(Feed(Lazy(40, given=3), Order(40, 8, 0), 0, 1, CPU).epoch(0))


def test_an_epoch_that_was_seen_to_its_end_has_nothing_left() -> None:
    assert list(Feed(numbers(10), Order(10, 4, 0), 0, 1, CPU).epoch(0, 10)) == []


def test_what_cannot_be_fed_is_refused() -> None:
    with pytest.raises(UserErrorException, match="has 10 samples, but the order is of 11"):
        Feed(numbers(10), Order(11, 4, 0), 0, 1, CPU)
    with pytest.raises(UserErrorException, match="accumulate must be at least 1"):
        Feed(numbers(10), Order(10, 4, 0), 0, 1, CPU, accumulate=0)
    with pytest.raises(UserErrorException, match="no rank 2 of 2"):
        Feed(numbers(10), Order(10, 4, 0), 2, 2, CPU)


Pair = namedtuple("Pair", "left right")


class Graph:
    def __init__(self, place: str = "here") -> None:
        self.place = place

    def to(self, device: torch.device) -> Graph:
        return Graph(device.type)


def test_tensors_are_moved_however_deep_they_are() -> None:
    value = {"a": [torch.ones(2), ("x", None)], "b": Pair(torch.zeros(1), 3), "g": Graph()}
    there = moved(value, torch.device("meta"))
    assert there["a"][0].is_meta and there["a"][1] == ("x", None)
    assert isinstance(there["b"], Pair) and there["b"].left.is_meta and there["b"].right == 3
    assert there["g"].place == "meta"


def test_pictures_come_in_channels_last_memory_where_asked() -> None:
    pictures = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    source = Tensors({"picture": pictures, "size": torch.ones(2, 2)}, torch.zeros(2, 1, 2, 2))
    [[batch]] = Feed(source, Order(2, 2, 0, shuffle=False), 0, 1, CPU, channels_last=True).epoch(0)
    assert batch.inputs["picture"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.inputs["picture"], pictures) and torch.equal(batch.inputs["size"], torch.ones(2, 2))
    assert isinstance(batch.targets, Tensor) and batch.targets.is_contiguous()
