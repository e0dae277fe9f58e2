"""A small fit that tests start, interrupt and compare: float64 data, a network with dropout on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainkit.loops import Accuracy, TorchLoop, WarmupCosine


class Noisy:
    """A source whose samples are changed at random, by their own key: what augmentation does."""

    def __init__(self, count: int = 50, dtype: torch.dtype = torch.float32) -> None:
        numbers = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(count, 6, generator=numbers, dtype=dtype)
        self.targets = (self.inputs.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(
        self, shares: Iterable[NDArray[np.int64]], epoch: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor] | None]:
        for ids in shares:
            if not len(ids):
                yield None
                continue
            noise = np.stack([np.random.default_rng([seed, epoch, int(i)]).normal(size=6) for i in ids])
            chosen = torch.from_numpy(ids)
            yield self.inputs[chosen] + 0.1 * torch.from_numpy(noise).to(self.inputs.dtype), self.targets[chosen]


def loop(dropout: float = 0.0, dtype: torch.dtype = torch.float32, **values: Any) -> TorchLoop:
    """The fit; `values` are TorchLoop's."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2)).to(dtype)
    settings: dict[str, Any] = {
        "loss": nn.functional.cross_entropy,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=0.01),
        "train": Noisy(50, dtype),
        "val": Noisy(23, dtype),
        "metrics": [Accuracy()],
        "batch": 8,
        "schedule": WarmupCosine(),
        "quiet": True,
        "device": "cpu",
    }
    return TorchLoop(model=model, **{**settings, **values})


def weights(loop: TorchLoop) -> list[Tensor]:
    """Copies of the model's parameters and of the optimizer's state."""
    kept = [p.detach().clone() for p in loop.model.parameters()]
    for state in loop.optimizer.state.values():
        kept += [value.clone() for value in state.values() if isinstance(value, Tensor)]
    return kept


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether all are equal, bit by bit."""
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
