"""Sums gradients over the ranks while backward still runs, in the same order in every run and after every restart.

Parameters are packed into buckets of fixed layout, last ones first, as backward meets them. A bucket whose gradients
are all there is copied together and handed to the collective; buckets start strictly in order, so that every rank makes
the same calls. After the sum a parameter's gradient *is* its piece of the bucket: nothing is copied back.
(The idea is that of Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020;
their buckets are laid out anew after the first step, these are not.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainkit.boot import pulse
from trainkit.errors import UserErrorException
from trainkit.loops.agreement import agree
from trainkit.loops.collectives import Collective, Work

__all__ = ["FIRST_BUCKET_BYTES", "Reducer", "agree", "layout"]
FIRST_BUCKET_BYTES = 1 << 20  # small: its sum starts early, while most of backward is still to come


def layout(parameters: Sequence[Tensor], bucket_bytes: int) -> list[list[int]]:
    """Which parameters share a bucket, by their places: those of one type and device, last parameters first."""
    done: list[list[int]] = []
    open_: dict[tuple[torch.device, torch.dtype], tuple[list[int], int]] = {}
    limits: dict[tuple[torch.device, torch.dtype], int] = {}
    for place in reversed(range(len(parameters))):
        parameter = parameters[place]
        key = (parameter.device, parameter.dtype)
        places, size = open_.pop(key, ([], 0))
        places.append(place)
        size += parameter.numel() * parameter.element_size()
        if size >= limits.get(key, min(FIRST_BUCKET_BYTES, bucket_bytes)):
            done.append(places)
            limits[key] = bucket_bytes
        else:
            open_[key] = (places, size)
    done += [places for places, _ in open_.values()]
    return sorted(done, key=lambda places: -places[-1])  # by when backward comes to a bucket's last gradient


class _Bucket:
    """Some parameters' gradients in one piece of memory, then how many ranks had each of them, then a flag if asked."""

    def __init__(self, parameters: Sequence[Tensor], flag: bool, device: torch.device, dtype: torch.dtype) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        gradients, count = sum(sizes), len(parameters)
        self.parameters = list(parameters)
        self.flat = torch.zeros(gradients + count + flag, device=device, dtype=dtype)
        self.views = [
            _view(self.flat, sum(sizes[:n]), parameter) for n, parameter in enumerate(parameters)
        ]  # fmt: skip
        self.counts = self.flat[gradients : gradients + count]
        self.flag = self.flat[gradients + count :]
        self.cuda = device.type == "cuda"
        self.pending = count
        self.lacking: list[int] = []
        self.work: Work | None = None
        self.streams: set[Any] = set()
        self._pieces = [*self.views, self.flat[gradients:]]
        self._tail = torch.ones(count + flag, device=device, dtype=dtype)  # what a rank that has all gradients sends
        self._flag = 1.0
        self._has_flag = flag

    def fill(self, flag: float) -> None:
        """Copy this rank's gradients in; zeros, and a count of zero, where it has none."""
        gradients: list[Tensor] = []
        lacking: list[int] = []
        for n, parameter in enumerate(self.parameters):
            gradient = parameter.grad
            if gradient is None:
                lacking.append(n)
                gradient = torch.zeros_like(self.views[n])
            elif gradient.requires_grad:
                gradient = gradient.detach()
            gradients.append(gradient)
        if any(gradient.is_sparse for gradient in gradients):
            raise UserErrorException(
                "A parameter has a sparse gradient, which is not summed over ranks; use Embedding(..., sparse=False)."
            )
        if self._has_flag and flag != self._flag:
            self._tail[-1] = self._flag = flag
        torch._foreach_copy_(self._pieces, [*gradients, self._tail])
        if lacking:
            self.counts[lacking] = 0
        self.lacking = lacking
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def settle(self) -> None:
        """After the sum: what this rank lacked and another had is a gradient here too; what nobody had is none."""
        if self.lacking:
            counts = self.counts.tolist()
            for n in self.lacking:
                self.parameters[n].grad = self.views[n] if counts[n] else None


def _view(flat: Tensor, start: int, parameter: Tensor) -> Tensor:
    """A parameter's piece of a bucket, in the memory order of the parameter."""
    if torch.empty_like(parameter, device="meta").stride() == parameter.stride():  # dense: no gaps, no overlaps
        return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset() + start)
    return flat[start : start + parameter.numel()].view(parameter.shape)


