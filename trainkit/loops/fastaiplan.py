"""What a fastai Learner is trained by: one or several phases, each a `fit` of fastai's with fastai's own arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainkit.errors import UserErrorException

Rate = float | slice | None


@dataclass(frozen=True)
class Phase:
    """One call of a Learner's `method`. `freeze` is what its `freeze_to` is given before; None: as it is."""

    method: str
    epochs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    freeze: int | None = None

    def described(self) -> str:
        """The phase in words: what two runs must share for one to go on from the other."""
        words = [f"{name}={value}" for name, value in self.arguments.items()]
        start = [] if self.freeze is None else [f"freeze_to({self.freeze})"]
        return ", ".join([*start, f"{self.method}({', '.join([str(self.epochs), *words])})"])


class Plan(Protocol):
    """What `FastaiLoop.fit()` runs."""

    def phases(self) -> Sequence[Phase]:
        """One after the other."""


def _checked(what: str, value: Any, least: int = 1) -> None:
    if type(value) is not int or value < least:
        raise UserErrorException(f"{what} is a whole number of epochs from {least}, not {value!r}.")


@dataclass(frozen=True)
class Fit:
    """`Learner.fit`: a constant rate."""

    epochs: int
    lr: Rate = None
    wd: float | None = None

    def __post_init__(self) -> None:
        _checked("epochs", self.epochs)

    def phases(self) -> Sequence[Phase]:
        """One phase."""
        return [Phase("fit", self.epochs, {"lr": self.lr, "wd": self.wd})]


@dataclass(frozen=True)
class FitOneCycle:
    """`Learner.fit_one_cycle`: the one-cycle policy."""

    epochs: int
    lr_max: Rate = None
    div: float = 25.0
    div_final: float = 1e5
    pct_start: float = 0.25
    wd: float | None = None
    moms: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        _checked("epochs", self.epochs)

    def phases(self) -> Sequence[Phase]:
        """One phase."""
        return [Phase("fit_one_cycle", self.epochs, _cycle(self))]


@dataclass(frozen=True)
class FineTune:
    """`Learner.fine_tune`: `freeze_epochs` with all but the last parameter group frozen, then `epochs` with none."""

    epochs: int
    base_lr: float = 2e-3
    freeze_epochs: int = 1
    lr_mult: float = 100
    pct_start: float = 0.3
    div: float = 5.0
    div_final: float = 1e5
    wd: float | None = None
    moms: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        _checked("epochs", self.epochs)
        _checked("freeze_epochs", self.freeze_epochs, 0)

    def phases(self) -> Sequence[Phase]:
        """Two phases, as in fastai's own `fine_tune`."""
        rest = {"div_final": self.div_final, "wd": self.wd, "moms": self.moms}
        frozen = {"lr_max": slice(self.base_lr), "pct_start": 0.99, **rest}
        rate = self.base_lr / 2
        free = {"lr_max": slice(rate / self.lr_mult, rate), "pct_start": self.pct_start, "div": self.div, **rest}
        first = [Phase("fit_one_cycle", self.freeze_epochs, frozen, freeze=-1)] if self.freeze_epochs else []
        return [*first, Phase("fit_one_cycle", self.epochs, free, freeze=0)]


def _cycle(plan: FitOneCycle) -> dict[str, Any]:
    names = ("lr_max", "div", "div_final", "pct_start", "wd", "moms")
    return {name: getattr(plan, name) for name in names}
