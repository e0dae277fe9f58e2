"""The checkpoints of a fit, of whatever kind: where they lie, when ranks write and read them, and the run's record.

What one checkpoint holds is for `TorchStore` and `FastaiStore` to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torch import Tensor

from trainkit.boot import pulse
from trainkit.boot.settings import settings
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops.checkpoints import Checkpoints, Saved, load
from trainkit.loops.history import History
from trainkit.loops.position import Position
from trainkit.loops.preemption import Preempted
from trainkit.loops.recording import Recording, part
from trainkit.loops.saving import Saving, refuse_unwritable
from trainkit.loops.together import each, together
from trainkit.loops.world import World

_MODULUS = 1 << 128
_ends: dict[str, int] = {}  # by writer: where this run's record stood when the last fit that is complete was saved


class Kept(Protocol):
    """What every kind of fit has; `at` is its position."""

    world: World
    at: Any
    history: History

    def taken_digest(self) -> int:
        """The digest of this rank's samples since the last call."""


class Store:
    """A fit's checkpoints: written by rank 0, read by all.

    `number` is the fit's among those of a script: another run's checkpoints of the same one are what it goes on from.
    """

    def __init__(
        self, fit: Kept, recording: Recording, saving: Saving | None, folder: Path | None, number: int,
        resume: str | Path | None,
    ) -> None:  # fmt: skip
        self.fit, self.recording, self.number, self.asked = fit, recording, number, resume
        self.folder = None if saving is None else folder
        self.checkpoints: Checkpoints | None = None
        if self.folder is not None and saving is not None and fit.world.rank == 0:
            self.checkpoints = Checkpoints(self.folder, saving.keep)

    def own_state(self) -> dict[str, Any]:
        """What only this rank knows, as JSON values."""
        raise NotImplementedError

    def contents(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What all ranks share, as tensors by group and as JSON values."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What two fits must share for one to go on from the other's checkpoint, as JSON values."""
        raise NotImplementedError

    def place(self) -> str:
        """Where the fit is, for people."""
        raise NotImplementedError

    def save(self, own: Mapping[str, Any] | None = None) -> None:
        """A checkpoint of where the fit is now, written behind the training; all ranks call it at the same step.

        `own` is this rank's state if another moment's is meant.
        """
        if self.folder is None:
            return
        with pulse.current().during(pulse.SAVING):
            self._save(own)

    def _save(self, own: Mapping[str, Any] | None) -> None:
        collective, run, digest = self.fit.world.collective, self.recording.run, self.fit.taken_digest()
        ranks = each(
            collective,
            lambda: {
                **(self.own_state() if own is None else own),
                "digest": f"{digest:032x}",
                "marks": {} if run is None else run.mark(),
            },
        )
        self._close_part(self.fit.at, sum(int(rank["digest"], 16) for rank in ranks) % _MODULUS)
        together(collective, lambda: self._write(ranks))

    def _close_part(self, at: Position, digest: int) -> None:
        """What was trained on since the last checkpoint becomes a part of the epoch's account, in all ranks alike."""
        if at.seen > at.start and at.trained is None:
            at.parts = [*at.parts, part(at, digest, self.fit.world.size, self.recording.attempt)]
            at.start = at.seen

    def _write(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Rank 0's part of saving."""
        if self.checkpoints is not None:
            tensors, state = self.contents()
            at = self.fit.at
            self.checkpoints.save(at.step, tensors, {**state, "fit": self.facts()}, ranks, at.samples)

    def wait(self) -> None:
        """Until what was saved is on the disk."""
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def finish(self) -> None:
        """The same, in all ranks: none goes on before the disk has it all, or where it could not take it."""
        together(self.fit.world.collective, self.wait)

    def settle(self) -> None:
        """An error ends the fit: what is being written is written out, and says nothing of its own."""
        with suppress(TrainkitError):
            self.wait()

    def leave(self, own: Mapping[str, Any] | None = None) -> NoReturn:
        """Save, and end this process so that it is run again; every rank comes here at the same step."""
        self.save(own)
        self.finish()  # nobody's end may take rank 0 down before
        where = "" if self.folder is None else f"; the checkpoint is in {self.folder}"
        raise Preempted(f"Asked to end at {self.place()}{where}.")

    def newest(self) -> Path | None:
        """The checkpoint to go on from, the same in all ranks: the fit's own newest, else what was asked for."""
        told = each(self.fit.world.collective, lambda: self._found() if self.fit.world.rank == 0 else "")[0]
        return Path(told) if told else None

    def _found(self) -> str:
        """The same, as rank 0 sees it."""
        if self.folder is not None:
            refuse_unwritable(self.folder)
        own = None if self.checkpoints is None else self.checkpoints.newest()
        if own is not None:
            return str(own.path)
        if self.asked:
            return str(load(Path(self.asked)).path)
        asked = settings().resume_from
        if not asked:
            return ""
        place = Path(asked)
        if self.number > 1:  # the same fit of that run
            name = numbered(place, self.number).name
            place = next((p for p in place.glob(f"**/{name}") if p.is_dir()), Path())
        return str(load(place).path) if place.name else ""

    def refuse_another_fit(self, saved: Saved) -> Saved:
        """Raises UserErrorException where a checkpoint is of a fit with other settings, which it would go on as."""
        then: Mapping[str, Any] = saved.state.get("fit", {})
        odd = [f"{k} was {then.get(k)!r} and is {v!r}" for k, v in self.facts().items() if then.get(k) != v]
        if odd:
            raise UserErrorException(
                f"The checkpoint {saved.path} is of another fit: {'; '.join(odd)}. Give the same settings to go on, or "
                "another folder to begin anew."
            )
        return saved

    def take_up_record(self, saved: Saved, complete: bool) -> bool:
        """The run's metrics are those up to the checkpoint: later ones are void, in another run they are told again.

        Whether the checkpoint is this run's own; `complete` says that nothing of the fit is left to do.
        """
        run, rank = self.recording.run, self.fit.world.rank
        if run is None:
            return False
        if self.recording.folder is not None and self.recording.folder in saved.path.parents:
            marks = {name: mark for each_rank in saved.ranks for name, mark in each_rank["marks"].items()}
            own = f"rank-{rank}"
            _ends[own] = marks.get(own, 0)
            run.rewind(marks if rank == 0 and not complete else {own: _ends[own]}, void="own" if complete else "both")
            return True
        if rank == 0:
            run.tag("resumed_from", str(saved.path))
        for row in self.fit.history.rows:
            self.recording.log({name: value for name, value in row.items() if name not in ("epoch", "phase")})
        if self.fit.at.trained is not None:
            self.recording.log(self.fit.at.trained)
        return False

    def begin_again(self) -> None:
        """No checkpoint knows what comes now: what earlier attempts have measured since the fit before is void."""
        if self.recording.run is not None and self.recording.attempt > 1:
            own = f"rank-{self.fit.world.rank}"
            self.recording.run.rewind({own: _ends.get(own, 0)}, void="earlier")


def numbered(folder: Path, number: int) -> Path:
    """Where a script's fits keep their checkpoints: the first in the folder itself, later ones in one below."""
    return folder if number == 1 else folder / f"fit-{number}"
