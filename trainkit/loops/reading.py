"""What reads samples, in a worker or here: seeds for each sample, errors that name it, and how a worker starts."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from trainkit.boot.processes import die_with_parent
from trainkit.loops.digest import hashes
from trainkit.loops.order import Ids

_SAMPLE, _COLLATE = 1, 2  # what a seed is for
HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)  # kept from workers until they are ready


class Part(NamedTuple):
    """Samples to read as one batch."""

    ids: Ids
    epoch: int
    seed: int


@dataclass(frozen=True)
class Failure:
    """A batch that could not be read: errors do not all survive the way from a worker, their text does."""

    message: str
    cause: BaseException | None


class _InWorker(Exception):
    """The traceback of an error in a worker, as text."""

    def __str__(self) -> str:
        return f"\n\nIn the process that read it:\n{self.args[0]}"


class _Left(BaseException):
    """Raised in the middle of a sample that nobody waits for any more."""


class Reader(Dataset[Any]):
    """Reads the samples of a part, each with streams seeded for it alone."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], closing: Any = None) -> None:
        self.dataset, self.collate, self.closing, self.reading = dataset, collate, closing, False

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, part: Part) -> Any:
        """In a worker: the batch of the samples, None for none, or the Failure to read it."""
        try:
            self.reading = True
            batch = self.read(part)
        except _Left:
            batch = None
        finally:
            self.reading = False
        if isinstance(batch, Failure) and batch.cause is not None:
            text = "".join(traceback.format_exception(batch.cause))
            return Failure(batch.message, _InWorker(text))
        return batch

    def apart(self, part: Part) -> Any:
        """The same in this process, whose streams stay as they were."""
        streams = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
        try:
            return self.read(part)
        finally:
            torch.default_generator.set_state(streams[0])
            np.random.set_state(streams[1])
            random.setstate(streams[2])

    def read(self, part: Part) -> Any:
        """The batch, None for no samples, or the Failure to read it."""
        ids = part.ids.tolist()
        if not ids:
            return None
        seeds = hashes(part.ids, _SAMPLE, part.seed, part.epoch).tolist()
        samples = []
        for number, seed in zip(ids, seeds, strict=True):
            if self.closing is not None and self.closing.value:
                return None
            _seed(seed)
            try:
                samples.append(self.dataset[number])
            except Exception as e:
                name = type(self.dataset).__name__
                return Failure(f"Sample {number} of the {name} cannot be read: {type(e).__name__}: {e}", e)
        _seed(int(hashes(part.ids[:1], _COLLATE, part.seed, part.epoch)[0]))
        try:
            batch = self.collate(samples)
        except Exception as e:
            return Failure(f"Samples {_few(ids)} make no batch: {type(e).__name__}: {e}", e)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            what = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
            return Failure(
                f"A batch of the {type(self.dataset).__name__} is {what}, not (inputs, targets): let its samples be "
                "pairs, or give Samples a collate that makes one.", None,
            )  # fmt: skip
        return batch


def _few(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")


def _seed(seed: int) -> None:
    """Seed what datasets draw from. torch.manual_seed would reach for the GPU's stream as well."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


class WorkerStart:
    """What a worker does first: it must die with its rank, and at no signal that is meant for the rank.

    A scheduler's SIGTERM often reaches all processes of a job. The rank then saves and ends its workers itself. Once it
    does that (`closing`), SIGTERM makes a worker leave the sample that it reads, no more: one that ended anywhere else
    could take a lock of the queues with it, and its rank would wait for that for ever.
    """

    def __init__(self, parent: int, closing: Any, then: Callable[[int], None] | None) -> None:
        self.parent, self.closing, self.then = parent, closing, then
        self.by_main = True  # whether the parent's main thread starts the worker

    def __call__(self, number: int) -> None:
        info = get_worker_info()
        assert info is not None and isinstance(info.dataset, Reader)
        reader = info.dataset

        def leave(signum: int, frame: object) -> None:
            if os.getppid() != self.parent:
                os._exit(0)
            if self.closing.value and reader.reading:
                raise _Left

        for signum in signal.valid_signals():
            # Handlers written in Python were inherited and are the rank's; a signal that is ignored stays so.
            handler = signal.getsignal(signum)
            if callable(handler) or (signum == signal.SIGTERM and handler != signal.SIG_IGN):
                signal.signal(signum, leave)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        if self.by_main:
            die_with_parent(signal.SIGKILL, self.parent)
        else:  # the kernel's signal would come at the end of the thread that started this process
            threading.Thread(target=self._outlive_no_parent, daemon=True).start()
        if self.then is not None:
            self.then(number)

    def _outlive_no_parent(self) -> None:
        try:
            watched = select.poll()
            watched.register(os.pidfd_open(self.parent), select.POLLIN)
            if os.getppid() == self.parent:
                watched.poll()
        except OSError:
            if os.getppid() == self.parent:
                return  # an old kernel: torch's own look at the parent, after each batch, must do
        os.kill(os.getpid(), signal.SIGKILL)
