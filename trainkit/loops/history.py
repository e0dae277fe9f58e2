"""What a fit has measured: one row an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """The metrics of each epoch that was trained: `history["val_accuracy"]` is a list, `history.rows` has the rows.

    `seconds` is the wall clock time of this process's part of the fit, `steps` the optimizer steps of the whole fit,
    `advice` says where the time of a step went and what would help. A resumed fit has the rows of all epochs.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    advice: str = ""

    def __getitem__(self, name: str) -> list[Any]:
        """The values of one metric, oldest first; KeyError says which there are."""
        known = sorted({key for row in self.rows for key in row})
        if name not in known:
            raise KeyError(f"{name!r} was not measured; there are: {', '.join(known)}")
        return [row[name] for row in self.rows if name in row]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """The rows, oldest first."""
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last epoch; empty where none was completed."""
        return self.rows[-1] if self.rows else {}
