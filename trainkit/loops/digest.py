"""A digest of which samples were seen, whatever their order: proves that an epoch saw each exactly once.

Every (epoch, id) is hashed to 128 bits and the hashes are added modulo 2**128, so digests of parts add up to the digest
of the whole, over steps, ranks and resumed stretches (MSet-Add-Hash in Clarke et al., "Incremental multiset hash
functions and their application to memory integrity checking", 2003). A sample that is missing, or there twice, changes
the sum by its hash; that errors cancel by accident has a chance of 2**-128. It is no defence against someone who makes
up ids to that end. The hash is two runs of SplitMix64's mixing function (Steele et al., "Fast splittable pseudorandom
number generators", 2014) with different salts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainkit.loops.order import Ids, Order

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_SALTS = (0x243F6A8885A308D3, 0x13198A2E03707344)  # the digits of pi: nothing up the sleeve


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer: a bijection in which each bit of the input changes half of the output's."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def hashes(ids: Ids, *key: int) -> NDArray[np.uint64]:
    """64 bits for each id that follow from it and from the numbers of `key`, and look random."""
    base = np.zeros(1, np.uint64)
    for number in key:
        base = _mixed(base + np.uint64((number * _GOLDEN + _GOLDEN) & _WORD))
    # Twice: consecutive ids differ by one multiple of a constant, which one round of mixing does not hide well enough.
    return _mixed(_mixed(ids.astype(np.uint64) * np.uint64(_GOLDEN) + base) + base)


def digest(ids: Ids, epoch: int) -> int:
    """128 bits for the samples `ids` (their order does not matter) as seen in an epoch; 0 for none.

    Digests add up: `(digest(a, e) + digest(b, e)) % 2**128 == digest(concatenate([a, b]), e)`. Takes about 20 us and
    20 ns more for each id: call it for many steps at once.
    """
    total = 0
    for place, salt in enumerate(_SALTS):
        words = hashes(ids, salt, epoch)
        low, high = int((words & _LOW).sum(dtype=np.uint64)), int((words >> _HALF).sum(dtype=np.uint64))
        total += (low + (high << 32)) << (64 * place)
    return total & ((1 << 128) - 1)


def digest_of_parts(parts: Sequence[Ids], epoch: int) -> int:
    """The digest of all samples in these arrays; 0 for none."""
    return digest(np.concatenate(parts), epoch) if parts else 0


def limbs(value: int) -> list[float]:
    """A digest as four numbers below 2**32, least first: float64 adds up those of two million ranks exactly."""
    return [float((value >> shift) & 0xFFFFFFFF) for shift in (0, 32, 64, 96)]


def from_limbs(sums: Sequence[float]) -> int:
    """The digest whose limbs, or those of several digests added up, these are."""
    return sum(int(number) << (32 * place) for place, number in enumerate(sums)) & ((1 << 128) - 1)


def expected(order: Order, epoch: int, start: int, stop: int) -> int:
    """The digest of the samples from position `start` to `stop` of an epoch, as they should have been seen."""
    return digest(order.epoch(epoch)[start:stop], epoch)
