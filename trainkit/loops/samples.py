"""Any map-style dataset as a loop's source, read in this process or by workers: the samples are the same.

torch's DataLoader starts the workers and carries the batches. It is told which samples to read by ids that name their
epoch as well, so its workers stay over epochs, and what it has read ahead changes nothing.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.sharedctypes import RawValue
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from trainkit.boot.processes import signal_name
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops.nested import mapped
from trainkit.loops.order import Ids
from trainkit.loops.reading import HELD, Failure, Part, Reader, WorkerStart


class Samples:
    """Reads a map-style dataset, whose samples are pairs (input, target).

    `workers` processes read ahead; 0 reads in this process. `collate` makes a batch (inputs, targets) of a list of
    samples; without it torch's default_collate does. `worker_init` is called with its number in each worker.

    Before each sample the streams of torch (CPU), numpy and random are seeded by (seed, epoch, id), before `collate` by
    (seed, epoch, first id): augmentation that draws from them is the same with any number of workers and ranks. Streams
    that a dataset keeps of its own are not. The streams of this process stay as they were.

    Workers stay for the next epoch where one was read to its end, and see the dataset as it was when they started;
    `close` ends them, as does the end of this process, however it comes. One thread at a time reads. Raises
    UserErrorException where a sample or a batch of them cannot be read, and TrainkitError where a worker has died.
    """

    def __init__(
        self,
        dataset: Any,
        workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        worker_init: Callable[[int], None] | None = None,
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise UserErrorException(f"workers must be a whole number of processes, 0 for none, not {workers!r}.")
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UserErrorException(f"A {type(dataset).__name__} is no dataset: it needs __len__ and __getitem__.")
        self.dataset, self.workers, self.worker_init = dataset, workers, worker_init
        self.collate = collate or default_collate
        self.pinned = False
        self._idle: _Workers | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, shares: Iterable[Ids], epoch: int, seed: int) -> Iterator[tuple[Any, Any] | None]:
        """See `Source.batches`."""
        parts = (Part(ids, epoch, seed) for ids in shares)
        if self.workers == 0:
            reader = Reader(self.dataset, self.collate)
            for part in parts:
                yield _given(reader.apart(part), self.pinned)
            return
        workers, self._idle = self._idle, None
        if workers is None or workers.pinned != self.pinned:
            workers = _Workers(self)
        read_all = False
        try:
            for batch in workers.read(parts):
                yield _given(batch)
            read_all = True
        finally:
            # What they are reading is of no use where the epoch was left: waiting for it would cost the next one time.
            if read_all and self._idle is None:
                self._idle = workers
            else:
                workers.end()

    def close(self) -> None:
        """End the workers that wait for the next epoch."""
        workers, self._idle = self._idle, None
        if workers is not None:
            workers.end()

    def __del__(self) -> None:
        if getattr(self, "_idle", None) is not None:
            self.close()


def _given(batch: Any, pin: bool = False) -> tuple[Any, Any] | None:
    """A batch as it came, or the error that came instead."""
    if isinstance(batch, Failure):
        raise UserErrorException(batch.message) from batch.cause
    if batch is None:
        return None
    if pin:
        batch = mapped(batch, lambda leaf: leaf.pin_memory() if isinstance(leaf, Tensor) else leaf)
    return batch[0], batch[1]


class _Parts:
    """The batch sampler of a DataLoader that outlives an epoch."""

    def __init__(self) -> None:
        self.parts: Iterator[Part] = iter(())

    def __iter__(self) -> Iterator[Part]:
        return self.parts


class _Workers:
    """The processes that read for one epoch after the other."""

    def __init__(self, samples: Samples) -> None:
        self.pinned = samples.pinned
        self.parts = _Parts()
        self.closing = RawValue("b", 0)  # in memory that the workers share
        self.start = WorkerStart(os.getpid(), self.closing, samples.worker_init)
        self.loader: DataLoader[Any] = DataLoader(
            Reader(samples.dataset, samples.collate, self.closing),
            batch_sampler=self.parts,  # type: ignore[arg-type]
            num_workers=samples.workers, collate_fn=_same, worker_init_fn=self.start, persistent_workers=True,
            pin_memory=samples.pinned, multiprocessing_context="fork",
            generator=torch.Generator(),  # else the DataLoader would draw from this process's stream
        )  # fmt: skip
        # Runs before what torch and multiprocessing, imported earlier, do at the end: they wait for workers in vain.
        atexit.register(self.end)

    def read(self, parts: Iterator[Part]) -> Iterator[Any]:
        """The batches of `parts`; TrainkitError where a worker has died."""
        self.parts.parts = parts
        self.start.by_main = threading.current_thread() is threading.main_thread()
        try:
            # A signal for the rank must not hit a worker before it has its own handlers; it lets them through then.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, HELD if self.loader._iterator is None else ())
            try:
                batches = iter(self.loader)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
            yield from batches
        except RuntimeError as e:
            if not str(e).startswith("DataLoader worker (pid"):
                raise
            raise TrainkitError(
                f"A process that reads the data has died{self._death()}. Where memory ran out, ask for fewer workers; "
                "with workers=0 the data is read in this process, whose traceback says more."
            ) from e

    def _death(self) -> str:
        iterator: Any = self.loader._iterator
        workers = [] if iterator is None else iterator._workers
        codes = [process.exitcode for process in workers if process.exitcode]
        if not codes:
            return ""
        return f" of {signal_name(-codes[0])}" if codes[0] < 0 else f" with exit code {codes[0]}"

    def end(self) -> None:
        """End the processes, also in the middle of a sample."""
        self.closing.value = 1
        atexit.unregister(self.end)
        iterator: Any = self.loader._iterator
        if iterator is None:
            return
        self.loader._iterator = None
        for process in iterator._workers:
            process.terminate()  # no more than a nudge: see WorkerStart
        iterator._shutdown_workers()
        for process in iterator._workers:
            if process.is_alive():  # stuck in code that is not Python
                process.kill()
                process.join()


def _same(batch: Any) -> Any:
    return batch
