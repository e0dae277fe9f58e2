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


def in_order(batches: Iterable[W | None], workers: int) -> Generator[W | None, None, None]:
    """Each batch in turn, when its parts are made, by `workers` threads.

    Two batches are begun before they are due, and more only while these have fewer than two parts for each thread.
    Without workers the reader makes the parts itself. An error in a part is raised where its batch is due. Closing the
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
            behind = sum(len(parts) for _, parts in begun) - len(begun[0][1])
            if len(begun) > 2 and (behind >= 2 * workers or len(begun) > 2 * workers + 2):
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
    """Have torch use one thread in each of the pool's, and as many as before in this and all later ones.

    Else the pool's threads would have OpenMP helpers of their own, and as soon as there are more of these than cores,
    those of the training itself no longer wait actively for each other: all of it takes a quarter longer.
    """
    before = torch.get_num_threads()
    together = threading.Barrier(workers)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes over the number of all when it first asks: before it gets its own
        torch.set_num_threads(1)
        together.wait()  # so that each thread gets one of these calls

    try:
        for started in [pool.submit(begin) for _ in range(workers)]:
            started.result()
    except BaseException:  # no thread to be had, or interrupted: those that wait for it must not
        together.abort()
        raise
    torch.set_num_threads(before)  # torch remembers the last number that any thread asked for
