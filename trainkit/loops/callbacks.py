"""What may happen beside training: a small protocol, and the two callbacks that most want.

A callback is asked at six places. What it keeps between epochs belongs in `state` (plain values) and `tensors`: both
are part of every checkpoint, so that a resumed run decides as an uninterrupted one would. All ranks call all callbacks
with the same metrics; what must happen once belongs behind `training.world.rank == 0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.loops.engine import Training


class Callback:
    """Does nothing; override what is needed. `training` is the fit: its loop, model, world, step, epoch, history."""

    def on_start(self, training: Training) -> None:
        """Before the first step, after a resumed state was restored."""

    def on_epoch_start(self, training: Training) -> None:
        """Before an epoch's first step of this process."""

    def on_step(self, training: Training) -> None:
        """After each optimizer step. Reading a tensor's value here waits for the device."""

    def on_train_end(self, training: Training, metrics: Mapping[str, Any]) -> None:
        """After an epoch's training, before its evaluation; `metrics` has train_loss."""

    def on_epoch_end(self, training: Training, metrics: Mapping[str, Any]) -> None:
        """After an epoch's evaluation; `metrics` has all of the epoch's. `training.stop()` ends the fit here."""

    def on_end(self, training: Training) -> None:
        """After the last epoch."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback, as JSON values."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of this callback, as tensors on the CPU."""
        return {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse of both."""


class _Watching(Callback):
    """A callback that knows the best value so far of one metric."""

    def __init__(self, metric: str, mode: str) -> None:
        if mode not in ("min", "max"):
            raise UserErrorException(f"mode is 'min' or 'max', not {mode!r}.")
        self.metric, self.mode = metric, mode
        self.best: float | None = None
        self.best_epoch = -1

    def improved(self, training: Training, metrics: Mapping[str, Any], by: float = 0.0) -> bool:
        """Whether this epoch's value is better than all before by more than `by`, and now the best."""
        if self.metric not in metrics:
            raise UserErrorException(
                f"{type(self).__name__} watches {self.metric!r}, but an epoch measures: {', '.join(metrics)}."
            )
        value = metrics[self.metric]
        if not isinstance(value, float):
            raise UserErrorException(f"{type(self).__name__} watches {self.metric!r}, which is no number but a table.")
        better = value == value and (
            self.best is None or (value < self.best - by if self.mode == "min" else value > self.best + by)
        )
        if better:
            self.best, self.best_epoch = value, training.epoch
        return better

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]


class EarlyStopping(_Watching):
    """Ends the fit after `patience` epochs in which `metric` did not get better by more than `min_delta`."""

    def __init__(self, metric: str = "val_loss", mode: str = "min", patience: int = 3, min_delta: float = 0.0) -> None:
        super().__init__(metric, mode)
        if type(patience) is not int or patience < 1:
            raise UserErrorException(f"patience is a whole number of epochs from 1, not {patience!r}.")
        if not isinstance(min_delta, (int, float)) or not min_delta >= 0:
            raise UserErrorException(f"min_delta is a number from 0, not {min_delta!r}.")
        self.patience, self.min_delta = patience, min_delta

    def on_epoch_end(self, training: Training, metrics: Mapping[str, Any]) -> None:
        if not self.improved(training, metrics, self.min_delta) and training.epoch - self.best_epoch >= self.patience:
            training.stop()


class KeepBest(_Watching):
    """Gives the model, at the end of the fit, the weights of the epoch in which `metric` was best."""

    def __init__(self, metric: str = "val_loss", mode: str = "min") -> None:
        super().__init__(metric, mode)
        self.weights: dict[str, Tensor] = {}

    def on_epoch_end(self, training: Training, metrics: Mapping[str, Any]) -> None:
        if self.improved(training, metrics):
            self.weights = {k: v.detach().to("cpu", copy=True) for k, v in training.model.state_dict().items()}

    def on_end(self, training: Training) -> None:
        if self.weights:
            training.model.load_state_dict(self.weights)

    def tensors(self) -> dict[str, Tensor]:
        return self.weights

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().restore(state, tensors)
        self.weights = dict(tensors)
