"""What a TorchLoop's arguments must not say, checked when it is made and before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainkit.errors import UserErrorException
from trainkit.loops.callbacks import Callback
from trainkit.loops.order import Order
from trainkit.loops.precision import PRECISIONS
from trainkit.loops.saving import Saving
from trainkit.loops.world import BACKENDS, World

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
        if isinstance(value, type):
            raise UserErrorException(
                f"{name} is a function, not the class {value.__name__}: make an object, {value.__name__}()."
            )
        if not callable(value) and (name == "loss" or value is not None):
            what = "(outputs, targets) -> mean loss" if name == "loss" else "(step, steps) -> number"
            raise UserErrorException(f"{name} is a function {what}, not {value!r}.")
    if getattr(loop.loss, "reduction", "mean") in ("sum", "none"):
        raise UserErrorException(
            f"The loss has reduction={loop.loss.reduction!r}, but must be the mean over a batch: use reduction='mean'."  # type: ignore[attr-defined]
        )
    for name in ("batch", "accumulate", "val_batch", "epochs", "steps"):
        value = getattr(loop, name)
        if (value is None and name in ("batch", "accumulate")) or not (value is None or _whole(value, 1)):
            raise UserErrorException(f"{name} is a whole number from 1, not {value!r}.")
    if not _whole(loop.seed, 0) or loop.seed >= 1 << 63:
        raise UserErrorException(f"seed is a whole number from 0 to 2**63 - 1, not {loop.seed!r}.")
    if loop.workers is not None and not _whole(loop.workers, 0):
        raise UserErrorException(f"workers is a whole number of processes, 0 for none, or None, not {loop.workers!r}.")
    if loop.backend not in BACKENDS:
        raise UserErrorException(f"There is no backend {loop.backend!r}; it is one of {', '.join(BACKENDS)}.")
    for name in ("channels_last", "compile", "sync_batch_norm", "training_metrics", "record", "quiet"):
        if not isinstance(getattr(loop, name), bool):
            raise UserErrorException(f"{name} is True or False, not {getattr(loop, name)!r}.")
    if loop.resume is not None and not (isinstance(loop.resume, (str, Path)) and str(loop.resume)):
        raise UserErrorException(
            f"resume is a run's directory, a folder of checkpoints or one checkpoint, not {loop.resume!r}."
        )
    if loop.precision not in PRECISIONS:
        raise UserErrorException(f"precision is one of {', '.join(PRECISIONS)}, not {loop.precision!r}.")
    if loop.clip is not None and not (isinstance(loop.clip, (int, float)) and loop.clip > 0 and loop.clip is not True):
        raise UserErrorException(f"clip is the largest norm of a gradient, above 0, not {loop.clip!r}.")
    _refuse_other_kinds(loop)
    _refuse_foreign_parameters(loop)
    _refuse_another_batch(loop)


def _whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _refuse_other_kinds(loop: TorchLoop) -> None:
    for name in ("callbacks", "metrics"):
        if not isinstance(getattr(loop, name), (list, tuple)):
            raise UserErrorException(f"{name} is a list of objects, [] for none, not {getattr(loop, name)!r}.")
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


def _refuse_another_batch(loop: TorchLoop) -> None:
    theirs = loop.train.batch_size if isinstance(loop.train, DataLoader) else None
    if theirs is not None and theirs != loop.batch:
        raise UserErrorException(
            f"The DataLoader has batch_size={theirs}, the loop batch={loop.batch}. Give the loop batch={theirs} (of "
            "all ranks together), or the DataLoader's dataset alone."
        )


def _refuse_foreign_parameters(loop: TorchLoop) -> None:
    own = {id(p) for p in loop.model.parameters()}
    held = [p for group in loop.optimizer.param_groups for p in group["params"]]
    if not all(id(p) in own for p in held):
        raise UserErrorException(
            "The optimizer holds parameters that the model does not have: make it after the model is complete, from "
            "model.parameters()."
        )
    if not held:
        raise UserErrorException("The optimizer holds no parameter; make it from model.parameters().")
    if isinstance(loop.optimizer, torch.optim.LBFGS):
        raise UserErrorException(
            "LBFGS runs the model several times a step, which a loop does not; use another optimizer, such as AdamW."
        )
    if loop.precision == "fp16" and any(p.dtype == torch.float16 for p in held):
        raise UserErrorException(
            "precision='fp16' keeps the weights in float32 and these are float16; call model.float() before the "
            "optimizer is made, or leave precision as it is."
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


def refuse_loss(loss: Any, model: nn.Module) -> NoReturn:
    """Raises UserErrorException: what a loss function gave is nothing that can be made smaller."""
    if not isinstance(loss, Tensor):
        raise UserErrorException(
            f"The loss function gave a {type(loss).__name__}, but must give one tensor, the mean over the batch: add "
            "up its terms there; metrics= and callbacks can look at each."
        )
    if loss.ndim:
        raise UserErrorException(
            f"The loss must be one number, the mean over the batch, but has the shape {tuple(loss.shape)}: use "
            "reduction='mean'."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserErrorException(
            "No parameter of the model requires a gradient: there is nothing to train; unfreeze some."
        )
    raise UserErrorException(
        "The loss does not depend on any parameter that requires a gradient: compute it from the model's outputs by "
        "torch's functions, without detach(), item() or argmax()."
    )


def explain(error: BaseException) -> None:
    """Raises UserErrorException where an error of torch's means something else to a loop's user."""
    if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
        raise UserErrorException(
            "Batch normalisation cannot train on one sample alone, and this rank has got only one of some batch: "
            "choose batch= so that none is left over at the end of an epoch and each rank has two, or, with several "
            "ranks, sync_batch_norm=True."
        ) from error
