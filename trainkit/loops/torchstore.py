"""Saves a TorchLoop's fit into checkpoints and takes it up again: everything that decides how training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.errors import UserErrorException
from trainkit.loops import capture
from trainkit.loops.checkpoints import Saved, load
from trainkit.loops.position import from_json, to_json
from trainkit.loops.recording import Recording
from trainkit.loops.store import Store, numbered
from trainkit.loops.together import refuse_differences, together

if TYPE_CHECKING:
    from trainkit.loops.callbacks import Callback
    from trainkit.loops.engine import Training


class TorchStore(Store):
    """The checkpoints of a TorchLoop's fit."""

    fit: Training

    def __init__(self, training: Training, recording: Recording) -> None:
        loop, folder, number = training.loop, recording.folder, recording.fit
        saving = None if recording.trace is not None else loop.saving  # a few steps to look at leave nothing
        if saving is not None and saving.folder is not None:
            folder, number = Path(saving.folder).absolute(), loop.fits
        if saving is None or folder is None:
            number = 1
        place = None if folder is None else numbered(folder, number)
        super().__init__(training, recording, saving, place, number, loop.resume)

    def own_state(self) -> dict[str, Any]:
        """Streams of random numbers, and sums over the epoch."""
        return {"streams": capture.streams(), "tally": self.fit.tally.state()}

    def contents(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Model, optimizer, scaler, position, history, callbacks."""
        training = self.fit
        tensors, state = capture.capture(training.model, training.optimizer, training.scaler)
        for i, callback in enumerate(training.loop.callbacks):
            if found := callback.tensors():
                _refuse_others(callback, found)
                tensors[f"callback{i}"] = found
        state.update(
            position=training.at.to_json(),
            history=[to_json(row) for row in training.history.rows],
            callbacks=[callback.state() for callback in training.loop.callbacks],
        )
        return tensors, state

    def facts(self) -> dict[str, Any]:
        """Data, order, length, and how the optimizer is used."""
        training, loop = self.fit, self.fit.loop
        return {
            "samples": training.order.count,
            "batch": training.order.batch,
            "seed": training.order.seed,
            "steps": training.steps,
            "accumulate": loop.accumulate,
            "precision": loop.precision,
            "clip": loop.clip,
            "schedule": _named(loop.schedule),
            "momentum": _named(loop.momentum),
            "optimizer": type(loop.optimizer).__name__,
            "rates": [float(rate) for rate in training.rates],
            "callbacks": [type(callback).__name__ for callback in loop.callbacks],
        }

    def place(self) -> str:
        """The step."""
        return f"step {self.fit.step} of {self.fit.steps}"

    def resume(self) -> bool:
        """Take the fit up where a checkpoint stands; False where there is none to go on from."""
        if self.recording.trace is not None:
            return False
        collective = self.fit.world.collective
        refuse_differences(collective, {**self.facts(), "samples of val": len(self.fit.loop.val or ())})
        path = self.newest()
        if path is None:
            self.begin_again()
            return False
        saved = together(collective, lambda: self._take_up(load(path)))
        self.recording.say(f"resumed at {self.place()}, from {saved.path}")
        return True

    def _take_up(self, saved: Saved) -> Saved:
        """Model, optimizer, position, history, callbacks, and this rank's own streams and sums."""
        training = self.fit
        self.refuse_another_fit(saved)
        capture.restore(saved.tensors, saved.state, training.model, training.optimizer, training.scaler)
        state, world = saved.state, training.world
        for name, value in state["position"].items():
            setattr(training.at, name, from_json(value) if name == "trained" and value else value)
        training.history.rows = [from_json(row) for row in state["history"]]
        for i, callback in enumerate(training.loop.callbacks):
            callback.restore(state["callbacks"][i], saved.tensors.get(f"callback{i}", {}))
        if saved.world_size == world.size:
            capture.set_streams(saved.ranks[world.rank]["streams"])
            training.tally.restore(saved.ranks[world.rank]["tally"])
        elif world.rank == 0:
            capture.set_streams(saved.ranks[0]["streams"])
            training.tally.restore(*(rank["tally"] for rank in saved.ranks))
        else:
            torch.manual_seed((training.loop.seed + training.step * world.size + world.rank) % (1 << 63))
        self.take_up_record(saved, training.complete)
        return saved


def _refuse_others(callback: Callback, found: object) -> None:
    """Raises UserErrorException where what a callback wants to have saved are no tensors with names."""
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserErrorException(
            f"{type(callback).__name__}.tensors() gives what a checkpoint keeps, a dict of tensors, not {found!r:.100}."
        )


def _named(function: Any) -> str | None:
    """A schedule, as far as two can be told apart: by its numbers where it shows them, else by its name."""
    if function is None or is_dataclass(function):
        return None if function is None else repr(function)
    return str(getattr(function, "__qualname__", type(function).__qualname__))
