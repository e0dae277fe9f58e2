"""What a live progress bar needs to know, as rows of one metric."""

from __future__ import annotations

import time

from trainkit import Run

_TRAINING_SHARE = 0.85  # of an epoch's time; the rest is validation


class Progress:
    """The running sums of one pass over a split; every step adds a row to the run's metric "progress".

    Its columns: phase ("train" or "val"), epoch (from 0) of epochs, step (from 1) of steps, the pass's mean loss and
    accuracy so far on this rank's pictures, images_per_second of all ranks, and done, the share of the whole job.
    """

    def __init__(self, run: Run, phase: str, epoch: int, epochs: int, steps: int, ranks: int) -> None:
        self.run, self.phase, self.epoch, self.epochs, self.steps, self.ranks = run, phase, epoch, epochs, steps, ranks
        self.loss, self.right, self.seen, self.step = 0.0, 0, 0, 0
        self._started = time.monotonic()

    def add(self, loss: float, right: int, seen: int) -> None:
        """One step more: the sum of its losses, how many answers were right, of how many."""
        self.loss += loss
        self.right += right
        self.seen += seen
        self.step += 1
        before, share = (0.0, _TRAINING_SHARE) if self.phase == "train" else (_TRAINING_SHARE, 1 - _TRAINING_SHARE)
        self.run.log_row(
            "progress",
            phase=self.phase,
            epoch=self.epoch,
            epochs=self.epochs,
            step=self.step,
            steps=self.steps,
            loss=self.loss / self.seen,
            accuracy=self.right / self.seen,
            images_per_second=self.seen * self.ranks / (time.monotonic() - self._started),
            done=(self.epoch + before + share * self.step / self.steps) / self.epochs,
        )
