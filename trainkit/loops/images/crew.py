"""Threads that make batches ahead of their reader: parts of a batch at once, batches in order, so many and no more."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch


class Work(Protocol):
    """A batch to be made: parts that can be made at once, in any order."""

    parts: list[Callable[[], None]]


W = TypeVar("W", bound=Work)


def in_order(batches: Iterable[W | None], workers: int, ahead: int) -> Generator[W | None, None, None]:
    """Each batch in turn, when its parts are made, by `workers` threads; `ahead` batches are begun before they are due.

    Without workers the reader makes them itself. An error in a part is raised where its batch is due. Closing the
    iterator ends the threads.
    """
    if workers == 0:
        for batch in batches:
            for part in batch.parts if batch is not None else ():
                part()
            yield batch
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
    begun: deque[tuple[W | None, list[Future[None]]]] = deque()
    try:
        _single(pool, workers)
        for batch in batches:
            begun.append((batch, [] if batch is None else [pool.submit(part) for part in batch.parts]))
            if len(begun) > ahead:
                yield _due(*begun.popleft())
        while begun:
            yield _due(*begun.popleft())
    finally:
        begun.clear()
        pool.shutdown(cancel_futures=True)


def _due(batch: W | None, parts: list[Future[None]]) -> W | None:
    for part in parts:
        part.result()
    return batch


def _single(pool: ThreadPoolExecutor, workers: int) -> None:
    """Have torch use one thread in each of the pool's, and as many as before in this and all later ones."""
    before = torch.get_num_threads()
    together = threading.Barrier(workers)

    def begin() -> None:
        torch.set_num_threads(1)
        together.wait()  # so that each thread gets one of these calls

    for started in [pool.submit(begin) for _ in range(workers)]:
        started.result()
    torch.set_num_threads(before)  # torch remembers the last number that any thread asked for