class Reducer:
    """Sums the gradients of `parameters` over the ranks of `collective`.

    Once a step: `arm()` before the step's last backward, `finish()` after it. Other backwards just accumulate.
    Parameters frozen or unfrozen between steps, the same in all ranks, are noticed. A rank that has no sample in a step
    calls no backward and contributes zeros. Weigh losses by the whole batch's size: gradients are summed, not averaged.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], collective: Collective, bucket_bytes: int = 25 << 20
    ) -> None:
        if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
            raise UserErrorException(
                "The model has layers whose size is not known before their first batch; run one batch through it first."
            )
        self.flag = 0.0
        self.waited_seconds = 0.0
        self._collective = collective
        self._pulse = pulse.current()
        self._parameters = list(dict.fromkeys(parameters))
        self._bucket_bytes = bucket_bytes
        self._lock = threading.Lock()  # each device's backward has its own thread
        self._hooks: list[Any] = []
        self._buckets: list[_Bucket] = []
        self._armed = False
        self._next = 0
        self._seen = bytearray()
        self._late_flag: tuple[Tensor, Any] | None = None
        self._trainable: list[bool] = []
        if collective.size > 1:
            self._lay_out()

    def arm(self) -> None:
        """The next backward is the step's last: sums start as its gradients come.

        Raises UserErrorException where the step before was begun and not finished.
        """
        if self._collective.size == 1:
            return
        if self._next:
            raise UserErrorException(
                "This step's gradients are already being summed with those of the other ranks; a step that has begun "
                "cannot be begun again. Let the error that interrupted it end the script."
            )
        if [parameter.requires_grad for parameter in self._parameters] != self._trainable:
            self._lay_out()
        for bucket in self._buckets:
            bucket.pending = len(bucket.parameters)
        self._seen = bytearray(len(self._parameters))
        self._armed = True

    def finish(self) -> float:
        """Wait for the sums. Every gradient is then that of the whole batch, None where no rank had one.

        Returns the flag's sum over the ranks, the same in all of them. On CUDA it is the sum of the step before, so
        that nobody waits for the device; 0 in the first step.
        """
        if self._collective.size == 1:
            return float(self.flag)
        if not self._armed:
            self.arm()
        with self._lock:
            while self._next < len(self._buckets):
                self._launch(self._buckets[self._next])
            self._armed = False
        self._pulse.wait()
        began = time.perf_counter()
        for bucket in self._buckets:
            assert bucket.work is not None
            bucket.work.wait()
            bucket.work = None
        self.waited_seconds = time.perf_counter() - began
        self._next = 0
        for bucket in self._buckets:
            bucket.settle()
        flag = self._read_flag()
        self._pulse.phase(pulse.UPDATING)
        return flag

    def close(self) -> None:
        """Leave the parameters as they are, without hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _lay_out(self) -> None:
        self.close()
        self._trainable = [parameter.requires_grad for parameter in self._parameters]
        chosen = [parameter for parameter in self._parameters if parameter.requires_grad]
        groups = layout(chosen, self._bucket_bytes) or [[]]
        self._buckets = []
        self._late_flag = None
        number = 0
        for places in groups:
            some = [chosen[place] for place in places]
            device, dtype = (some[0].device, some[0].dtype) if some else (torch.device("cpu"), torch.float32)
            bucket = _Bucket(some, places is groups[-1], device, dtype)
            self._buckets.append(bucket)
            for parameter in some:
                hook = partial(self._ready, number, bucket)
                self._hooks.append(cast(Any, parameter).register_post_accumulate_grad_hook(hook))
                number += 1

    def _ready(self, number: int, bucket: _Bucket, parameter: Tensor) -> None:
        """Backward has a parameter's gradient."""
        if not self._armed:
            return
        with self._lock:
            if self._seen[number]:
                if bucket.work is not None:
                    raise UserErrorException(
                        "A parameter got a second gradient after its first was summed over the ranks. Call arm() "
                        "before the step's last backward only, and checkpoint activations with use_reentrant=False."
                    )
                return
            self._seen[number] = 1
            bucket.pending -= 1
            if bucket.cuda:
                bucket.streams.add(torch.cuda.current_stream(parameter.device))
            while self._next < len(self._buckets) and not self._buckets[self._next].pending:
                self._launch(self._buckets[self._next])

    def _launch(self, bucket: _Bucket) -> None:
        for stream in bucket.streams:
            torch.cuda.current_stream(bucket.flat.device).wait_stream(stream)
        bucket.streams.clear()
        bucket.fill(self.flag)
        bucket.work = self._collective.allreduce(bucket.flat)
        self._next += 1

    def _read_flag(self) -> float:
        flag = self._buckets[-1].flag
        if not flag.is_cuda:
            return float(flag.item())
        before = 0.0
        if self._late_flag is None:
            self._late_flag = (torch.zeros(1, dtype=flag.dtype, pin_memory=True), cast(Any, torch.cuda).Event())
        else:
            self._late_flag[1].synchronize()
            before = float(self._late_flag[0].item())
        self._late_flag[0].copy_(flag, non_blocking=True)
        self._late_flag[1].record(torch.cuda.current_stream(flag.device))
        return before
