from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit import UserErrorException
from trainkit.loops.order import Order, pieces, share

counts = st.integers(1, 300)
batches = st.integers(1, 70)


@given(count=counts, batch=batches, seed=st.integers(0, 2**70), epoch=st.integers(0, 50))
def test_an_epoch_is_every_sample_once_in_batches_of_which_only_the_last_is_smaller(
    count: int, batch: int, seed: int, epoch: int
) -> None:
    order = Order(count, batch, seed)
    steps = list(order.steps_from(epoch))
    assert len(steps) == order.steps
    assert all(len(ids) == batch for ids in steps[:-1]) and 1 <= len(steps[-1]) <= batch
    assert sorted(np.concatenate(steps).tolist()) == list(range(count))
    assert np.concatenate(steps).tolist() == order.epoch(epoch).tolist()


@given(count=counts, batch=batches, data=st.data())
def test_going_on_at_any_position_sees_exactly_the_rest(count: int, batch: int, data: st.DataObject) -> None:
    order = Order(count, batch, 7)
    position = data.draw(st.integers(0, count))
    rest = [ids.tolist() for ids in order.steps_from(3, position)]
    assert sum(rest, []) == order.epoch(3)[position:].tolist()
    if position % batch == 0:
        assert rest == [ids.tolist() for ids in order.steps_from(3)][position // batch :]


def test_orders_differ_by_seed_and_epoch_and_repeat() -> None:
    seen = {tuple(Order(50, 8, seed).epoch(epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(seen) == 25
    assert Order(50, 8, 3).epoch(4).tolist() == Order(50, 9, 3).epoch(4).tolist()


def test_the_order_of_a_seed_is_the_one_that_earlier_runs_had() -> None:
    """A run that was begun with an older version resumes in the same order."""
    assert Order(12, 4, 0).epoch(0).tolist() == [9, 2, 7, 4, 5, 11, 0, 3, 6, 10, 8, 1]
    assert Order(12, 4, 42).epoch(3).tolist() == [9, 3, 7, 11, 5, 4, 2, 8, 1, 10, 0, 6]


def test_evaluation_keeps_the_order_of_the_data() -> None:
    order = Order(7, 3, 0, shuffle=False)
    assert [ids.tolist() for ids in order.steps_from(5)] == [[0, 1, 2], [3, 4, 5], [6]]


@given(ids=st.lists(st.integers(0, 1000), max_size=60), size=st.integers(1, 9))
def test_shares_are_all_of_a_batch_and_even(ids: list[int], size: int) -> None:
    shares = [share(np.array(ids, np.int64), rank, size) for rank in range(size)]
    assert sorted(np.concatenate(shares).tolist()) == sorted(ids)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(length=st.integers(0, 60), count=st.integers(1, 9))
def test_pieces_are_those_of_array_split(length: int, count: int) -> None:
    ids = np.arange(length)
    assert [p.tolist() for p in pieces(ids, count)] == [p.tolist() for p in np.array_split(ids, count)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 4, 0), "number of samples"),
        ((4, 0, 0), "batch, the samples of a step"),
        ((4, 2.0, 0), "batch, the samples of a step"),
        ((4, True, 0), "batch, the samples of a step"),
        ((4, 2, -1), "seed"),
        ((4, 2, None), "seed"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: tuple[int, int, int], said: str) -> None:
    with pytest.raises(UserErrorException, match=said):
        Order(*arguments)


@pytest.mark.parametrize("position", [-1, 11])
def test_a_position_outside_of_the_epoch_is_refused(position: int) -> None:
    with pytest.raises(UserErrorException, match="10 samples cannot go on"):
        list(Order(10, 2, 0).steps_from(0, position))
