"""How far a fit has come, as every checkpoint has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch


@dataclass
class Position:
    """How far a fit has come; all of it is in every checkpoint."""

    epoch: int = 0
    seen: int = 0  # samples of this epoch that all ranks together have trained on
    step: int = 0  # optimizer steps of the whole fit
    start: int = 0  # `seen` where this process began
    trained: dict[str, Any] | None = None  # the epoch's training metrics, where only its evaluation is left
    parts: list[dict[str, Any]] = field(default_factory=list)  # the epoch's stretches of samples before `start`
    stopped: bool = False  # a callback has ended the fit
    samples: str = ""  # a hash of all epochs' samples before this one

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "trained": None if self.trained is None else to_json(self.trained)}


def to_json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's metrics with lists in the place of tensors."""
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in metrics.items()}


def from_json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse."""
    return {name: _tensor(value) if isinstance(value, list) else value for name, value in metrics.items()}


def _tensor(values: list[Any]) -> torch.Tensor:
    found = torch.tensor(values)
    return torch.tensor(values, dtype=torch.float64) if found.is_floating_point() else found
