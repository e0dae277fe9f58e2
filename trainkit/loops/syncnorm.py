"""Batch normalisation over the batch of all ranks, exact however unevenly they share it.

Statistics are exchanged in float64, as sums over samples, so a rank counts by the samples that it has. They travel on a
line of their own: the order of gradient buckets may differ from theirs. A rank without a sample runs the model on an
empty batch (`inputs[:0]`), forward and backward: the others wait for its zeros.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from trainkit.errors import UserErrorException
from trainkit.loops.collectives import Collective, total

_DIMENSIONS = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,), nn.SyncBatchNorm: (2, 3, 4, 5)}


class _Normalised(torch.autograd.Function):
    """`input` normalised by the mean and variance of all ranks, which are returned too, and the number of values."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, line: Collective
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = input.dtype if input.dtype in (torch.float32, torch.float64) else torch.float32
        sums = _sums(input.to(wide))
        sums = total(line, sums)
        count, first, second = sums[0], *sums[1:].chunk(2)
        mean = first / count
        variance = (second / count - mean * mean).clamp_(min=0)
        near, far = mean.to(wide), variance.to(wide)
        ctx.save_for_backward(input, weight, near, far, count)
        ctx.eps, ctx.line = eps, line
        ctx.mark_non_differentiable(mean, variance, count)
        if not input.numel():
            return input.clone(), mean, variance, count
        return torch.batch_norm(input, weight, bias, near, far, False, 0.0, eps, False), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        input, weight, mean, variance, count = ctx.saved_tensors
        if input.numel():
            _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                grad, input, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
        else:
            of_weight = of_bias = torch.zeros_like(mean)
        own = torch.cat([of_bias, of_weight]).double()
        of_input = None
        if ctx.needs_input_grad[0]:  # in every rank or in none, for all have the same model
            means = (total(ctx.line, own) / count).to(mean.dtype)
            of_input = _input_gradient(grad, input, weight, mean, torch.rsqrt(variance + ctx.eps), *means.chunk(2))
        return (
            of_input,
            of_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None,
            of_bias.to(weight.dtype) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def _sums(input: Tensor) -> Tensor:
    """The number of values of a channel, and each channel's sums of values and of their squares, in float64."""
    channels = input.shape[1]
    if not input.numel():
        return torch.zeros(1 + 2 * channels, dtype=torch.float64, device=input.device)
    variance, mean = torch.var_mean(input, [d for d in range(input.dim()) if d != 1], correction=0)
    count, mean, variance = input.numel() // channels, mean.double(), variance.double()
    head = torch.full((1,), float(count), dtype=torch.float64, device=input.device)
    return torch.cat([head, mean * count, (variance + mean * mean) * count])


def _input_gradient(
    grad: Tensor, input: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, of_bias: Tensor, of_weight: Tensor
) -> Tensor:
    """The gradient by the input; `of_bias` and `of_weight` are those by bias and weight, as means over all values."""
    shape = [1, -1, *[1] * (input.dim() - 2)]
    steep = scale if weight is None else scale * weight.to(scale.dtype)
    found = input - mean.view(shape)
    found.mul_((-steep * scale * of_weight).view(shape))
    found.addcmul_(grad.to(found.dtype), steep.view(shape))
    found.sub_((steep * of_bias).view(shape))
    return found.to(input.dtype)


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose batch is that of all ranks; names and values in a state_dict are those of BatchNorm.

    Made by `convert_batch_norm`. A copy in the same process speaks to the same ranks, one loaded from a file to none.
    """

    line: Collective
    dimensions: tuple[int, ...]
    then: tuple[str, ...] = ()  # submodules that the converted layer applied to what it had normalised

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in self.dimensions:
            allowed = " or ".join(f"{n}D" for n in self.dimensions)
            raise ValueError(f"expected {allowed} input (got {input.dim()}D input)")

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor) -> Tensor:
        """Normalise; in training over all ranks, which must all come here together."""
        self._check_input_dim(input)
        if self.training:
            output = self._over_all(input)
        else:  # by the statistics that were gathered; a layer that gathers none takes this rank's batch
            own = self.running_mean is None
            output = torch.nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, own, 0.0, self.eps
            )
        for name in self.then:
            output = cast(Tensor, getattr(self, name)(output))
        return output

    def _over_all(self, input: Tensor) -> Tensor:
        output, mean, variance, count = _Normalised.apply(input, self.weight, self.bias, self.eps, self.line)
        if not count.is_cuda and count < 2:
            raise ValueError(f"Expected more than 1 value per channel over all ranks, got {int(count)}")
        if self.running_mean is not None and self.running_var is not None:
            factor = self.momentum
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                if factor is None:
                    factor = 1.0 / float(self.num_batches_tracked)
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor or 0.0)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), factor or 0.0)
        return cast(Tensor, output)


def convert_batch_norm(model: nn.Module, collective: Collective) -> nn.Module:
    """Have every BatchNorm of the model normalise over all ranks: in place; returns the model, or its replacement.

    Parameters and buffers stay the same objects, so an optimizer that has them goes on. One rank needs no change.
    Raises UserErrorException for a layer that is derived from BatchNorm and computes something else.
    """
    if collective.size == 1:
        return model
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()  # also where a layer has several places
        if isinstance(child, _BatchNorm)
    ]
    if not places and not isinstance(model, _BatchNorm):
        return model
    line = collective.apart()
    made: dict[int, SyncBatchNorm] = {}
    for parent, name, child in places:
        if id(child) not in made:
            made[id(child)] = _converted(child, line)
        setattr(parent, name, made[id(child)])
    return _converted(model, line) if isinstance(model, _BatchNorm) else model


def _converted(layer: _BatchNorm, line: Collective) -> SyncBatchNorm:
    kind = next((kind for kind in _DIMENSIONS if isinstance(layer, kind)), None)
    own = type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    then = tuple(name for name in ("drop", "act") if isinstance(getattr(layer, name, None), nn.Module))
    # timm's BatchNormAct2d: BatchNorm, then its two submodules
    if kind is None or not (own or (len(then) == 2 and len(dict(layer.named_children())) <= 3)):
        raise UserErrorException(
            f"sync_batch_norm cannot convert {type(layer).__name__}, which is derived from BatchNorm and may compute "
            "something else. Use BatchNorm1d, 2d or 3d in the model, or sync_batch_norm=False."
        )
    new = SyncBatchNorm.__new__(SyncBatchNorm)
    new.__dict__.update(layer.__dict__)
    new.line, new.dimensions, new.then = line, _DIMENSIONS[kind], () if own else then
    return new
