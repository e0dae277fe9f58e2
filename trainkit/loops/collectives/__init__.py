"""Sums over ranks: one small protocol, spoken by torch.distributed, Horovod and MPI."""

from trainkit.loops.collectives.base import Alone, Collective, Work, barrier, gather, total

__all__ = ["Alone", "Collective", "Work", "barrier", "gather", "total"]
