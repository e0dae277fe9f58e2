"""How far a fit has come, as every checkpoint has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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
        """As plain values."""
        return asdict(self)
