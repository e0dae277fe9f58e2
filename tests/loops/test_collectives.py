"""Sums over ranks: the same bits in all of them and in every run, on every backend."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.loops import worlds
from trainkit.loops.collectives import Alone, barrier, gather, total

SCRIPT = """
import hashlib, sys
import torch
from trainkit.loops.collectives import barrier, gather, total
from trainkit.loops.world import join

world = join(sys.argv[1])
line = world.collective
size = line.size
report(name=line.name, place=[world.rank, world.size, world.local_size], line=[line.rank, line.size])

sums = {}
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8):
    sums[str(dtype)] = total(line, torch.full((2, 3), world.rank + 1).to(dtype)).tolist()
report(sums=sums)

# Numbers whose sum depends on the order of summation, in lengths that take different algorithms.
digest, worst = hashlib.sha256(), 0.0
for length in (1, 7, 1000, 300_000, 3_000_000):
    seeds = [torch.Generator().manual_seed(rank) for rank in range(size)]
    parts = [torch.randn(length, generator=seed).double() * 10.0 ** (n % 3) for n, seed in enumerate(seeds)]
    exact = torch.stack(parts).sum(0)
    for _ in range(2):
        mine = parts[world.rank].float()
        line.allreduce(mine).wait()
        digest.update(mine.numpy().tobytes())
        worst = max(worst, float(((mine.double() - exact).abs() / torch.stack(parts).abs().sum(0)).max()))
report(digest=digest.hexdigest(), worst=worst)

halves = torch.full((1000,), 1.0 + world.rank * 2.0**-7, dtype=torch.bfloat16)
report(halves=total(line, halves)[::999].tolist())

# Many sums under way at once, waited for in another order.
flats = [torch.full((n * 100 + 1,), float(world.rank + n)) for n in range(20)]
works = [line.allreduce(flat) for flat in flats]
for work in reversed(works):
    work.wait()
report(many=[flat.unique().tolist() for flat in flats])

# Another line of the same ranks, whose order may differ from the first one's: here rank by rank.
other = line.apart()
first, second = torch.ones(5000), torch.full((7,), 2.0)
calls = [(line, first), (other, second)]
begun = [one.allreduce(flat) for one, flat in (calls if world.rank % 2 else reversed(calls))]
for work in begun:
    work.wait()
report(apart=[first[0].item(), second[0].item()])

values = torch.tensor([float("nan"), 1.5, -0.0], dtype=torch.float64) if world.rank == 0 else torch.zeros(3).double()
line.broadcast(values)
flags = torch.tensor([True, False]) if world.rank == 0 else torch.tensor([False, False])
line.broadcast(flags)
line.broadcast(torch.zeros(0))
line.allreduce(torch.zeros(0)).wait()
report(broadcast=values.numpy().tobytes().hex(), flags=flags.tolist())

report(gathered=[part.decode() for part in gather(line, b"x" * (world.rank * 3))],
       large=[hashlib.sha256(part).hexdigest() for part in gather(line, bytes([world.rank]) * 300_000)],
       empty=gather(line, b"") == [b""] * size)
barrier(line)
again = join(sys.argv[1])
report(again=again is world, resolved=join(line.name).collective is line)
"""
WORLDS = [
    ("gloo", "torchrun", 2),
    ("gloo", "mpirun", 4),
    ("mpi", "mpirun", 2),
    ("mpi", "mpirun", 4),
    ("horovod", "horovodrun", 2),
    ("horovod", "mpirun", 4),
]


@pytest.mark.engine
@pytest.mark.parametrize(("backend", "by", "size"), WORLDS)
def test_every_rank_gets_the_same_exact_sums(tmp_path: Path, backend: str, by: str, size: int) -> None:
    outcome = worlds.run(tmp_path / "1", SCRIPT, size, by, arguments=[backend])
    ranks = range(size)
    assert outcome.same("name") == backend
    assert outcome.each("place") == [[rank, size, size] for rank in ranks]
    assert outcome.each("line") == [[rank, size] for rank in ranks]
    one = sum(range(1, size + 1))
    assert all(values == [[one] * 3] * 2 for values in outcome.same("sums").values())
    assert len(outcome.same("digest")) == 64
    assert max(outcome.each("worst")) < 1e-6
    # 4 ranks: 4 + 6/128 is no bfloat16, but its neighbours are 1/32 apart: rounded once, not after each rank
    assert all(abs(value - (size + sum(ranks) / 128)) <= 2.0**-6 for value in outcome.same("halves"))
    assert outcome.same("many") == [[float(sum(ranks) + size * n)] for n in range(20)]
    assert outcome.same("apart") == [size, 2.0 * size]
    assert (
        bytes.fromhex(outcome.same("broadcast")) == torch.tensor([float("nan"), 1.5, -0.0]).double().numpy().tobytes()
    )
    assert outcome.same("flags") == [True, False]
    assert outcome.same("gathered") == ["x" * (rank * 3) for rank in ranks]
    assert len(set(outcome.same("large"))) == size
    assert outcome.same("empty") and outcome.same("again") and outcome.same("resolved")
    if size == 4 and backend != "gloo":  # and the same in another run
        assert worlds.run(tmp_path / "2", SCRIPT, size, by, arguments=[backend]).same("digest") == outcome.same(
            "digest"
        )


def test_alone_every_sum_is_what_it_was() -> None:
    alone = Alone()
    values = torch.tensor([1.0, 2.0])
    alone.allreduce(values).wait()
    alone.broadcast(values)
    barrier(alone)
    assert total(alone, values) is values and values.tolist() == [1.0, 2.0]
    assert gather(alone, b"data") == [b"data"]
    assert alone.apart() is alone


def test_a_copied_line_is_the_same_and_a_stored_one_is_none() -> None:
    class Line(Alone):
        size = 2

    line: Any = Line()
    assert copy.deepcopy({"line": line})["line"] is line
    assert type(pickle.loads(pickle.dumps(line))) is Alone
