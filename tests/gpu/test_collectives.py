"""Sums of tensors on GPUs: NCCL where each rank has one, else gloo, MPI and Horovod, staged through main memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loops import worlds

SCRIPT = """
import hashlib, sys
import torch
from torch import nn
from trainkit.loops.collectives import gather, total
from trainkit.loops.reducer import Reducer, agree
from trainkit.loops.syncnorm import convert_batch_norm
from trainkit.loops.world import join

world = join(sys.argv[1])
line, rank, size, device = world.collective, world.rank, world.size, world.device
report(name=line.name, device=str(device))
sums = []
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8):
    sums.append(total(line, torch.full((3,), rank + 1, device=device).to(dtype)).tolist())
report(sums=sums, cpu=total(line, torch.ones(2)).tolist(), gathered=[int(part) for part in gather(line, b"%d" % rank)])

# What is queued on the stream before a sum is in it, and what is queued after its wait finds it.
slow = torch.randn(3000, 3000, device=device)
for _ in range(20):
    slow = slow @ slow / 100
flat = slow.flatten()[:1_000_000] * 0 + rank + 1
flat = torch.nan_to_num(flat, nan=rank + 1.0)
work = line.allreduce(flat)
work.wait()
report(ordered=(flat * 2).unique().tolist())
values = torch.full((4,), 7.0 + rank, device=device)
line.broadcast(values)
report(broadcast=values.tolist())

torch.manual_seed(0)
data = torch.randn(12, 3, 8, 8, dtype=torch.float64)
def net():
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    return nn.Sequential(*layers).double()
plain = net()
for _ in range(3):
    plain.zero_grad()
    (plain(data).square().sum() / 12).backward()
mine = convert_batch_norm(net().to(device), line)
agree(mine, line)
reducer = Reducer(list(mine.parameters()), line, bucket_bytes=2000)
flags = []
for step in range(3):
    mine.zero_grad()
    reducer.flag = float(rank == 0 and step == 1)
    reducer.arm()
    (mine(data[rank::size].to(device)).square().sum() / 12).backward()
    flags.append(reducer.finish())
report(flags=flags,
       worst=max(float((a.grad.cpu() - b.grad).abs().max()) for a, b in zip(mine.parameters(), plain.parameters())),
       statistics=float((mine[1].running_var.cpu() - plain[1].running_var).abs().max()),
       bits=hashlib.sha256(b"".join(p.grad.cpu().numpy().tobytes() for p in mine.parameters())).hexdigest())
"""


def _check(outcome: worlds.Outcome, name: str, size: int) -> None:
    assert outcome.same("name") == name
    one = sum(range(1, size + 1))
    assert outcome.same("sums") == [[one] * 3] * 6 and outcome.same("cpu") == [size] * 2
    assert outcome.same("gathered") == list(range(size))
    assert outcome.same("ordered") == [2.0 * one] and outcome.same("broadcast") == [7.0] * 4
    assert outcome.same("flags") == [0.0, 0.0, 1.0]  # a step late: nobody waits for the device
    assert max(outcome.each("worst")) < 1e-10 and max(outcome.each("statistics")) < 1e-10
    outcome.same("bits")


@pytest.mark.gpus(2)
def test_nccl_with_a_gpu_for_each_rank(tmp_path: Path) -> None:
    outcome = worlds.run(tmp_path, SCRIPT, 2, "torchrun", arguments=["auto"])
    _check(outcome, "nccl", 2)
    assert len(set(outcome.each("device"))) == 2


def test_ranks_that_share_a_gpu_are_told_to_use_gloo(tmp_path: Path) -> None:
    outcome = worlds.start(
        tmp_path, SCRIPT, 2, "torchrun", env={"CUDA_VISIBLE_DEVICES": "0"}, arguments=["nccl"]
    ).wait()
    assert outcome.code != 0 and "some share one" in outcome.output


@pytest.mark.parametrize(("backend", "by"), [("gloo", "torchrun"), ("mpi", "mpirun"), ("horovod", "horovodrun")])
def test_sums_through_main_memory(tmp_path: Path, backend: str, by: str) -> None:
    _check(worlds.run(tmp_path, SCRIPT, 2, by, env={"CUDA_VISIBLE_DEVICES": "0"}, arguments=[backend]), backend, 2)
