"""The smallest protocol by which ranks add up their tensors; three libraries speak it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from trainkit.boot import pulse


class Work(Protocol):
    """A sum under way."""

    def wait(self) -> None:
        """Return when the tensor holds the sum (on CUDA: when what is queued next on this stream will find it)."""


class Collective(Protocol):
    """The ranks of one world; all of them make the same calls in the same order."""

    name: str  # "gloo" | "nccl" | "horovod" | "mpi" | "alone"
    rank: int
    size: int

    def allreduce(self, flat: Tensor) -> Work:
        """Start to sum a contiguous tensor over the ranks, in place: float16/32/64, bfloat16, int64 or uint8.

        Every rank gets the same bits, in every run the same ones.
        """

    def broadcast(self, flat: Tensor) -> None:
        """Give rank 0's values to all ranks, in place; contiguous, of any type, to the bit."""

    def apart(self) -> Collective:
        """The same ranks, whose calls have an order of their own; all ranks ask for it together."""

    def close(self) -> None:
        """Part; blocks nobody."""


class Ranks:
    """What collectives have in common: a copied model speaks to the same ranks, a stored one to none."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Alone, ()


class Done:
    """A sum that needs no waiting."""

    def wait(self) -> None:
        """Nothing to wait for."""


class Alone(Ranks):
    """A world of one rank: every sum is what it was."""

    name = "alone"
    rank = 0
    size = 1

    def allreduce(self, flat: Tensor) -> Work:
        """The sum over one rank."""
        return Done()

    def broadcast(self, flat: Tensor) -> None:
        """Rank 0 is this one."""

    def apart(self) -> Collective:
        """Itself: nobody's order can differ."""
        return self

    def close(self) -> None:
        """Nobody to part from."""


def total(collective: Collective, tensor: Tensor) -> Tensor:
    """The tensor's sum over the ranks, as a new tensor; the tensor itself where there is one rank. Waits for it."""
    if collective.size == 1:
        return tensor
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    with pulse.current().waiting():
        collective.allreduce(summed).wait()
    return summed


def gather(collective: Collective, data: bytes) -> list[bytes]:
    """Every rank's bytes, in rank order, in every rank."""
    if collective.size == 1:
        return [data]
    lengths = torch.zeros(collective.size, dtype=torch.int64)
    lengths[collective.rank] = len(data)
    sizes = [int(n) for n in total(collective, lengths)]
    joined = torch.zeros(sum(sizes), dtype=torch.uint8)
    if data:
        first = sum(sizes[: collective.rank])
        joined[first : first + len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    text = total(collective, joined).numpy().tobytes() if len(joined) else b""
    ends = [sum(sizes[: n + 1]) for n in range(collective.size)]
    return [text[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def barrier(collective: Collective) -> None:
    """Wait until every rank has come here."""
    total(collective, torch.zeros(1, dtype=torch.int64))


def as_bytes(flat: Tensor) -> Tensor:
    """A contiguous tensor's memory as bytes."""
    return flat.detach().view(-1).view(torch.uint8)
