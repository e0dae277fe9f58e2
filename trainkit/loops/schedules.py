"""Learning rates as pure functions of the optimizer step, so that a resumed run goes on exactly where it was.

A schedule is called with (step, steps): the step about to be made, from 0, and the number of all steps of the fit; it
returns the factor by which each parameter group's own learning rate is multiplied. Steps are optimizer steps: neither
the number of ranks nor accumulation changes them. Any function of these two numbers will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from torch.optim import Optimizer

Schedule = Callable[[int, int], float]


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`, at `share` (0 to 1) of the way."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class OneCycle:
    """Up from 1/`divide` to 1 in the first `warmup` of all steps, then down to 1/(`divide` * `final`), along cosines.

    The one-cycle policy of Smith and Topin, "Super-Convergence" (2018), with fastai's defaults. As a momentum
    schedule use `OneCycleMomentum`.
    """

    warmup: float = 0.25
    divide: float = 25.0
    final: float = 4000.0

    def __post_init__(self) -> None:
        if not 0 < self.warmup < 1 or self.divide < 1 or self.final < 1:
            raise UserErrorException(
                f"OneCycle: warmup is a share between 0 and 1, divide and final are at least 1, not {self}."
            )

    def __call__(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`."""
        share = step / max(1, steps - 1)
        if share < self.warmup:
            return _cosine(1 / self.divide, 1.0, share / self.warmup)
        return _cosine(1.0, 1 / (self.divide * self.final), (share - self.warmup) / (1 - self.warmup))


@dataclass(frozen=True)
class OneCycleMomentum:
    """Momentum of the one-cycle policy: down from `high` to `low` while the rate rises, and back; absolute values."""

    high: float = 0.95
    low: float = 0.85
    warmup: float = 0.25

    def __call__(self, step: int, steps: int) -> float:
        """The momentum at `step` of `steps`."""
        share = step / max(1, steps - 1)
        if share < self.warmup:
            return _cosine(self.high, self.low, share / self.warmup)
        return _cosine(self.low, self.high, (share - self.warmup) / (1 - self.warmup))


@dataclass(frozen=True)
class StepDecay:
    """Multiplied by `factor` at each of the `at` shares of all steps: StepDecay(0.1, at=(0.5, 0.75))."""

    factor: float = 0.1
    at: Sequence[float] = (0.5, 0.75)

    def __post_init__(self) -> None:
        if not self.factor > 0 or not all(0 < share < 1 for share in self.at):
            raise UserErrorException(f"StepDecay: factor is above 0, and `at` has shares between 0 and 1, not {self}.")

    def __call__(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`."""
        return float(self.factor ** sum(step >= share * steps for share in self.at))


@dataclass(frozen=True)
class WarmupCosine:
    """Up in equal steps over the first `warmup` of all steps, then half a cosine down to 0.

    Loshchilov and Hutter, "SGDR" (2017), without restarts; the short rise is that of Goyal et al. (2017).
    """

    warmup: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserErrorException(f"WarmupCosine: warmup is a share of all steps, from 0 to below 1, not {self}.")

    def __call__(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`."""
        rise = max(1, round(self.warmup * steps))
        return min((step + 1) / rise, _cosine(1.0, 0.0, max(0, step - rise) / max(1, steps - rise)))


def set_rates(optimizer: Optimizer, rates: Sequence[float], factor: float) -> None:
    """Give each parameter group `factor` times its own rate. Raises UserErrorException where it is no number."""
    factor = _number("schedule", factor)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor


def _number(name: str, value: Any) -> float:
    if isinstance(value, str) or not hasattr(value, "__float__") or not math.isfinite(value):
        raise UserErrorException(f"{name}(step, steps) has given {value!r}, but must give a finite number.")
    return float(value)


def set_momentum(optimizer: Optimizer, value: float) -> None:
    """Give each group this momentum, or first beta; raises UserErrorException where the optimizer has neither."""
    value = _number("momentum", value)
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = value
        elif "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        else:
            raise UserErrorException(
                f"momentum= was given, but {type(optimizer).__name__} has neither momentum nor betas."
            )
