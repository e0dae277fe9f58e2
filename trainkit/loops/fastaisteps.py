"""One batch of a fastai Learner: forward, backward, the sum over the ranks, the optimizer's step; or an evaluation."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainkit.errors import UserErrorException
from trainkit.loops import precision
from trainkit.loops.collectives.base import gather
from trainkit.loops.fastaidata import Share
from trainkit.loops.nested import mapped, tensors
from trainkit.loops.order import share as share_of
from trainkit.loops.preemption import Preemption
from trainkit.loops.reducer import Reducer
from trainkit.loops.refusals import refuse_loss
from trainkit.loops.timer import StepTimer
from trainkit.loops.world import World


class Batches:
    """What a Learner does with a batch, while a loop runs. `leave` is called, by all ranks, where an evaluation ends
    because a rank was asked to; in training `asked` says so after each step."""

    def __init__(self, learner: Any, world: World, number_format: str, leave: Callable[[], None]) -> None:
        self.learner, self.world, self.leave = learner, world, leave
        self.scaler = precision.scaler(number_format, world.device)
        self._cast = precision.autocast(number_format, world.device)
        self.timer, self.preemption = StepTimer(world.device), Preemption()
        self.reducer: Reducer | None = None
        self.asked = False
        self._share = Share(None, np.zeros(0, np.int64), 1)

    def methods(self) -> dict[str, Callable[[], None]]:
        """What stands in for methods of the Learner's, by their names."""
        return {"_do_one_batch": self._do_one_batch, "_backward": self._backward, "_step": self._step}

    def one(self, number: int, share: Share) -> None:
        """All events of a batch."""
        from fastai.learner import CancelBatchException

        learner = self.learner
        learner.iter, self._share = number, share
        if share.tensors is None:
            learner.xb, learner.yb = (), (None,)
        else:
            learner._split(share.tensors)
        learner._with_events(self._do_one_batch, "batch", CancelBatchException)

    def _do_one_batch(self) -> None:
        """Forward and, in training, all that follows. A rank without samples goes along with the others."""
        learner, share = self.learner, self._share
        learner.pred = None
        if share.tensors is not None:
            with nullcontext() if self._cast is None else self._cast():
                learner.pred = learner.model(*learner.xb)
            if self._cast is not None:
                learner.pred = mapped(learner.pred, _as_float)
        if not learner.training:
            self._bring_together()
        else:
            self.timer.lap("forward")
        if learner.pred is not None:
            learner("after_pred")
            if len(learner.yb):
                learner.loss_grad = learner.loss_func(learner.pred, *learner.yb)
                learner.loss = learner.loss_grad.clone()
            learner("after_loss")
        if learner.training:
            learner._do_grad_opt()

    def _backward(self) -> None:
        """Gradients of the mean over the whole batch, summed over the ranks."""
        learner, share, reducer = self.learner, self._share, self.reducer
        part = len(share.ids) / share.total
        if reducer is not None:
            reducer.flag = float(self.preemption.asked)
            reducer.arm()
        if share.tensors is not None:
            loss = learner.loss_grad
            if loss.ndim:
                refuse_loss(loss, learner.model)
            loss = loss if self.scaler is None else self.scaler.scale(loss)
            (loss if part == 1.0 else loss * part).backward()
            if self.world.size > 1:  # the mean over ranks of this is the whole batch's
                learner.loss = learner.loss.detach() * (part * self.world.size)
        else:
            learner.loss = torch.zeros((), device=self.world.device)
        self.timer.lap("backward")
        if reducer is None:
            self.asked = self.preemption.asked
        else:
            self.asked = reducer.finish() > 0
            self.timer.lap("communication")
        if self.scaler is not None:
            self.scaler.unscale_(learner.opt)  # before callbacks clip

    def _step(self) -> None:
        """The optimizer's step; gradients are then gone, which is quicker than making them zero."""
        learner = self.learner
        if self.scaler is None:
            learner.opt.step()
        else:
            self.scaler.step(learner.opt)
            self.scaler.update()
        for group in learner.opt.param_lists:
            for parameter in group:
                parameter.grad = None

    def _bring_together(self) -> None:
        """All ranks' predictions and targets of this batch in the order of its samples, as one process would have them.

        So losses and metrics are those of one process, of whatever kind they are. Where a rank was asked to end, all
        leave here.
        """
        learner, share, world = self.learner, self._share, self.world
        asked = self.preemption.asked
        if world.size > 1:
            mine = None if share.tensors is None else mapped((learner.pred, learner.yb), _plain)
            data = io.BytesIO()
            torch.save((asked, mine), data)
            found = [torch.load(io.BytesIO(d), weights_only=True) for d in gather(world.collective, data.getvalue())]
            asked = any(each[0] for each in found)
            learner.pred, learner.yb = _joined([each[1] for each in found], share.total, world.device)
        if asked:
            self.leave()


def _as_float(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _plain(leaf: Any) -> Any:
    """A tensor of no particular kind on the CPU."""
    return leaf.detach().cpu().as_subclass(Tensor) if isinstance(leaf, Tensor) else leaf


def _joined(parts: list[Any], count: int, device: torch.device) -> Any:
    """Ranks' parts of one nest of tensors as the nest of `count` samples."""
    known = [part for part in parts if part is not None]
    ids = np.arange(count)
    places = [torch.from_numpy(share_of(ids, rank, len(parts))) for rank in range(len(parts))]
    columns = []
    for leaves in zip(*(list(tensors(part)) for part in known), strict=True):
        whole = torch.empty((count, *leaves[0].shape[1:]), dtype=leaves[0].dtype) if leaves[0].ndim else None
        for leaf, place in zip(leaves, places, strict=False):
            if whole is None or len(leaf) != len(place):
                raise UserErrorException(
                    f"On several ranks predictions and targets need a row for each sample; one has the shape "
                    f"{tuple(leaf.shape)} for {len(place)} samples."
                )
            whole[place] = leaf
        columns.append(whole.to(device) if whole is not None else None)
    remaining = iter(columns)
    return mapped(known[0], lambda leaf: next(remaining) if isinstance(leaf, Tensor) else leaf)
