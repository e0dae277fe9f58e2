"""Saves a fastai fit into checkpoints and takes it up again, in any phase, at any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from trainkit.boot.settings import settings
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops import capture
from trainkit.loops.checkpoints import Checkpoints, Saved, load
from trainkit.loops.digest import digest
from trainkit.loops.fastaistate import join_losses, optimizer_state, progress_of, set_optimizer, set_progress
from trainkit.loops.position import Position
from trainkit.loops.preemption import Preempted
from trainkit.loops.recording import Recording, part
from trainkit.loops.saving import refuse_unwritable
from trainkit.loops.together import each, together

if TYPE_CHECKING:
    from trainkit.loops.fastaifit import Fit

_MODULUS = 1 << 128


@dataclass
class Place(Position):
    """How far the phases have come: `epoch` counts through all of them, `phase_epoch` within one."""

    phase: int = 0
    phase_epoch: int = 0


class FastaiStore:
    """The checkpoints of a loop's phases: written by rank 0, read by all."""

    def __init__(self, fit: Fit, recording: Recording) -> None:
        saving = fit.loop.saving
        self.fit, self.recording = fit, recording
        own = recording.folder
        if own is not None and recording.fit > 1:  # of a script's second loop
            own = own / f"fit-{recording.fit}"
        folder = None if saving is None else saving.folder or own
        self.folder = None if folder is None else Path(folder)
        self._marks: dict[str, int] = {}  # where the record stood when all phases so far were complete
        self.checkpoints: Checkpoints | None = None
        if self.folder is not None and saving is not None and fit.world.rank == 0:
            self.checkpoints = Checkpoints(self.folder, saving.keep)

    def own_state(self) -> dict[str, Any]:
        """What only this rank knows: its streams of random numbers, and what its callbacks and metrics hold."""
        return {"streams": capture.streams(), "progress": progress_of(self.fit.learner)}

    def save(self, own: Mapping[str, Any] | None = None) -> None:
        """A checkpoint of where the fit is, by all ranks; `own` is this rank's state if another moment's is meant."""
        if self.folder is None:
            return
        fit, at = self.fit, self.fit.at
        run = self.recording.run
        ranks = each(
            fit.world.collective,
            lambda: {
                **(own or self.own_state()),
                "digest": f"{fit.taken_digest():032x}",
                "marks": {} if run is None else run.mark(),
            },
        )
        if at.seen > at.start and at.trained is None:
            seen = sum(int(rank["digest"], 16) for rank in ranks) % _MODULUS
            at.parts = [*at.parts, part(at, seen, fit.world.size, self.recording.attempt)]
            at.start = at.seen
        together(fit.world.collective, lambda: self._write(ranks))

    def _write(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Rank 0's part of saving."""
        fit, at = self.fit, self.fit.at
        if self.checkpoints is None:
            return
        tensors, optimizer = optimizer_state(fit.learner.opt)
        state = {
            "fit": fit.facts(),
            "phases": fit.described[: at.phase + 1],
            "position": asdict(at),
            "history": fit.history.rows,
            "optimizer": optimizer,
            "scaler": None if fit.scaler is None else fit.scaler.state_dict(),
        }
        self.checkpoints.save(
            at.step, {"model": fit.learner.model.state_dict(), "optimizer": tensors}, state, ranks, at.samples
        )

    def wait(self) -> None:
        """Until what was saved is on the disk."""
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def finish(self) -> None:
        """The same, in all ranks: none goes on before the disk has it all, or where it could not take it."""
        together(self.fit.world.collective, self.wait)

    def leave(self, own: Mapping[str, Any] | None = None) -> NoReturn:
        """Save, and end this process so that it is run again; every rank comes here at the same batch."""
        self.save(own)
        self.finish()  # nobody's end may take rank 0 down before
        where = "" if self.folder is None else f"; the checkpoint is in {self.folder}"
        raise Preempted(f"Asked to end at step {self.fit.at.step}, in epoch {self.fit.at.epoch}{where}.")

    def found(self) -> Saved | None:
        """The checkpoint to go on from: the newest of these phases, else the one that was asked for; None for none."""
        told = each(self.fit.world.collective, self._path)[0]
        if not told:
            if self.recording.run is not None and self.recording.attempt > 1:
                self.recording.run.rewind({f"rank-{self.fit.world.rank}": 0}, void="earlier")
            return None
        return together(self.fit.world.collective, lambda: self._of_this_fit(load(Path(told))))

    def _path(self) -> str:
        """Where rank 0 finds it; nothing in other ranks."""
        if self.fit.world.rank > 0:
            return ""
        if self.folder is not None:
            refuse_unwritable(self.folder)
        own = None if self.checkpoints is None else self.checkpoints.newest()
        return str(own.path) if own is not None else self._asked_for()

    def _of_this_fit(self, saved: Saved) -> Saved:
        """Raises UserErrorException where a checkpoint is of another fit."""
        then, now = saved.state.get("fit", {}), self.fit.facts()
        odd = [f"{k} was {then.get(k)!r} and is {v!r}" for k, v in now.items() if then.get(k) != v]
        if odd:
            raise UserErrorException(
                f"The checkpoint {saved.path} is of another fit: {'; '.join(odd)}. Give the same settings to go on, or "
                "another folder to begin anew."
            )
        return saved

    def _asked_for(self) -> str:
        """The checkpoint that the script or the job names."""
        if self.fit.loop.resume:
            return str(load(Path(self.fit.loop.resume)).path)
        asked, number = settings().resume_from, self.recording.fit
        if not asked:
            return ""
        place = Path(asked)
        if number > 1:  # the same loop of that run
            place = next((p for p in place.glob(f"**/fit-{number}") if p.is_dir()), Path())
        return str(load(place).path) if place.name else ""

    def take_up(self, saved: Saved, phases: int) -> None:
        """Position, history and the run's record as they were; once, before any of the `phases`."""
        fit, run = self.fit, self.recording.run
        for name, value in saved.state["position"].items():
            setattr(fit.at, name, value)
        fit.history.rows = saved.state["history"]
        self.restore(saved)
        if run is None:
            return
        if self.recording.folder is not None and self.recording.folder in saved.path.parents:
            marks = {name: mark for rank in saved.ranks for name, mark in rank["marks"].items()}
            own, complete = f"rank-{fit.world.rank}", fit.at.phase >= phases
            here = marks if fit.world.rank == 0 and not complete else {own: marks.get(own, 0)}
            run.rewind(here, void="own" if complete else "both")
            self._marks = here if complete else {}
            return
        if fit.world.rank == 0:
            run.tag("resumed_from", str(saved.path))
        for row in fit.history.rows:
            self.recording.log({name: value for name, value in row.items() if name not in ("epoch", "phase")})

    def begin(self) -> None:
        """A phase begins that no checkpoint knows: what earlier attempts have measured of it is void."""
        if self._marks and self.recording.run is not None:
            self.recording.run.rewind(self._marks, void="earlier")
            self._marks = {}

    def settle(self) -> None:
        """An error ends the fit: what is being written is written out, and says nothing of its own."""
        with suppress(TrainkitError):
            self.wait()

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


def samples_digest(ids: list[Any], epoch: int) -> int:
    """The digest of the samples in these arrays; 0 for none."""
    import numpy as np

    return digest(np.concatenate(ids), epoch) if ids else 0
