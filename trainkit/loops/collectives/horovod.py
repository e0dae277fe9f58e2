"""Sums by Horovod, over whatever horovodrun or mpirun has given it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainkit.boot.contact import fix_horovod
from trainkit.errors import MissingPackage, RunEnvironmentException
from trainkit.loops.collectives.base import Collective, Done, Ranks, Work, as_bytes

# Types that Horovod cannot sum, or only by rounding after each rank; and those in which they are summed.
_WIDE = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.uint8: torch.int32}


class _Sum:
    """One sum under way."""

    def __init__(self, line: Horovod, key: tuple[torch.dtype, int], flat: Tensor, wide: Tensor) -> None:
        self._line, self._key, self._flat, self._wide = line, key, flat, wide
        self._handle = line.start(key, wide)

    def wait(self) -> None:
        """Wait for Horovod; bring the sum back to the tensor's own type."""
        self._line.end(self._key, self._handle)
        if self._wide is not self._flat:
            self._flat.copy_(self._wide)


class Horovod(Ranks):
    """All ranks that Horovod knows. Tensors are told apart by name, so that ranks may be late with some."""

    name = "horovod"

    def __init__(self, hvd: Any, label: str = "trainkit") -> None:
        self._hvd, self._label = hvd, label
        self.rank, self.size = int(hvd.rank()), int(hvd.size())
        self._lines = 0
        self._open: dict[tuple[torch.dtype, int], int] = {}

    def allreduce(self, flat: Tensor) -> Work:
        """Start a sum; Horovod's own thread carries it out."""
        if not flat.numel():
            return Done()
        wide = flat.to(_WIDE[flat.dtype]) if flat.dtype in _WIDE else flat
        return _Sum(self, (flat.dtype, flat.numel()), flat, wide)

    def start(self, key: tuple[torch.dtype, int], wide: Tensor) -> int:
        """Hand a tensor to Horovod. Names come again in every step: Horovod remembers what it has agreed on by name."""
        number = self._open[key] = self._open.get(key, 0) + 1
        name = f"{self._label}.{key[0]}.{key[1]}.{number}"
        return int(self._hvd.allreduce_async_(wide, op=self._hvd.Sum, name=name))

    def end(self, key: tuple[torch.dtype, int], handle: int) -> None:
        """Wait for a tensor."""
        self._hvd.synchronize(handle)
        self._open[key] -= 1

    def broadcast(self, flat: Tensor) -> None:
        """Rank 0's bytes to all."""
        if flat.numel():
            self._hvd.broadcast_(as_bytes(flat), 0, name=f"{self._label}.rank0.{flat.numel() * flat.element_size()}")

    def apart(self) -> Collective:
        """The same ranks under names of their own."""
        self._lines += 1
        return Horovod(self._hvd, f"{self._label}.{self._lines}")

    def close(self) -> None:
        """Nothing: Horovod parts by itself when the process ends."""


def over_horovod(rank: int, size: int) -> Horovod:
    """Start Horovod in this rank of `size`.

    Raises MissingPackage without Horovod, RunEnvironmentException where it sees another world or has been started with
    settings under which sums differ from run to run.
    """
    try:
        import horovod.torch as hvd
    except ImportError as error:
        raise MissingPackage(
            f"backend='horovod' needs Horovod, which does not load ({error}). Build it for this torch with "
            "scripts/build-horovod of trainkit's source, or use backend='gloo'."
        ) from error
    fixed = fix_horovod()
    if hvd.is_initialized() and not fixed:
        raise RunEnvironmentException(
            "Horovod was started before the loop, with tensor fusion, under which sums differ from run to run. Remove "
            "hvd.init() from the script (the loop calls it), or set HOROVOD_FUSION_THRESHOLD=0."
        )
    hvd.init()
    if (hvd.rank(), hvd.size()) != (rank, size):
        raise RunEnvironmentException(
            f"This is rank {rank} of {size}, but Horovod sees rank {hvd.rank()} of {hvd.size()}: it was not started by "
            f"horovodrun, nor by the mpirun of the MPI that it was built with. Start the script with "
            f"`horovodrun -np {size} python ...`, or use backend='gloo'."
        )
    return Horovod(hvd)
