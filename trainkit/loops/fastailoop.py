"""`FastaiLoop`: a fastai Learner, trained on whatever ranks this process is one of, saved and resumed exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from trainkit.errors import MissingPackage, UserErrorException
from trainkit.loops import world as worlds
from trainkit.loops.fastaidata import SharedLoader
from trainkit.loops.fastaiplan import FineTune, FitOneCycle, Plan, Rate
from trainkit.loops.fastaiplan import Fit as FitPlan
from trainkit.loops.fastairefusals import refuse
from trainkit.loops.history import History
from trainkit.loops.precision import PRECISIONS
from trainkit.loops.saving import Saving
from trainkit.loops.sources import Source

if TYPE_CHECKING:
    from trainkit.loops.fastaifit import Fit

__all__ = ["FastaiLoop", "FineTune", "FitOneCycle", "FitPlan", "Predictions", "Saving"]


class Predictions(NamedTuple):
    """What a model makes of data, in its order: values after the loss's activation, what was right, each one's loss."""

    values: Tensor
    targets: Tensor
    losses: Tensor


@dataclass
class FastaiLoop:
    """Trains a fastai `learner`; unchanged alone, under mpirun, torchrun, srun, horovodrun and as a job.

    `fine_tune`, `fit_one_cycle` and `fit` take what fastai's methods of these names take; `fit()` without arguments
    runs `plan`, such as `FineTune(4)`. Callbacks, metrics, schedules and the optimizer are the Learner's own.

    A step's `batch` (None: the batch size of the Learner's training data) is that of all ranks together; every sample
    is seen exactly once an epoch, none is dropped. What `item_tfms` draw follows from (`seed`, epoch, sample), what
    `batch_tfms` draw from (`seed`, epoch, the rank's part of the batch). Metrics are those that one process would find.
    `train` and `val` are sources (`trainkit.loops.images.Pictures`, `Tensors`) to be read in place of the Learner's
    DataLoaders, of the same samples, which have been through all transforms. `workers` are the processes that read
    samples for this rank (None: as many as the DataLoaders ask for, at most one for each core of this rank).

    `precision` is float32, bf16 or fp16. `saving` says when checkpoints are written (None: never), `resume` what to go
    on from: a run's directory, a folder of checkpoints, or one. `record` puts metrics and checkpoints into the run. A
    script that is run again makes the same calls: those that a checkpoint has behind it return at once. `then` is
    called with the loop, on all ranks, when `plan` was run: to report and to write what comes of it. Raises
    UserErrorException for what cannot be.
    """

    learner: Any
    _: KW_ONLY
    plan: Plan | None = None
    batch: int | None = None
    precision: str = "float32"
    channels_last: bool = False
    sync_batch_norm: bool = False
    train: Source | None = None
    val: Source | None = None
    workers: int | None = None
    seed: int = 0
    backend: str = "auto"
    callbacks: Sequence[Any] = ()
    then: Callable[[FastaiLoop], None] | None = None
    saving: Saving | None = field(default_factory=Saving)
    resume: str | Path | None = None
    record: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        try:
            from fastai.learner import Learner
        except ImportError as error:
            raise MissingPackage("FastaiLoop trains Learners of fastai: pip install 'trainkit[fastai]'.") from error
        if not isinstance(self.learner, Learner):
            raise UserErrorException(f"learner is a fastai Learner, not {type(self.learner).__name__}.")
        if self.plan is not None and not hasattr(self.plan, "phases"):
            raise UserErrorException(f"plan is a FineTune, FitOneCycle or FitPlan, not {self.plan!r}.")
        if self.precision not in PRECISIONS:
            raise UserErrorException(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}.")
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise UserErrorException(f"batch is a whole number from 1, not {self.batch!r}.")
        self._shared: dict[int, SharedLoader] = {}
        self._fit: Fit | None = None

    @property
    def world(self) -> worlds.World:
        """This process's place among the ranks; they meet when it is first asked for."""
        return worlds.join(self.backend)

    def fine_tune(
        self, epochs: int, base_lr: float = 2e-3, freeze_epochs: int = 1, lr_mult: float = 100, pct_start: float = 0.3,
        div: float = 5.0, *, div_final: float = 1e5, wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
    ) -> History:  # fmt: skip
        """fastai's `fine_tune`: `freeze_epochs` of the last parameter group alone, then `epochs` of all."""
        return self.run(FineTune(epochs, base_lr, freeze_epochs, lr_mult, pct_start, div, div_final, wd, moms))

    def fit_one_cycle(
        self, n_epoch: int, lr_max: Rate = None, div: float = 25.0, div_final: float = 1e5, pct_start: float = 0.25,
        wd: float | None = None, moms: tuple[float, float, float] | None = None,
    ) -> History:  # fmt: skip
        """fastai's `fit_one_cycle`."""
        return self.run(FitOneCycle(n_epoch, lr_max, div, div_final, pct_start, wd, moms))

    def fit(self, n_epoch: int | None = None, lr: Rate = None, wd: float | None = None) -> History:
        """fastai's `fit`; without arguments, what the loop's `plan` says."""
        if n_epoch is not None:
            return self.run(FitPlan(n_epoch, lr, wd))
        if self.plan is None:
            raise UserErrorException("How long? Give fit(3), fine_tune(1), or make the loop with plan=FineTune(1).")
        history = self.run(self.plan)
        if self.then is not None:
            self.then(self)
        return history

    def run(self, plan: Plan) -> History:
        """The phases of a plan, from where a checkpoint stands. The history has the epochs of all calls so far.

        On SIGTERM all ranks save and end with `Preempted`, exit code 75. Raises UserErrorException where the checkpoint
        is of another fit.
        """
        return self._prepared().run(plan.phases())

    def validate(self) -> dict[str, float]:
        """The loss and the metrics over the validation data, exact whatever the number of ranks."""
        fit, learner = self._prepared(), self.learner
        with fit.replaced():
            values = list(learner.validate())
        names = [name for name in learner.recorder.metric_names if name not in ("epoch", "time", "train_loss")]
        return {name: value for name, value in zip(names, values, strict=False) if value is not None}

    def predictions(self) -> Predictions:
        """The model's predictions for all of the validation data, on every rank; computed by all of them."""
        fit = self._prepared()
        with fit.replaced():
            values, targets, losses = self.learner.get_preds(with_loss=True)
        return Predictions(*(each.as_subclass(Tensor) for each in (values, targets, losses)))

    def shared(self, number: int) -> SharedLoader:
        """The training (0) or validation (1) data as this rank reads it."""
        if number not in self._shared:
            loader = self.learner.dls[number]
            batch = self.batch if number == 0 and self.batch else _batch_size(loader)
            self._shared[number] = SharedLoader(
                loader, self.world, batch, self.seed, shuffle=number == 0 and _shuffled(loader),
                source=(self.train, self.val)[number], workers=self.workers, channels_last=self.channels_last,
            )  # fmt: skip
        return self._shared[number]

    def shared_with(self, loader: Any) -> SharedLoader:
        """Other data as this rank reads it: that of a DataLoader that `get_preds` or `validate` was given."""
        if loader.dataset is self.learner.dls[1].dataset and not _shuffled(loader):
            return self.shared(1)
        return SharedLoader(
            loader, self.world, _batch_size(loader), self.seed, shuffle=False, workers=self.workers,
            channels_last=self.channels_last,
        )  # fmt: skip

    def _prepared(self) -> Fit:
        """The Learner on this rank's device, looked over, ready for its first phase; made once."""
        if self._fit is None:
            from trainkit.loops.fastaifit import Fit

            learner, world = self.learner, self.world
            for loader in learner.dls.loaders:
                if hasattr(loader, "to"):
                    loader.to(world.device)
            if all(hasattr(loader, "to") for loader in learner.dls.loaders):
                learner.dls.to(world.device)
            learner.model.to(world.device)
            if self.channels_last:
                learner.model.to(memory_format=torch.channels_last)
            if learner.opt is None:
                learner.create_opt()
            refuse(self)
            if self.sync_batch_norm and world.size > 1:
                from trainkit.loops.syncnorm import convert_batch_norm

                learner.model = convert_batch_norm(learner.model, world.collective)
            self._fit = Fit(self)
        return self._fit


def _batch_size(loader: Any) -> int:
    size = getattr(loader, "bs", None) or getattr(loader, "batch_size", None)
    if size is None:
        raise UserErrorException(f"{type(loader).__name__} has no batch size; give its DataLoaders one (bs=64).")
    return int(size)


def _shuffled(loader: Any) -> bool:
    if isinstance(loader, torch.utils.data.DataLoader):
        return isinstance(loader.sampler, torch.utils.data.RandomSampler)
    return bool(getattr(loader, "shuffle", False))
