from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainkit import TrainkitError, UserErrorException
from trainkit.boot.processes import identity, is_alive
from trainkit.loops.feed import Batch, Feed
from trainkit.loops.order import Order
from trainkit.loops.sources import Samples

CPU = torch.device("cpu")
COUNT = 23


class Noisy:
    """Samples that draw from all streams: the sample's number and what was drawn for it."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        drawn = [float(torch.rand(())), float(torch.randn(3).sum()), np.random.rand(), random.random()]
        return torch.tensor([number, *drawn], dtype=torch.float64), os.getpid()


def mixing(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A collate that draws, too."""
    weights = torch.rand(len(samples))
    return torch.stack([sample[0] for sample in samples]), weights


def feed(source: Samples, rank: int = 0, size: int = 1, accumulate: int = 1) -> Feed:
    return Feed(source, Order(len(source), 8, 4), rank, size, CPU, accumulate)


def rows(source: Samples, epoch: int, size: int = 1, position: int = 0) -> dict[int, list[float]]:
    """Of every sample what was drawn for it, read by `size` ranks."""
    found = {}
    for rank in range(size):
        for micros in feed(source, rank, size, 2).epoch(epoch, position):
            for batch in micros:
                for row in [] if batch.inputs is None else batch.inputs.tolist():
                    found[int(row[0])] = row[1:]
    return found


def streams() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=True)
    return torch.get_rng_state().tolist(), state[1].tolist(), state[2:], random.getstate()  # type: ignore[union-attr]


def pids() -> list[int]:
    return sorted(process.pid or 0 for process in multiprocessing.active_children())


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_samples_are_the_same_with_any_number_of_workers_and_ranks() -> None:
    here = Samples(Noisy())
    first, second = rows(here, 0), rows(here, 1)
    assert sorted(first) == list(range(COUNT))
    assert len({tuple(row) for row in (*first.values(), *second.values())}) == 2 * COUNT
    assert rows(here, 0, size=3) == first
    for workers in (1, 3):
        source = Samples(Noisy(), workers)
        try:
            assert rows(source, 0) == first and rows(source, 1, size=2) == second
            late = rows(source, 0, position=8)
            assert late == {number: first[number] for number in Order(COUNT, 8, 4).epoch(0)[8:].tolist()}
        finally:
            source.close()
    assert not pids()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_streams_of_this_process_stay_as_they_were(workers: int) -> None:
    before, source = streams(), Samples(Noisy(), workers)
    rows(source, 0)
    source.close()
    assert streams() == before


def test_what_collate_draws_is_the_same_with_workers() -> None:
    drawn = []
    for workers in (0, 2):
        source = Samples(Noisy(), workers, mixing)
        drawn.append([micros[0].targets.tolist() for micros in feed(source).epoch(3)])
        source.close()
    assert drawn[0] == drawn[1] and len({tuple(each) for each in drawn[0]}) == 3


def test_workers_stay_for_the_next_epoch_and_end_with_one_that_is_left() -> None:
    source = Samples(Noisy(), 2)
    readers = {pid for micros in feed(source).epoch(0) for pid in micros[0].targets.tolist()}
    assert readers == set(pids()) and len(readers) == 2
    steps = feed(source).epoch(1)
    assert set(next(steps)[0].targets.tolist()) <= readers
    other = rows(source, 0)  # a second reading while the first is under way has workers of its own
    assert [micros[0].inputs[:, 0].tolist() for micros in steps] and len(other) == COUNT
    steps = feed(source).epoch(2)
    next(steps)
    steps.close()
    assert not pids()
    assert rows(source, 0) == other
    del source
    assert not pids()


