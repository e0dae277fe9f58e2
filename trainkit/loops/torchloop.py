"""`TorchLoop`: a model, a loss, an optimizer and data, trained on whatever ranks this process is one of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainkit.errors import UserErrorException
from trainkit.loops import world as worlds
from trainkit.loops.agreement import agree
from trainkit.loops.callbacks import Callback
from trainkit.loops.evaluation import Evaluator
from trainkit.loops.feed import Feed
from trainkit.loops.freezing import training_mode
from trainkit.loops.history import History
from trainkit.loops.metrics import MeanLoss, Metric
from trainkit.loops.order import Order
from trainkit.loops.refusals import refuse
from trainkit.loops.saving import Saving
from trainkit.loops.schedules import Schedule
from trainkit.loops.sources import Source, Tensors, as_source

__all__ = ["Saving", "TorchLoop"]


@dataclass(kw_only=True)
class TorchLoop:
    """Trains `model` on `train`; unchanged alone, under mpirun, torchrun, srun, horovodrun and as a job.

    `loss(outputs, targets)` is the mean over a batch. `optimizer` holds the model's parameters, each group with its
    own rate; frozen parts are those without requires_grad. Data is a `Source` (`trainkit.loops.images`, `Tensors`,
    `Samples`), a pair of tensors, or a map-style torch Dataset (or a DataLoader of one) of pairs (input, target).

    `batch` is the number of samples of an optimizer step over all ranks and all `accumulate` passes: neither changes
    what is learned, only how. `schedule(step, steps)` gives the factor of every group's rate, `momentum(step, steps)`
    the optimizer's momentum (first beta). `clip` is the largest norm of a step's gradient. `precision` is float32, bf16
    or fp16. `workers` are the processes that read samples for this rank (None: what the source thinks best).
    `training_metrics` are measured on training batches too. `seed` decides the order of the samples and what is done
    to them; the model's own randomness follows torch's streams, as ever. `backend` and `device` are those of `join`.

    `saving` says when checkpoints are written (None: never), `resume` what to go on from: a run's directory, a folder
    of checkpoints, or one. `record` puts metrics and checkpoints into the run. Raises UserErrorException for what
    cannot be.
    """

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    optimizer: torch.optim.Optimizer
    train: Any
    val: Any = None
    metrics: Sequence[Metric] = ()
    batch: int = 32
    epochs: int | None = None
    steps: int | None = None
    schedule: Schedule | None = None
    momentum: Schedule | None = None
    accumulate: int = 1
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    clip: float | None = None
    sync_batch_norm: bool = False
    workers: int | None = None
    val_batch: int | None = None
    training_metrics: bool = False
    seed: int = 0
    backend: str = "auto"
    device: str = "auto"
    callbacks: Sequence[Callback] = ()
    saving: Saving | None = field(default_factory=Saving)
    resume: str | Path | None = None
    record: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        refuse(self)
        self.train = as_source(self.train, self.workers)
        self.val = None if self.val is None else as_source(self.val, self.workers)
        self.fits = 0  # made so far
        self._forward: Callable[[Any], Any] | None = None

    @property
    def world(self) -> worlds.World:
        """This process's place among the ranks; they meet when it is first asked for."""
        return worlds.join(self.backend, self.device)

    def fit(self, epochs: int | None = None, steps: int | None = None) -> History:
        """Train for so many passes over the data, or optimizer steps (the loop's own numbers where neither is given).

        A fit that was interrupted goes on where its newest checkpoint stands. On SIGTERM all ranks save and end with
        `Preempted`, exit code 75. Raises UserErrorException where the checkpoint is of another fit.
        """
        from trainkit.loops.engine import Training

        if epochs is None and steps is None:
            epochs, steps = self.epochs, self.steps
        if (epochs is None) == (steps is None):
            raise UserErrorException("How long? Give epochs or steps, and only one of them: fit(epochs=3).")
        wanted = steps if epochs is None else epochs
        if type(wanted) is not int or wanted < 1:
            raise UserErrorException(f"epochs and steps are whole numbers from 1, not {wanted!r}.")
        return Training(self, epochs, steps).run()

    def evaluate(self, data: Any = None) -> dict[str, Any]:
        """The loss and all metrics over `data` (by default `val`), exact whatever the number of ranks."""
        source = self._data(data)
        with self._whole_model():
            found = self.evaluator().metrics(self.feed(source), self.measured(), lambda: False)
        assert found is not None
        return found

    def predict(self, data: Any) -> Tensor:
        """The model's outputs for all of `data` in its order, on every rank: a tensor [samples, ...] on the CPU."""
        if isinstance(data, Tensor):
            data = Tensors(data, torch.zeros(len(data) if data.ndim else 0))
        source = self._data(data)
        with self._whole_model():
            return self.evaluator().outputs(self.feed(source), len(source))

    @contextmanager
    def _whole_model(self) -> Iterator[None]:
        """Rank 0's model on all ranks, to be evaluated; what was training goes on training, also between two steps."""
        self.forward()
        agree(self.model, self.world.collective)
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    def _data(self, data: Any) -> Source:
        if data is None and self.val is None:
            raise UserErrorException("There is no data to evaluate on: give it here, or the loop as val=.")
        found: Source = self.val if data is None else as_source(data, self.workers)
        return found

    def forward(self) -> Callable[[Any], Any]:
        """The model on this rank's device, in the memory format and compiled as asked; made once."""
        if self._forward is None:
            world = self.world
            if self.sync_batch_norm and world.size > 1:
                from trainkit.loops.syncnorm import convert_batch_norm

                self.model = convert_batch_norm(self.model, world.collective)
            self.model.to(world.device)
            if self.channels_last:
                self.model.to(memory_format=torch.channels_last)
            self._forward = torch.compile(self.model) if self.compile else self.model
        return self._forward

    def evaluator(self) -> Evaluator:
        """What runs the model over data without training it."""
        forward = self.forward()
        return Evaluator(self.model, forward, self.world, self.precision)

    def measured(self) -> list[Metric]:
        """The loss and the metrics asked for."""
        return [MeanLoss(self.loss), *self.metrics]

    def training_mode(self) -> None:
        """The model as it trains."""
        training_mode(self.model)

    def order(self) -> Order:
        """The order of the training samples."""
        return Order(len(self.train), min(self.batch, len(self.train)), self.seed)

    def feed(self, source: Source, order: Order | None = None) -> Feed:
        """Batches of this rank: in training order, or (without) one after the other."""
        world, accumulate = self.world, 1 if order is None else self.accumulate
        if order is None:
            order = Order(len(source), min(self.val_batch or 2 * self.batch, len(source)), 0, shuffle=False)
        return Feed(source, order, world.rank, world.size, world.device, accumulate, self.channels_last)
