"""What a fit leaves in its run: metrics, an account of every sample, progress; and what it tells people."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainkit.boot import pulse
from trainkit.boot.rundir import Lines, RunDir
from trainkit.boot.settings import settings
from trainkit.errors import TrainkitError
from trainkit.loops.feed import Batch
from trainkit.loops.history import History

if TYPE_CHECKING:
    from trainkit.loops.engine import Training
    from trainkit.loops.order import Order
    from trainkit.loops.position import Position
    from trainkit.loops.torchloop import TorchLoop
    from trainkit.loops.trace import Trace
    from trainkit.run import Run

_PROGRESS_SECONDS = 1.0
_TRAINING_SHARE = 0.85  # of an epoch's time; the rest is its evaluation


class Recording:
    """One fit's record. All ranks log metrics, each its own; rank 0 keeps the account and speaks."""

    def __init__(self, loop: TorchLoop, training: Training) -> None:
        self.training, self.rank, self.size = training, training.world.rank, training.world.size
        self.run: Run | None = _context() if loop.record else None
        self.directory = None if self.run is None else RunDir(self.run.directory)
        self.fit = _next_fit(self.directory)
        self.attempt = 1 if self.run is None else self.run._attempt
        self.speaks = self.rank == 0 and not loop.quiet
        self.trace: Trace | None = _trace(training)
        self._account: Lines | None = None
        self._bar = sys.stderr.isatty() and self.speaks
        self._reports = self._bar or (self.run is not None and self.rank == 0)
        self.due = 0.0 if self._reports else float("inf")  # when progress is to be reported next
        self._begun, self._from, self._took = perf_counter(), 0, 0.0

    @property
    def folder(self) -> Path | None:
        """Where the run keeps its checkpoints; None without a run."""
        return None if self.directory is None else self.directory.checkpoints

    def say(self, text: str) -> None:
        """A line for people, from one rank."""
        if self.speaks:
            print(f"\r\x1b[K{text}" if self._bar else text, flush=True)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Record an epoch's metrics: numbers, tables as confusion matrices, other tensors as lists."""
        if self.run is None:
            return
        for name, value in metrics.items():
            if isinstance(value, Tensor) and value.ndim == 2:
                data = {"class_labels": [str(i) for i in range(len(value))], "matrix": value.tolist()}
                matrix = {"schema_type": "confusion_matrix", "schema_version": "v1", "data": data}
                self.run.log_confusion_matrix(name, matrix)
            elif isinstance(value, Tensor):
                self.run.log_list(name, value.flatten().tolist())
            else:
                self.run.log(name, value)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch is over: record its evaluation, tell it."""
        at, training = self.training.at, self.training
        self.log({name: value for name, value in metrics.items() if name.startswith("val_")})
        words = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if isinstance(v, float))
        self.progress("val", 1, 1, None)
        self.say(f"epoch {at.epoch + 1}/{training.epochs}  {words}  {self._rate(False):,.0f} samples/s")

    def begin(self, seen: int) -> None:
        """An epoch's training begins, `seen` samples into it."""
        self._begun, self._from = perf_counter(), seen
        if self._reports:
            self.due = 0.0

    def rested(self) -> None:
        """The epoch's training is over: from here on the clock is the evaluation's."""
        self._took = perf_counter() - self._begun
        pulse.current().phase(pulse.RESTING)

    def _rate(self, running: bool) -> float:
        took = perf_counter() - self._begun if running else self._took
        return (self.training.at.seen - self._from) / max(1e-9, took)

    def progress(self, phase: str, seen: int, count: int, loss: float | None) -> None:
        """A row of the metric "progress", once a second at most: where the fit is, and how fast.

        Its columns: phase, epoch (from 0) of epochs, step of steps (of the whole fit), loss (the mean of this rank's
        last ones), samples_per_second of all ranks, and done, the share of the whole fit.
        """
        if not self._reports:
            return
        now = perf_counter()
        self.due = now + _PROGRESS_SECONDS
        at, training = self.training.at, self.training
        share = _TRAINING_SHARE * seen / count if phase == "train" else (_TRAINING_SHARE, 1.0)[seen]
        row: dict[str, Any] = {
            "phase": phase, "epoch": at.epoch, "epochs": training.epochs, "step": at.step, "steps": training.steps,
            "samples_per_second": self._rate(phase == "train"), "done": min(1.0, (at.epoch + share) / training.epochs),
        }  # fmt: skip
        if loss is not None:
            row["loss"] = loss
        if self.run is not None:
            self.run.log_row("progress", **row)
        if self._bar:
            words = f"epoch {at.epoch + 1}/{training.epochs} {phase}  step {at.step}/{training.steps}"
            print(f"\r\x1b[K{words}  {row['done']:.0%}", end="", file=sys.stderr, flush=True)

    def account(self, at: Position, digest: int, order: Order) -> None:
        """The samples of an epoch whose training is over: one row of the run's account, and the hash of all so far."""
        parts = [*at.parts, part(at, digest, self.size, self.attempt)] if at.seen > at.start else at.parts
        at.parts, at.start = parts, at.seen
        text = json.dumps([at.samples, at.epoch, [[p["start"], p["stop"], p["digest"]] for p in parts]])
        at.samples = hashlib.sha256(text.encode()).hexdigest()
        if self.directory is None or self.rank > 0 or at.seen < order.count:
            return
        facts = {"samples": order.count, "batch": order.batch, "seed": order.seed, "shuffle": order.shuffle}
        try:
            self._account = self._account or Lines(self.directory.samples)
            self._account.append({"fit": self.fit, "epoch": at.epoch, **facts, "parts": parts})
        except OSError as error:
            raise TrainkitError(
                f"The account of epoch {at.epoch}'s samples cannot be written to {self.directory.samples} "
                f"({error.strerror}); make room, and run it again to go on."
            ) from error

    def traced(self, micros: Sequence[Batch]) -> None:
        """One step for `trainkit check`, where that is watching."""
        training = self.training
        assert self.trace is not None
        rates = [float(group["lr"]) for group in training.optimizer.param_groups]
        self.trace.step(training.step, list(micros), training.traced_loss, training.model.named_parameters(), rates)

    def end(self, history: History) -> None:
        """The fit is over: where its time went."""
        self.say(history.advice)
        if self.run is not None and self.rank == 0:
            seconds: dict[str, Any] = self.training.timer.read()
            self.run.log_row("step_time", steps=self.training.timer.steps, **seconds)

    def withdraw(self) -> None:
        """This fit was interrupted: the next one in this process has its number, and goes on with it."""
        if self.directory is not None:
            _fits[self.directory.path] -= 1

    def close(self) -> None:
        """Close what is open."""
        if self._account is not None:
            self._account.close()
            self._account = None
        if self._bar:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def part(at: Position, digest: int, world_size: int, attempt: int) -> dict[str, Any]:
    """A stretch of an epoch's samples, trained on by one world in one attempt."""
    return {
        "start": at.start, "stop": at.seen, "world_size": world_size, "attempt": attempt, "digest": f"{digest:032x}",
    }  # fmt: skip


_fits: dict[Path, int] = {}  # of this process; a script that is run again makes the same ones in the same order


def _next_fit(directory: RunDir | None) -> int:
    """A fit's number in its run, from 1."""
    if directory is None:
        return 1
    _fits[directory.path] = _fits.get(directory.path, 0) + 1
    return _fits[directory.path]


def _context() -> Run:
    from trainkit.run import Run

    return Run.get_context()


def _trace(training: Training) -> Trace | None:
    asked = settings()
    if not asked.trace:
        return None
    from trainkit.loops.trace import Trace

    return Trace(asked.trace, training.world.rank, training.world.size, asked.trace_steps)
