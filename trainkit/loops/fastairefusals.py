"""What a loop does not do to a Learner, said before training begins: each with what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.loops.fastailoop import FastaiLoop

# fastai's callbacks that would do what the loop does, and what to give the loop instead
_DOUBLED = {
    "MixedPrecision": "precision='fp16' or 'bf16'",
    "NonNativeMixedPrecision": "precision='fp16'",
    "ModelToHalf": "precision='fp16'",
    "GradientAccumulation": "a larger batch=, or more ranks",
    "DistributedTrainer": "backend=; the loop shares the work itself",
    "ParallelTrainer": "a rank for each GPU",
}
# its callbacks that decide by what one rank knows, so that ranks would part
_APART = {
    "TerminateOnNaNCallback": "the loop stops by itself where the loss is not a number",
    "ShortEpochCallback": "fewer epochs, or less data",
}
_METHODS = ("_do_fit", "_do_epoch_train", "all_batches", "one_batch", "_do_one_batch", "_backward", "_step")


def refuse(loop: FastaiLoop) -> None:
    """Raises UserErrorException where this Learner cannot be trained by a loop, or not on this many ranks."""
    from fastai.learner import Learner

    learner, size = loop.learner, loop.world.size
    callbacks = [*learner.cbs, *loop.callbacks]
    for callback in callbacks:
        name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
        if name in _DOUBLED:
            raise UserErrorException(f"The Learner has the callback {name}; give the loop {_DOUBLED[name]}.")
        if name in _APART and size > 1:
            raise UserErrorException(f"{name} would end on one rank and not on others: {_APART[name]}.")
    own = [name for name in _METHODS if getattr(type(learner), name) is not getattr(Learner, name)]
    if own:
        raise UserErrorException(
            f"{type(learner).__name__} has its own {', '.join(own)}, which the loop replaces; use callbacks instead."
        )
    recorder = getattr(learner, "recorder", None)
    if recorder is None:
        raise UserErrorException("The Learner has no Recorder, whose metrics the loop reports; do not remove it.")
    if recorder.train_metrics and size > 1:
        raise UserErrorException(
            "Recorder(train_metrics=True) would measure each rank's part of the training batches alone; on several "
            "ranks measure the validation data."
        )
    if size > 1:
        _refuse_loss(learner.loss_func)
    _refuse_parts(loop)


def _refuse_loss(loss: Any) -> None:
    """A mean that is weighted by class has no meaning for a part of a batch."""
    inner = getattr(loss, "func", loss)
    if getattr(inner, "weight", None) is not None and getattr(inner, "reduction", "") == "mean":
        raise UserErrorException(
            "The loss weighs classes, and its mean over a rank's part of a batch is not that over the batch; on "
            "several ranks use a loss without class weights."
        )


def _refuse_parts(loop: FastaiLoop) -> None:
    """Batch normalisation needs two samples, in each rank or, synchronised, in all together."""
    order, size = loop.shared(0).order, loop.world.size
    last = order.count - (order.steps - 1) * order.batch
    smallest = min(last, order.batch)
    advice = f"choose another batch than {order.batch} for {order.count} samples"
    if loop.sync_batch_norm and size > 1:
        if smallest < max(2, size):
            raise UserErrorException(
                f"The last batch of an epoch has {smallest} samples for {size} ranks, too few for sync_batch_norm: "
                f"{advice}."
            )
        return
    parts = [len(range(rank, smallest, size)) for rank in range(size)]
    if 1 in parts and any(isinstance(module, nn.BatchNorm1d) for module in loop.learner.model.modules()):
        more = ", or sync_batch_norm=True" if smallest > size else ""
        raise UserErrorException(
            f"The last batch of an epoch has {smallest} samples for {size} rank{'s' * (size > 1)}, and one alone "
            f"cannot be normalised by the model's BatchNorm1d: {advice}{more}."
        )