class Broken(Noisy):
    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if number == 17:
            raise KeyError("no such picture")
        return super().__getitem__(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_names_the_sample(workers: int) -> None:
    with pytest.raises(
        UserErrorException, match="Sample 17 of the Broken cannot be read: KeyError: 'no such pict"
    ) as e:
        rows(Samples(Broken(), workers), 0)
    cause = str(e.value.__cause__)
    assert isinstance(e.value.__cause__, KeyError) if workers == 0 else 'raise KeyError("no such picture")' in cause
    assert not pids()


def uneven(samples: list[Any]) -> Any:
    return torch.stack([torch.zeros(sample[1] % 5) for sample in samples])


@pytest.mark.parametrize(
    ("dataset", "collate", "said"),
    [
        (
            [(i, i) for i in range(COUNT)],
            uneven,
            "Samples 19, 13, 16, 0, 7, 17, 9, 8 make no batch: RuntimeError: stack expects",
        ),
        ([(i, i, i) for i in range(COUNT)], None, "A batch of the list is 3 parts, not .inputs, targets."),
        (list(range(COUNT)), None, "A batch of the list is a Tensor, not"),
    ],
)
def test_samples_that_make_no_batch_are_refused(dataset: Any, collate: Any, said: str) -> None:
    with pytest.raises(UserErrorException, match=said):
        list(feed(Samples(dataset, 0, collate)).epoch(0))


class Deadly(Noisy):
    def __init__(self, last: str) -> None:
        self.last = last

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if self.last == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(7)


@pytest.mark.parametrize(("last", "cause"), [("kill", "of SIGKILL"), ("exit", "with exit code 7")])
def test_a_worker_that_dies_is_an_error_at_once(last: str, cause: str) -> None:
    with pytest.raises(TrainkitError, match=f"A process that reads the data has died {cause}. Where memory"):
        list(feed(Samples(Deadly(last), 2)).epoch(0))
    assert not pids()


def test_signals_meant_for_the_rank_leave_its_workers_alone() -> None:
    """A scheduler's SIGTERM reaches every process of the job, and Ctrl-C all of the terminal."""
    got: list[int] = []
    handlers = {s: signal.signal(s, lambda number, _: got.append(number)) for s in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        source = Samples(Noisy(), 2)
        whole = rows(source, 0)
        steps = feed(source).epoch(0)
        seen: list[Batch] = list(next(steps))
        before = pids()
        for pid in before:
            for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                os.kill(pid, signum)
        seen += [batch for micros in steps for batch in micros]
        assert {int(row[0]): row[1:] for batch in seen for row in batch.inputs.tolist()} == whole
        assert rows(source, 1) and pids() == before and len(before) == 2
        source.close()
        assert not pids() and not got
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


RANK = """
import multiprocessing, os, sys, threading, time
from pathlib import Path
import numpy as np
from trainkit.loops.sources import Samples

class Slow:
    def __len__(self): return 100
    def __getitem__(self, number):
        if number > 1: time.sleep(600)
        return number, number

def read():
    batches = Samples(Slow(), 2).batches([np.array([i]) for i in range(100)], 0, 0)
    print(next(batches), flush=True)
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    {end}
{start}
"""


def workers_of_a_rank(tmp_path: Path, start: str, end: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A process whose two workers are stuck in their dataset, and the workers' names."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.replace("{end}", end).replace("{start}", start))
    rank = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    assert rank.stdout.readline() == "(tensor([0]), tensor([0]))\n"
    return rank, [identity(int(pid)) for pid in rank.stdout.readline().split()]


IN_A_THREAD = "thread = threading.Thread(target=read); thread.start(); thread.join()"


@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        ("read()", "os.kill(os.getpid(), 9)", -9),
        ("read()", "os._exit(4)", 4),
        ("read()", "sys.exit(3)", 3),
        (IN_A_THREAD, "os.kill(os.getpid(), 9)", -9),
    ],
)
def test_workers_die_with_their_rank_however_it_ends(tmp_path: Path, start: str, end: str, code: int) -> None:
    rank, workers = workers_of_a_rank(tmp_path, start, end)
    try:
        assert len(workers) == 2 and rank.wait(60) == code
        deadline = time.monotonic() + 30
        while any(map(is_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(is_alive, workers))
    finally:
        rank.kill()
        rank.wait()
        if rank.stdout:
            rank.stdout.close()


def test_workers_outlive_the_thread_that_started_them() -> None:
    source, found = Samples(Noisy(), 2), []
    thread = threading.Thread(target=lambda: found.append(rows(source, 0)))
    thread.start()
    thread.join()
    before = pids()
    assert rows(source, 0) == found[0] and pids() == before and len(before) == 2
    source.close()
    assert not pids()
