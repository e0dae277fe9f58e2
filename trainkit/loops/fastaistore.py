"""Saves a fastai fit into checkpoints and takes it up again, in any phase, at any batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.loops import capture
from trainkit.loops.checkpoints import Saved, load
from trainkit.loops.fastaistate import join_losses, optimizer_state, progress_of, set_optimizer, set_progress
from trainkit.loops.position import Position
from trainkit.loops.recording import Recording
from trainkit.loops.store import Store, numbered
from trainkit.loops.together import together

if TYPE_CHECKING:
    from trainkit.loops.fastaifit import Fit


@dataclass
class Place(Position):
    """How far the phases have come: `epoch` counts through all of them, `phase_epoch` within one."""

    phase: int = 0
    phase_epoch: int = 0


class FastaiStore(Store):
    """The checkpoints of a loop's phases."""

    fit: Fit

    def __init__(self, fit: Fit, recording: Recording) -> None:
        saving, number = fit.loop.saving, recording.fit
        folder = None if recording.folder is None else numbered(recording.folder, number)
        if saving is not None and saving.folder is not None:
            folder = Path(saving.folder)
        self._complete = False  # a checkpoint of this run has all phases of its script so far behind it
        super().__init__(fit, recording, saving, folder, number, fit.loop.resume)

    def own_state(self) -> dict[str, Any]:
        """Streams of random numbers, and what callbacks and metrics hold."""
        return {"streams": capture.streams(), "progress": progress_of(self.fit.learner)}

    def contents(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Model, optimizer, scaler, phases, position, history."""
        fit = self.fit
        tensors, optimizer = optimizer_state(fit.learner.opt)
        state = {
            "phases": fit.described[: fit.at.phase + 1],
            "position": asdict(fit.at),
            "history": fit.history.rows,
            "optimizer": optimizer,
            "scaler": None if fit.scaler is None else fit.scaler.state_dict(),
        }
        return {"model": fit.learner.model.state_dict(), "optimizer": tensors}, state

    def facts(self) -> dict[str, Any]:
        """Data, order, precision, and the kind of optimizer; the phases are compared one by one."""
        fit = self.fit
        return {
            "samples": fit.order.count,
            "batch": fit.order.batch,
            "seed": fit.order.seed,
            "shuffle": fit.order.shuffle,
            "precision": fit.loop.precision,
            "optimizer": type(fit.learner.opt).__name__,
            "parameters": sum(p.numel() for p in fit.learner.model.parameters()),
        }

    def place(self) -> str:
        """The step, and the epoch through all phases."""
        return f"step {self.fit.at.step}, in epoch {self.fit.at.epoch}"

    def found(self) -> Saved | None:
        """The checkpoint to go on from: the newest of these phases, else the one that was asked for; None for none."""
        path = self.newest()
        if path is None:
            self.begin_again()
            return None
        return together(self.fit.world.collective, lambda: self.refuse_another_fit(load(path)))

    def take_up(self, saved: Saved, phases: int) -> None:
        """Position, history and the run's record as they were; once, before any of the `phases`."""
        fit = self.fit
        for name, value in saved.state["position"].items():
            setattr(fit.at, name, value)
        fit.history.rows = saved.state["history"]
        self.restore(saved)
        complete = fit.at.phase >= phases
        self._complete = self.take_up_record(saved, complete) and complete

    def begin(self) -> None:
        """A phase begins that no checkpoint knows: what earlier attempts have measured of it is void."""
        if self._complete:
            self.begin_again()
            self._complete = False

    def restore(self, saved: Saved) -> None:
        """Weights, optimizer, and this rank's own state."""
        fit, world = self.fit, self.fit.world
        fit.learner.model.load_state_dict(saved.tensors["model"])
        set_optimizer(fit.learner.opt, saved.tensors.get("optimizer", {}), saved.state["optimizer"])
        if fit.scaler is not None:
            fit.scaler.load_state_dict(saved.state["scaler"])
        mine = saved.ranks[world.rank if saved.world_size == world.size else 0]
        set_progress(fit.learner, mine["progress"])
        if saved.world_size != world.size:
            join_losses(fit.learner, [rank["progress"] for rank in saved.ranks])
        if saved.world_size == world.size or world.rank == 0:
            capture.set_streams(mine["streams"])
        else:
            torch.manual_seed(fit.loop.seed + fit.at.step * world.size + world.rank)
