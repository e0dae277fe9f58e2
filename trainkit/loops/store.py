"""Saves a fit into checkpoints and takes it up again: everything that decides how training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from trainkit.boot.settings import settings
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops import capture
from trainkit.loops.checkpoints import Checkpoints, Saved, load
from trainkit.loops.position import from_json, to_json
from trainkit.loops.preemption import Preempted
from trainkit.loops.recording import Recording, part
from trainkit.loops.saving import Saving, refuse_unwritable
from trainkit.loops.together import each, refuse_differences, together

if TYPE_CHECKING:
    from trainkit.loops.callbacks import Callback
    from trainkit.loops.engine import Training
    from trainkit.loops.torchloop import TorchLoop

_MODULUS = 1 << 128
_LATER = "fit-"  # a folder of checkpoints below that of the first fit


class Store:
    """A fit's checkpoints: written by rank 0, read by all."""

    def __init__(self, loop: TorchLoop, recording: Recording) -> None:
        self.recording = recording
        saving = None if recording.trace is not None else loop.saving  # a few steps to look at leave nothing
        self.folder = None if saving is None else _folder(loop, saving, recording)
        self.checkpoints = None
        if self.folder is not None and saving is not None and recording.rank == 0:
            self.checkpoints = Checkpoints(self.folder, saving.keep)

    def save(self, training: Training) -> None:
        """A checkpoint of where the fit is now; written behind the training. All ranks call it at the same step."""
        if self.folder is None:
            return
        digest = training.tally.taken(training.at.epoch)
        collective = training.world.collective
        ranks = each(
            collective,
            lambda: {
                "streams": capture.streams(),
                "tally": training.tally.state(),
                "digest": f"{digest:032x}",
                "marks": {} if self.recording.run is None else self.recording.run.mark(),
            },
        )
        self._close_part(training, sum(int(rank["digest"], 16) for rank in ranks) % _MODULUS)
        together(collective, lambda: self._write(training, ranks))

    def _write(self, training: Training, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Rank 0's part of saving."""
        if self.checkpoints is None:
            return
        tensors, state = capture.capture(training.model, training.optimizer, training.scaler)
        for i, callback in enumerate(training.loop.callbacks):
            if found := callback.tensors():
                _refuse_others(callback, found)
                tensors[f"callback{i}"] = found
        whole = {
            **state,
            "fit": _facts(training),
            "position": training.at.to_json(),
            "history": [to_json(row) for row in training.history.rows],
            "callbacks": [callback.state() for callback in training.loop.callbacks],
        }
        self.checkpoints.save(training.step, tensors, whole, ranks, training.at.samples)

    def _close_part(self, training: Training, digest: int) -> None:
        """What was trained on since the last checkpoint becomes a part of the epoch's account, in all ranks alike."""
        at = training.at
        if at.seen > at.start and at.trained is None:
            at.parts = [*at.parts, part(at, digest, training.world.size, self.recording.attempt)]
            at.start = at.seen

    def wait(self) -> None:
        """Until what was saved is on the disk."""
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def finish(self, training: Training) -> None:
        """The same, in all ranks: none goes on before the disk has it all, or where it could not take it."""
        together(training.world.collective, self.wait)

    def settle(self) -> None:
        """An error ends the fit: what is being written is written out, and says nothing of its own."""
        with suppress(TrainkitError):
            self.wait()

    def leave(self, training: Training) -> NoReturn:
        """Save, and end this process so that it is run again; every rank comes here at the same step."""
        self.save(training)
        self.finish(training)  # nobody's end may take rank 0 down before
        where = "" if self.folder is None else f"; the checkpoint is in {self.folder}"
        raise Preempted(f"Asked to end at step {training.step} of {training.steps}{where}.")

    def resume(self, training: Training) -> bool:
        """Take the fit up where a checkpoint stands; False where there is none to go on from."""
        if self.recording.trace is not None:
            return False
        collective = training.world.collective
        refuse_differences(collective, {**_facts(training), "samples of val": len(training.loop.val or ())})
        told = each(collective, lambda: self._found(training) if training.world.rank == 0 else "")[0]
        if not told:
            self._begin_again(training)
            return False
        saved = together(collective, lambda: self._take_up(load(Path(told)), training))
        self.recording.say(f"resumed at step {training.step} of {training.steps}, from {saved.path}")
        return True

    def _found(self, training: Training) -> str:
        """The checkpoint to go on from, as rank 0 sees it: the fit's own newest first, then what was asked for."""
        if self.folder is not None:
            refuse_unwritable(self.folder)
        own = None if self.checkpoints is None else self.checkpoints.newest()
        if own is not None:
            return str(own.path)
        if training.loop.resume:
            return str(load(Path(training.loop.resume)).path)
        asked = settings().resume_from
        if not asked:
            return ""
        place = Path(asked)
        if self.folder is not None and self.folder.name.startswith(_LATER):  # the same fit of that run
            place = next((p for p in place.glob(f"**/{self.folder.name}") if p.is_dir()), Path())
        return str(load(place).path) if place.name else ""

    def _begin_again(self, training: Training) -> None:
        """An attempt that found nothing to go on from: what earlier ones have measured since the fit before is void."""
        if self.recording.run is not None and self.recording.attempt > 1:
            own = f"rank-{training.world.rank}"
            self.recording.run.rewind({own: _ends.get(own, 0)}, void="earlier")

    def _take_up(self, saved: Saved, training: Training) -> Saved:
        """Model, optimizer, position, history, callbacks, and this rank's own streams and sums."""
        _refuse_another_fit(saved, training)
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
        self._set_record(saved, training)
        return saved

    def _set_record(self, saved: Saved, training: Training) -> None:
        """The run's metrics are those up to the checkpoint: later ones are void, in another run they are told again."""
        run = self.recording.run
        if run is None:
            return
        if self.recording.folder is not None and self.recording.folder in saved.path.parents:
            marks = {name: mark for rank in saved.ranks for name, mark in rank["marks"].items()}
            own = f"rank-{training.world.rank}"
            _ends[own] = marks.get(own, 0)
            complete = training.complete
            here = marks if training.world.rank == 0 and not complete else {own: marks.get(own, 0)}
            run.rewind(here, void="own" if complete else "both")
            return
        if training.world.rank == 0:
            run.tag("resumed_from", str(saved.path))
        for row in training.history.rows:
            self.recording.log({name: value for name, value in row.items() if name != "epoch"})
        if training.at.trained is not None:
            self.recording.log(training.at.trained)


_ends: dict[str, int] = {}  # by writer: where this run's record stood when the last fit that is complete was saved


def _folder(loop: TorchLoop, saving: Saving, recording: Recording) -> Path | None:
    """Where a fit's checkpoints lie: in the folder itself, or for a script's second fit and later ones in one below."""
    if saving.folder is not None:
        return _numbered(Path(saving.folder).absolute(), loop.fits)
    if recording.folder is None:
        return None
    return _numbered(recording.folder, recording.fit)


def _refuse_others(callback: Callback, found: object) -> None:
    """Raises UserErrorException where what a callback wants to have saved are no tensors with names."""
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserErrorException(
            f"{type(callback).__name__}.tensors() gives what a checkpoint keeps, a dict of tensors, not {found!r:.100}."
        )


def _numbered(folder: Path, number: int) -> Path:
    return folder if number == 1 else folder / f"{_LATER}{number}"


def _facts(training: Training) -> dict[str, Any]:
    """What two fits must share for one to go on from the other's checkpoint."""
    loop = training.loop
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


def _refuse_another_fit(saved: Saved, training: Training) -> None:
    """Raises UserErrorException where a checkpoint is of a fit with other settings: it would go on as another run."""
    then: Mapping[str, Any] = saved.state.get("fit", {})
    now = _facts(training)
    odd = [f"{name} was {then.get(name)!r} and is {value!r}" for name, value in now.items() if then.get(name) != value]
    if odd:
        raise UserErrorException(
            f"The checkpoint {saved.path} is of another fit: {'; '.join(odd)}. Give the same settings to go on, or "
            "another folder to begin anew."
        )


def _named(function: Any) -> str | None:
    """A schedule, as far as two can be told apart: by its numbers where it shows them, else by its name."""
    if function is None or is_dataclass(function):
        return None if function is None else repr(function)
    return str(getattr(function, "__qualname__", type(function).__qualname__))
