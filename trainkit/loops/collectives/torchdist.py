"""Sums by torch.distributed: gloo for tensors in main memory, NCCL for those on GPUs that it can use."""

from __future__ import annotations

from typing import cast

import torch.distributed as dist
from torch import Tensor

from trainkit.loops import parting
from trainkit.loops.collectives.base import Collective, Done, Ranks, Work, as_bytes


def group(backend: str) -> dist.ProcessGroup:
    """A new group of all ranks; all of them make it together."""
    return cast(dist.ProcessGroup, dist.new_group(backend=backend))


class TorchDistributed(Ranks):
    """The ranks of torch.distributed's world, or of a group as large as it.

    `cpu` and `cuda` are the groups for tensors of either kind; `nccl` says whether the second is NCCL's.
    """

    def __init__(self, cpu: dist.ProcessGroup, cuda: dist.ProcessGroup, nccl: bool) -> None:
        self.name = "nccl" if nccl else "gloo"
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._groups = [cpu, cuda]
        parting.at_parting(self.close)
        self._sum = dist.AllreduceOptions()
        self._sum.reduceOp = dist.ReduceOp.SUM

    def allreduce(self, flat: Tensor) -> Work:
        """Start a sum; NCCL's runs on a stream of its own."""
        if not flat.numel():
            return Done()
        group = self._groups[flat.is_cuda]
        return cast(Work, group.allreduce([flat], self._sum))

    def broadcast(self, flat: Tensor) -> None:
        """Rank 0's bytes to all."""
        if flat.numel():
            dist.broadcast(as_bytes(flat), 0, group=self._groups[flat.is_cuda])

    def apart(self) -> Collective:
        """Groups of their own, with connections of their own."""
        cpu = group("gloo")
        nccl = self.name == "nccl"
        return TorchDistributed(cpu, group("nccl") if nccl else cpu, nccl)

    def close(self) -> None:
        """Let go of the groups: their threads use Python to the last, and must end before it does."""
        self._groups.clear()
