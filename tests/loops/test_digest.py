from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainkit.loops.digest import digest, expected, from_limbs, hashes, limbs
from trainkit.loops.order import Order, share

id_lists = st.lists(st.integers(0, 2**40), max_size=40)


def of(ids: list[int], epoch: int = 0) -> int:
    return digest(np.array(ids, np.int64), epoch)


@given(ids=id_lists, size=st.integers(1, 5), epoch=st.integers(0, 1000), data=st.data())
def test_digests_of_parts_add_up_whatever_the_order(ids: list[int], size: int, epoch: int, data: st.DataObject) -> None:
    mixed = np.array(data.draw(st.permutations(ids)), np.int64)
    parts = [digest(share(mixed, rank, size), epoch) for rank in range(size)]
    assert sum(parts) % 2**128 == of(ids, epoch)
    sums = np.sum([limbs(part) for part in parts], axis=0)
    assert from_limbs(sums.tolist()) == of(ids, epoch)


@given(ids=id_lists, other=id_lists)
def test_other_samples_have_another_digest(ids: list[int], other: list[int]) -> None:
    assert (of(ids) == of(other)) == (sorted(ids) == sorted(other))


def test_errors_that_keep_count_and_sum_are_seen() -> None:
    ids = list(range(1000))
    wrong = [ids[1:] + [1], [*ids[:500], 499, *ids[501:]], [1, 1, *ids[:1], *ids[3:]], [*ids, 5], ids[:-1]]
    assert len({of(ids), *map(of, wrong)}) == 6
    assert of(ids, epoch=0) != of(ids, epoch=1)


def test_many_copies_of_a_sample_do_not_cancel() -> None:
    assert len({of([7] * count) for count in (0, *(2**k for k in range(14)))}) == 15


@given(value=st.integers(0, 2**128 - 1), ranks=st.integers(1, 5000))
def test_limbs_add_up_in_float64_without_rounding(value: int, ranks: int) -> None:
    assert from_limbs(limbs(value)) == value
    assert from_limbs([number * ranks for number in limbs(value)]) == value * ranks % 2**128


def test_each_bit_of_the_hash_is_even() -> None:
    """Of 20,000 consecutive ids each of the 64 bits is set in half: within five standard deviations."""
    words = hashes(np.arange(20_000), 1, 2)
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=0)
    assert np.abs(bits.astype(float) - 10_000).max() < 5 * np.sqrt(20_000) / 2
    assert len(np.unique(words)) == 20_000


def test_keys_with_the_same_sum_hash_apart() -> None:
    assert len({int(hashes(np.array([5]), *key)[0]) for key in ((1, 2), (2, 1), (0, 3), (3, 0), (3,), (0, 0, 3))}) == 6
    assert hashes(np.array([5]), 2**80 + 1)[0] != hashes(np.array([5]), -(2**63))[0]


def test_what_should_have_been_seen() -> None:
    order = Order(100, 8, 3)
    assert expected(order, 2, 0, 100) == of(list(range(100)), 2)
    seen = list(order.steps_from(2, 16))[:3]
    assert expected(order, 2, 16, 40) == digest(np.concatenate(seen), 2)
    assert expected(order, 2, 16, 16) == 0


def test_digests_are_those_of_earlier_runs() -> None:
    """What was recorded once must stay provable."""
    assert of([]) == 0
    assert of([0, 1, 2], 5) == 0xF16EF27869B48277D7332072DCC5B467
