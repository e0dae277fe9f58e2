"""One fit, from its first step or from a checkpoint to its end: the loop that everything else is there for.

A step reads no value from the device and makes no exchange with other ranks but the sum of the gradients; that a rank
was asked to end (SIGTERM) travels in one more element of that sum.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.errors import TrainkitError
from trainkit.loops import precision
from trainkit.loops.agreement import agree, agree_on_buffers
from trainkit.loops.callbacks import Callback
from trainkit.loops.digest import from_limbs, limbs
from trainkit.loops.evaluation import added, valued
from trainkit.loops.feed import Batch
from trainkit.loops.history import History
from trainkit.loops.nested import tensors
from trainkit.loops.parting import refuse_lost
from trainkit.loops.position import Position
from trainkit.loops.preemption import Preemption
from trainkit.loops.recording import Recording
from trainkit.loops.reducer import Reducer
from trainkit.loops.refusals import explain, refuse_loss, refuse_unshareable
from trainkit.loops.schedules import set_momentum, set_rates
from trainkit.loops.tally import Tally
from trainkit.loops.timer import StepTimer, advice
from trainkit.loops.together import any_of, together
from trainkit.loops.torchstore import TorchStore

if TYPE_CHECKING:
    from trainkit.loops.torchloop import TorchLoop


class Training:
    """One fit of a loop: what callbacks see of it are `loop`, `model`, `world`, `epoch`, `step`, `steps`, `history`."""

    def __init__(self, loop: TorchLoop, epochs: int | None, steps: int | None) -> None:
        self.loop, self.world, self.order = loop, loop.world, loop.order()
        self.steps = (epochs or 0) * self.order.steps if steps is None else steps
        self.epochs = -(-self.steps // self.order.steps)
        self.forward, self.model = loop.forward(), loop.model
        self.optimizer = loop.optimizer
        self.rates = [group["lr"] for group in self.optimizer.param_groups]  # before any schedule
        self.parameters = list(self.model.parameters())  # also those that a callback unfreezes later
        self.at = Position()
        self.history = History()
        self.tally = Tally(loop.metrics if loop.training_metrics else (), self.world.device)
        self.timer = StepTimer(self.world.device)
        self.scaler = precision.scaler(loop.precision, self.world.device)
        self.cast = precision.autocast(loop.precision, self.world.device)
        refuse_unshareable(loop, self.order, self.world)
        self.feed = loop.feed(loop.train, self.order)
        self.nothing = self.feed.nothing() if loop.sync_batch_norm and self.world.size > 1 else None
        self.reducer = Reducer(self.parameters, self.world.collective) if self.world.size > 1 else None
        loop.fits += 1
        self.recording = Recording(loop, self)
        self.store = TorchStore(self, self.recording)
        self.preemption = Preemption()
        self._stepping = [c for c in loop.callbacks if type(c).on_step is not Callback.on_step]
        self.traced_loss = torch.zeros((), dtype=torch.float64)  # this rank's part of the last step's, for a trace
        self._weights: dict[float, Tensor] = {}

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, from 0."""
        return self.at.epoch

    @property
    def step(self) -> int:
        """Optimizer steps made so far."""
        return self.at.step

    @property
    def complete(self) -> bool:
        """Whether nothing is left to train."""
        return self.at.epoch >= self.epochs or (self.at.stopped and self.at.seen == 0)

    def taken_digest(self) -> int:
        """The digest of this rank's samples since the last call."""
        return self.tally.taken(self.at.epoch)

    def stop(self) -> None:
        """End the fit after this epoch, in all ranks as soon as one has asked for it."""
        self.at.stopped = True

    def run(self) -> History:
        """Train to the end; the weights are then in the model."""
        started = time.monotonic()
        with self.preemption:
            try:
                self._begin()
                while not self.complete:
                    self._epoch()
                for callback in self.loop.callbacks:
                    callback.on_end(self)
                self.store.finish()
            except BaseException as error:
                self.store.settle()
                self.loop.fits -= 1  # called again, `fit` goes on with this one
                self.recording.withdraw()
                refuse_lost(error)
                explain(error)
                raise
            finally:
                self._leave_clean()
                if self.reducer is not None:
                    self.reducer.close()
                self.recording.close()
        self.history.steps, self.history.seconds = self.at.step, time.monotonic() - started
        self.history.advice = advice(
            self.timer.read(), self.timer.steps, self.loop.precision, self.loop.channels_last, self.loop.compile
        )
        self.recording.end(self.history)
        return self.history

    def _leave_clean(self) -> None:
        """No gradient is left, and the rates are the user's own again: neither may enter another fit."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.loop.schedule is not None:
            set_rates(self.optimizer, self.rates, 1.0)

    def _begin(self) -> None:
        """The state to go on from: the newest checkpoint's, else rank 0's for all."""
        self._leave_clean()
        if self.world.rank > 0:  # dropout is not the same on all ranks
            torch.manual_seed((torch.initial_seed() + self.world.rank) % (1 << 63))
        if not self.store.resume() and self.world.size > 1:
            agree(self.model, self.world.collective)
        for callback in self.loop.callbacks:
            callback.on_start(self)
        self.at.stopped = any_of(self.world.collective, self.at.stopped)

    def _epoch(self) -> None:
        """The rest of an epoch: training, evaluation, what follows from them, a checkpoint."""
        if self.at.trained is None:
            for callback in self.loop.callbacks:
                callback.on_epoch_start(self)
            if self.at.step < self.steps:
                self.loop.training_mode()
                self.recording.begin(self.at.seen)
                self._train()
                self.recording.rested()
            self.at.trained = self._close()
            self.recording.log(self.at.trained)
            for callback in self.loop.callbacks:
                callback.on_train_end(self, self.at.trained)
        metrics = {**self.at.trained, **self._validated()}
        self.history.rows.append({"epoch": self.at.epoch, **metrics})
        for callback in self.loop.callbacks:
            callback.on_epoch_end(self, metrics)
        self.at.stopped = any_of(self.world.collective, self.at.stopped)
        self.recording.epoch(metrics)
        self.at.epoch += 1
        self.at.seen = self.at.start = 0
        self.at.trained, self.at.parts = None, []
        saving = self.loop.saving
        last = self.at.step >= self.steps or self.at.stopped
        if saving is not None and (last or self.at.epoch % saving.every_epochs == 0):
            self.store.save()

    def _train(self) -> None:
        """Optimizer steps until the epoch's samples, or the fit's steps, are used up."""
        at, timer, reducer, tally = self.at, self.timer, self.reducer, self.tally
        saving = self.loop.saving
        every = (saving.every_steps if saving is not None else None) or 0
        preemption, steps, recording = self.preemption, self.steps, self.recording
        timer.start(at.step)
        for micros in self.feed.epoch(at.epoch, at.seen):
            timer.lap("data")
            if reducer is not None:
                reducer.flag = float(preemption.asked)
            self._gradients(micros)
            if reducer is None:
                asked = preemption.asked
            else:
                asked = reducer.finish() > 0
                timer.lap("communication")
            if recording.trace is not None:
                recording.traced(micros)
                self.traced_loss.zero_()
            self._update()
            at.step += 1
            at.seen += micros[0].total
            timer.step()
            for callback in self._stepping:
                callback.on_step(self)
            if timer.lap("optimizer") >= recording.due:
                recording.progress("train", at.seen, self.order.count, tally.recent())
            if asked:
                self.store.leave()
            if every and at.step % every == 0:
                self.store.save()
            if at.step >= steps:
                break

    def _gradients(self, micros: Sequence[Batch]) -> None:
        """Forward and backward of one step's batches; each counts by its share of the whole batch."""
        loop, forward, timer, tally, reducer = self.loop, self.forward, self.timer, self.tally, self.reducer
        mine = micros if self.nothing is not None else [batch for batch in micros if batch.inputs is not None]
        if reducer is not None and not mine:
            reducer.arm()
        for batch in mine:
            if reducer is not None and batch is mine[-1]:
                reducer.arm()
            if batch.inputs is None:
                self._pass_along()
                continue
            if self.cast is None:
                outputs = forward(batch.inputs)
                loss = loop.loss(outputs, batch.targets)
            else:
                with self.cast():
                    outputs = forward(batch.inputs)
                    loss = loop.loss(outputs, batch.targets)
            timer.lap("forward")
            if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
                refuse_loss(loss, self.model)
            share = len(batch.ids) / batch.total
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            if share == 1.0:
                scaled.backward()  # type: ignore[no-untyped-call]
            else:
                scaled.backward(self._weight(share, scaled))  # type: ignore[no-untyped-call]
            timer.lap("backward")
            tally.add(loss, outputs, batch.targets, batch.ids)
            if self.recording.trace is not None:
                self.traced_loss += loss.detach().cpu() * share

    def _pass_along(self) -> None:
        """A pass without samples: what the other ranks exchange in the middle of theirs needs this rank too."""
        with (self.cast or nullcontext)():
            outputs = self.forward(self.nothing)
        torch.autograd.backward([each.sum() for each in tensors(outputs) if each.requires_grad])

    def _weight(self, share: float, loss: Tensor) -> Tensor:
        """`share` as the gradient to begin a backward pass with; made once."""
        found = self._weights.get(share)
        if found is None or found.dtype != loss.dtype:
            found = self._weights[share] = torch.full_like(loss, share, requires_grad=False).detach()
        return found

    def _update(self) -> None:
        """The optimizer's step with the gradients that are there."""
        loop, scaler = self.loop, self.scaler
        if loop.clip is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, loop.clip)
        if loop.schedule is not None:
            set_rates(self.optimizer, self.rates, loop.schedule(self.at.step, self.steps))
        if loop.momentum is not None:
            set_momentum(self.optimizer, loop.momentum(self.at.step, self.steps))
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        for parameter in self.parameters:
            parameter.grad = None

    def _close(self) -> dict[str, Any]:
        """An epoch's training metrics over all ranks, and the account of its samples; one reduction."""
        tally = self.tally
        tally.fold()
        head = [*limbs(self.taken_digest()), float(tally.count), float(tally.loss)]
        known, sums = added(self.world, head, tally.sums)
        taken = from_limbs(known[:4])
        together(self.world.collective, lambda: self.recording.account(self.at, taken, self.order))
        loss = known[5] / known[4]
        if loss != loss or abs(loss) == float("inf"):
            raise TrainkitError(
                f"The loss of epoch {self.at.epoch} is {loss}: training has diverged. Lower the learning rate, clip "
                "the gradients (clip=1.0), or look for bad samples; the last checkpoint is from before."
            )
        found = valued(tally.metrics, sums)
        tally.reset()
        return {"train_loss": loss, **{f"train_{name}": value for name, value in found.items()}}

    def _validated(self) -> dict[str, Any]:
        """The validation metrics of the epoch; leaves where a rank was asked to end meanwhile."""
        if self.loop.val is None:
            return {}
        agree_on_buffers(self.model, self.world.collective)
        self.recording.progress("val", 0, 1, None)
        found = self.loop.evaluator().metrics(
            self.loop.feed(self.loop.val), self.loop.measured(), lambda: self.preemption.asked
        )
        if found is None:
            self.store.leave()
        return {f"val_{name}": value for name, value in (found or {}).items()}
