"""What a TorchLoop's arguments must not say, checked when it is made and before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from trainkit.errors import UserErrorException
from trainkit.loops.callbacks import Callback
from trainkit.loops.order import Order
from trainkit.loops.precision import PRECISIONS
from trainkit.loops.saving import Saving
from trainkit.loops.world import World

if TYPE_CHECKING:
    from trainkit.loops.torchloop import TorchLoop


def refuse(loop: TorchLoop) -> None:
    """Raises UserErrorException for what is wrong in itself."""
    if not isinstance(loop.model, nn.Module):
        raise UserErrorException(f"model is a torch.nn.Module, not {type(loop.model).__name__}.")
    if not isinstance(loop.optimizer, torch.optim.Optimizer):
        raise UserErrorException(
            f"optimizer is a torch.optim.Optimizer of the model's parameters, not {type(loop.optimizer).__name__}."
        )
    if isinstance(loop.schedule, torch.optim.lr_scheduler.LRScheduler):
        raise UserErrorException(
            "schedule is a function (step, steps) -> factor, such as trainkit.loops.OneCycle(), not an LRScheduler, "
            "whose counts would be lost when a run is resumed."
        )
    for name in ("loss", "schedule", "momentum"):
        value = getattr(loop, name)
        if not callable(value) and (name == "loss" or value is not None):
            what = "(outputs, targets) -> mean loss" if name == "loss" else "(step, steps) -> number"
            raise UserErrorException(f"{name} is a function {what}, not {value!r}.")
    for name in ("batch", "accumulate", "val_batch", "epochs", "steps"):
        value = getattr(loop, name)
        if value is not None and (type(value) is not int or value < 1):
            raise UserErrorException(f"{name} is a whole number from 1, not {value!r}.")
    if loop.precision not in PRECISIONS:
        raise UserErrorException(f"precision is one of {', '.join(PRECISIONS)}, not {loop.precision!r}.")
    if loop.clip is not None and not (isinstance(loop.clip, (int, float)) and loop.clip > 0):
        raise UserErrorException(f"clip is the largest norm of a gradient, above 0, not {loop.clip!r}.")
    _refuse_other_kinds(loop)
    _refuse_foreign_parameters(loop)


def _refuse_other_kinds(loop: TorchLoop) -> None:
    for callback in loop.callbacks:
        if not isinstance(callback, Callback):
            raise UserErrorException(f"callbacks are objects of classes of trainkit.loops.Callback, not {callback!r}.")
    for metric in loop.metrics:
        if isinstance(metric, type) or not all(hasattr(metric, name) for name in ("name", "sums", "value")):
            raise UserErrorException(f"metrics are objects such as trainkit.loops.Accuracy(), not {metric!r}.")
    names = [metric.name for metric in loop.metrics]
    if len({*names, "loss"}) <= len(names):
        raise UserErrorException(f"Metrics need names of their own, other than 'loss'; these have: {', '.join(names)}.")
    if loop.saving is not None and not isinstance(loop.saving, Saving):
        raise UserErrorException(f"saving is a trainkit.loops.Saving(...), or None, not {loop.saving!r}.")


def _refuse_foreign_parameters(loop: TorchLoop) -> None:
    own = {id(p) for p in loop.model.parameters()}
    held = [p for group in loop.optimizer.param_groups for p in group["params"]]
    if not all(id(p) in own for p in held):
        raise UserErrorException(
            "The optimizer holds parameters that the model does not have: make it after the model is complete, from "
            "model.parameters()."
        )


def refuse_unshareable(loop: TorchLoop, order: Order, world: World) -> None:
    """Raises UserErrorException where these ranks cannot share the batches, or the loss is no mean over samples."""
    if order.batch < world.size:
        raise UserErrorException(
            f"{world.size} ranks cannot share batches of {order.batch} samples ({order.count} to train with): each "
            "rank needs one at least. Ask for fewer ranks or for a larger batch."
        )
    if getattr(loop.loss, "weight", None) is not None and (world.size > 1 or loop.accumulate > 1):
        raise UserErrorException(
            f"{type(loop.loss).__name__} with class weights divides by the weights of each part of a batch, so that "
            "ranks and accumulate= would change what is learned. Divide by the number of samples instead: "
            "loss=lambda outputs, targets: weighted(outputs, targets) / len(targets), weighted with reduction='sum'."
        )
