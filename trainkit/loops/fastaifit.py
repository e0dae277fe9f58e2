"""Drives a fastai Learner through its phases: fastai's own loop of events, with data, sums and saves that are ours.

A Learner's `fit` calls a few short methods of its own. While a loop runs, six of them are replaced on that Learner, not
in fastai: which epochs are left, which batches, forward, backward, step. All events still happen, in fastai's order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops.agreement import agree, agree_on_buffers
from trainkit.loops.checkpoints import Saved
from trainkit.loops.collectives.base import total
from trainkit.loops.digest import digest_of_parts, from_limbs, limbs
from trainkit.loops.fastaidata import SharedLoader
from trainkit.loops.fastaiplan import Phase
from trainkit.loops.fastaisteps import Batches
from trainkit.loops.fastaistore import FastaiStore, Place
from trainkit.loops.freezing import rest_frozen
from trainkit.loops.history import History
from trainkit.loops.recording import Recording
from trainkit.loops.reducer import Reducer
from trainkit.loops.timer import advice

if TYPE_CHECKING:
    from trainkit.loops.fastailoop import FastaiLoop


class Fit:
    """All phases that one script runs on one Learner."""

    def __init__(self, loop: FastaiLoop) -> None:
        self.loop, self.learner, self.world = loop, loop.learner, loop.world
        self.train, self.val = loop.shared(0), loop.shared(1)
        self.order, self.at, self.history = self.train.order, Place(), History()
        self.batches = Batches(self.learner, self.world, loop.precision, self._leave_evaluation)
        self.timer, self.scaler = self.batches.timer, self.batches.scaler
        self.described: list[str] = []
        self.epochs = self.begun = 0
        self.saved: Saved | None = None
        self._left: Saved | None = None  # what the coming fit is to go on from
        self._own: dict[str, Any] | None = None  # this rank's state before an epoch's evaluation
        self._ids: list[Any] = []
        self._training = False  # whether batches belong to a phase, rather than to a look at the model
        self.recording = Recording(loop, self)  # type: ignore[arg-type]  # asks for what both kinds of fit have
        self.store = FastaiStore(self, self.recording)

    @property
    def step(self) -> int:
        """Optimizer steps made so far."""
        return self.at.step

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, counted through all phases."""
        return self.at.epoch

    @property
    def steps(self) -> int:
        """Optimizer steps of all phases that are known."""
        return self.epochs * self.order.steps

    def taken_digest(self) -> int:
        """The digest of this rank's samples since the last call."""
        ids, self._ids = self._ids, []
        return digest_of_parts(ids, self.at.epoch)

    def run(self, phases: Sequence[Phase]) -> History:
        """One phase after the other, those left out that a checkpoint has behind it."""
        started, first = time.monotonic(), not self.described
        self.epochs += sum(phase.epochs for phase in phases)
        with self.batches.preemption, self.replaced():
            try:
                if first:
                    self._begin(len(phases))
                for phase in phases:
                    self._phase(phase)
                self.store.finish()
            except BaseException:
                self.store.settle()
                raise
            finally:
                self.recording.close()
        self.history.steps, self.history.seconds = self.at.step, self.history.seconds + time.monotonic() - started
        self.history.advice = advice(
            self.timer.read(), self.timer.steps, self.loop.precision, self.loop.channels_last, False
        )
        self.recording.end(self.history)
        return self.history

    def _begin(self, phases: int) -> None:
        """Streams of random numbers, then the state of a checkpoint if there is one."""
        seed = self.loop.seed + 1_000_003 * self.world.rank  # dropout is not the same on all ranks
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        self.saved = self.store.found()
        if self.saved is not None:
            self.store.take_up(self.saved, phases)
            self.recording.say(f"resumed at step {self.at.step}, in epoch {self.at.epoch}, from {self.saved.path}")
        else:
            agree(self.learner.model, self.world.collective)

    def _phase(self, phase: Phase) -> None:
        learner, number = self.learner, len(self.described)
        self.described.append(phase.described())
        self.begun = number
        if self.saved is not None:
            known = self.saved.state["phases"]
            if number < len(known) and known[number] != self.described[-1]:
                raise UserErrorException(
                    f"The checkpoint {self.saved.path} is of a fit whose phase {number} is {known[number]}, not "
                    f"{self.described[-1]}. Ask for the same phases to go on, or name another folder to begin anew."
                )
            if number < self.saved.state["position"]["phase"]:
                return
            begun = self.saved.state["position"]
            self._left = self.saved if begun["phase"] == number and begun["phase_epoch"] + begun["seen"] else None
            self.saved = None
        if self._left is None:
            self.store.begin()
            if phase.freeze is not None:
                learner.freeze_to(phase.freeze)
        if self.world.size > 1:
            self.batches.reducer = Reducer(list(learner.model.parameters()), self.world.collective)
        self._training = True
        try:
            getattr(learner, phase.method)(phase.epochs, cbs=list(self.loop.callbacks), **phase.arguments)
        finally:
            self._training = False
            if self.batches.reducer is not None:
                self.batches.reducer.close()
                self.batches.reducer = None
        self.at.phase, self.at.phase_epoch = number + 1, 0
        if self.loop.saving is not None:
            self.store.save()

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """The Learner with our methods in place of its own; what it shows to people is shown by us, on rank 0."""
        from fastai.callback.progress import ProgressCallback
        from fastcore.imports import IN_NOTEBOOK

        learner, own = self.learner, vars(self.learner)
        shown = [] if IN_NOTEBOOK and self.world.rank == 0 else list(learner.cbs)
        shown = [callback for callback in shown if isinstance(callback, ProgressCallback)]
        logger = learner.logger
        learner.remove_cbs(shown)
        if shown:
            learner.logger = _silent
        ours = {
            "_do_fit": self._do_fit, "_do_epoch_train": self._do_epoch_train, "all_batches": self._all_batches,
            **self.batches.methods(),
        }  # fmt: skip
        own.update(ours)
        try:
            yield
        finally:
            for name in ours:
                own.pop(name, None)
            learner.logger = logger
            learner.add_cbs(shown)

    def _do_fit(self) -> None:
        """The epochs of a phase that are left."""
        from fastai.learner import CancelEpochException, CancelFitException

        learner = self.learner
        if self._left is not None:
            self.store.restore(self._left)  # fit has set rates anew, callbacks have begun
        for epoch in range(self.at.phase_epoch, learner.n_epoch):
            learner.epoch = epoch
            before = len(learner.recorder.values)
            try:
                learner._with_events(learner._do_epoch, "epoch", CancelEpochException)
            except CancelFitException:  # early stopping: the epoch counts where it came to its end
                if len(learner.recorder.values) > before:
                    self._epoch_over(last=True)
                raise
            self._epoch_over(last=epoch + 1 == learner.n_epoch)

    def _do_epoch_train(self) -> None:
        from fastai.learner import CancelTrainException

        self.learner.dl = self.train
        self.learner._with_events(self._all_batches, "train", CancelTrainException)

    def _all_batches(self) -> None:
        """This rank's share of each batch: of training from where the epoch stands, of other data all."""
        learner = self.learner
        if self._training and learner.training and learner.dl is self.train:
            self._train()
            return
        loader = learner.dl
        if not isinstance(loader, SharedLoader):
            loader = self.val if loader is learner.dls[1] else self.loop.shared_with(loader)
        learner.n_iter = len(loader)
        for number, share in enumerate(loader.shares(0)):
            self.batches.one(number, share)

    def _train(self) -> None:
        """Optimizer steps over what is left of the epoch."""
        learner, at, saving = self.learner, self.at, self.loop.saving
        every = (saving.every_steps if saving is not None else None) or 0
        learner.n_iter = len(self.train)
        rest_frozen(learner.model)
        if self._left is not None and at.seen:
            self.store.restore(self._left)  # events of the epoch's begin have happened again
        self._left = None
        before = 0 if learner.recorder.losses is None else len(learner.recorder.losses)
        before -= at.seen // self.order.batch
        self.timer.start(self.at.step)
        self.recording.begin(at.seen)
        for number, share in enumerate(self.train.shares(at.epoch, at.seen), at.seen // self.order.batch):
            self.timer.lap("data")
            self.batches.one(number, share)
            at.step += 1
            at.seen += share.total
            self._ids.append(share.ids)
            self.timer.step()
            if self.timer.lap("optimizer") >= self.recording.due:
                self.recording.progress("train", at.seen, self.order.count, float(learner.loss.detach()))
            if self.batches.asked:
                self.store.leave()
            if every and at.step % every == 0 and at.seen < self.order.count:
                self.store.save()
        self.recording.rested()
        if at.trained is None:
            self._close(max(0, before))
        self._own = self.store.own_state() if self.store.folder is not None else None

    def _close(self, before: int) -> None:
        """The epoch's training is over: losses of all ranks, the account of its samples, one model for all."""
        world, recorder = self.world, self.learner.recorder
        if not torch.isfinite(recorder.smooth_loss.val):
            raise TrainkitError(
                f"The loss of epoch {self.at.epoch} is {float(recorder.smooth_loss.val)}: training has diverged. Lower "
                "the learning rate, or look for bad samples; the last checkpoint is from before."
            )
        if world.size > 1:
            losses = [recorder.smooth_loss.val, *recorder.losses[before:]]
            flat = torch.stack([loss.detach().double().cpu().as_subclass(Tensor) for loss in losses])
            means = (total(world.collective, flat.to(world.device)) / world.size).cpu()
            kind = recorder.smooth_loss.val.dtype
            recorder.smooth_loss.val = means[0].to(kind)
            recorder.losses[before:] = [mean.to(kind) for mean in means[1:]]
        agree_on_buffers(self.learner.model, world.collective)
        own = torch.tensor(limbs(self.taken_digest()), dtype=torch.float64, device=world.device)
        self.recording.account(self.at, from_limbs(total(world.collective, own).tolist()), self.order)
        self.at.trained = {}

    def _leave_evaluation(self) -> None:
        """A rank was asked to end while the model is evaluated."""
        if self._training:
            self.store.leave(self._own)

    def _epoch_over(self, last: bool) -> None:
        """An epoch's metrics become a row, and maybe a checkpoint; the end of a phase makes its own."""
        learner, at, saving = self.learner, self.at, self.loop.saving
        recorder = learner.recorder
        names = [name for name in recorder.metric_names if name not in ("epoch", "time")]
        values = dict(zip(names, recorder.values[-1] if recorder.values else [], strict=False))
        row = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        self.history.rows.append({"epoch": at.epoch, "phase": self.begun, **row})
        self.recording.log(row)
        words = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
        self.recording.say(f"epoch {at.epoch + 1}/{self.epochs}  {words}")
        at.epoch += 1
        at.phase_epoch += 1
        at.seen = at.start = 0
        at.trained, at.parts, self._own = None, [], None
        if saving is not None and not last and at.phase_epoch % saving.every_epochs == 0:
            self.store.save()


def _silent(*_: Any, **__: Any) -> None:
    """Says nothing."""
