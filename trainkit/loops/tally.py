"""One rank's sums over an epoch: losses, training metrics, and which samples it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainkit.loops.digest import digest_of_parts
from trainkit.loops.metrics import Metric, plus

_FOLD = 256  # losses that are kept as they are before they are added up


class Tally:
    """Added to at every step, read at the end of an epoch and in checkpoints: until then nothing leaves the device."""

    def __init__(self, metrics: Sequence[Metric], device: torch.device) -> None:
        self.metrics, self.device = tuple(metrics), device
        self.reset()

    def reset(self) -> None:
        """Begin an epoch."""
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.count = 0
        self.sums: list[Tensor | None] = [None] * len(self.metrics)
        self._losses: list[Tensor] = []
        self._counts: list[int] = []
        self._ids: list[NDArray[np.int64]] = []

    def add(self, loss: Tensor, outputs: Any, targets: Any, ids: NDArray[np.int64]) -> None:
        """One batch: its mean loss, and what the metrics make of it."""
        self._losses.append(loss.detach())
        self._counts.append(len(ids))
        self._ids.append(ids)
        if len(self._losses) == _FOLD:
            self.fold()
        if self.metrics:
            with torch.no_grad():
                for i, metric in enumerate(self.metrics):
                    self.sums[i] = plus(self.sums[i], metric.sums(outputs, targets))

    def fold(self) -> None:
        """Add up what was kept; the order of additions does not depend on when this is called."""
        for loss, count in zip(self._losses, self._counts, strict=True):
            self.loss.add_(loss, alpha=count)
            self.count += count
        self._losses, self._counts = [], []

    def recent(self) -> float | None:
        """The mean of the last losses, for people; None before the first."""
        kept = self._losses[-_FOLD:]
        return float(torch.stack(kept).double().mean()) if kept else None

    def taken(self, epoch: int) -> int:
        """The digest of the samples since the last call, or since the epoch began."""
        ids, self._ids = self._ids, []
        return digest_of_parts(ids, epoch)

    def state(self) -> dict[str, Any]:
        """As JSON values, exactly; without the samples."""
        self.fold()
        sums = [None if s is None else s.flatten().tolist() for s in self.sums]
        return {"loss": self.loss.item(), "count": self.count, "sums": sums}

    def restore(self, *states: dict[str, Any]) -> None:
        """The sums of these states, which may be those of several ranks."""
        self.reset()
        for state in states:
            self.loss += state["loss"]
            self.count += state["count"]
            for i, values in enumerate(state["sums"]):
                if values is not None:
                    sums = torch.tensor(values, dtype=torch.float64, device=self.device)
                    self.sums[i] = plus(self.sums[i], sums)
