"""Gradients summed over ranks: those of the whole batch, whatever order they come in and whoever has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.loops import worlds
from trainkit import UserErrorException
from trainkit.loops.collectives import Alone
from trainkit.loops.reducer import FIRST_BUCKET_BYTES, Reducer, layout

SCRIPT = """
import hashlib, sys
import torch
from torch import nn
from trainkit import UserErrorException
from trainkit.loops.collectives import gather
from trainkit.loops.reducer import Reducer, agree
from trainkit.loops.world import join

world = join(sys.argv[1])
line, rank, size = world.collective, world.rank, world.size

class Watched:
    # the line, and what was asked of it
    def __init__(self):
        self.name, self.rank, self.size, self.calls = line.name, rank, size, []
    def allreduce(self, flat):
        self.calls.append(flat.numel())
        return line.allreduce(flat)

class Net(nn.Module):
    # parts that are used by all ranks, by some, by none; used in another order than they were made in
    def __init__(self):
        super().__init__()
        self.late, self.early = nn.Linear(6, 3), nn.Linear(5, 6)
        self.some, self.none, self.frozen = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.conv = nn.Conv2d(1, 5, 3).to(memory_format=torch.channels_last)
        self.low = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    def forward(self, x, some):
        x = self.frozen(torch.relu(self.early(self.conv(x).mean((2, 3)))))
        if some:
            x = self.some(x)
        return self.late(x) * self.low.double()

def net(seed=0):
    torch.manual_seed(seed)
    model = Net()
    low = model.low
    model.double()
    model.low = nn.Parameter(low.detach().bfloat16())
    return model

torch.manual_seed(7)
data = torch.randn(11, 1, 6, 6, dtype=torch.float64)
shares = [data[:0]] * size
shares[0] = data[: 11 if size == 1 else 8]
if size > 1:
    shares[1] = data[8:]  # ranks from 2 on have no sample

def reference(accumulate=1):
    model = net()
    for share, some in zip(shares, [False, True, False, False]):
        if len(share):
            (model(share, some).sum() / 11).backward()
    return model

# Every rank builds another model; rank 0's is everybody's.
model = net(seed=rank)
agree(model, line)
report(agreed=hashlib.sha256(b"".join(v.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                                     for v in model.state_dict().values())).hexdigest())
watched = Watched()
reducer = Reducer(list(model.parameters()), watched, bucket_bytes=300)
expected = reference()
flags = []
for step in range(3):
    for p in model.parameters():
        p.grad = None
    if step == 2:  # zeroed instead of removed: gradients go straight into the buckets
        model.zero_grad(set_to_none=False)
    reducer.flag = float(rank == 1 and step == 1)
    reducer.arm()
    if len(shares[rank]):
        (model(shares[rank], rank == 1).sum() / 11).backward()
    flags.append(reducer.finish())
names = dict(model.named_parameters())
report(flags=flags, calls=watched.calls)
report(nones=[name for name, p in names.items() if p.grad is None],
       worst=max(float((p.grad - dict(expected.named_parameters())[name].grad).abs().max())
                 for name, p in names.items() if p.grad is not None and p.dtype == torch.float64),
       half=float((model.low.grad.double() - expected.low.grad.double()).abs().max()
                  / expected.low.grad.double().abs().max()),
       strides=model.conv.weight.grad.stride() == model.conv.weight.stride(),
       bits=hashlib.sha256(b"".join(p.grad.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                                    for p in names.values() if p.grad is not None)).hexdigest())

# Accumulation: nothing is said before the last backward; what only an earlier one used counts too.
watched.calls.clear()
model.zero_grad()
for n, part in enumerate(shares[rank].chunk(2)):
    last = n == len(shares[rank].chunk(2)) - 1
    if last:
        quiet = len(watched.calls)
        reducer.arm()
    if len(part):
        (model(part, rank == 1 and not last).sum() / 11).backward()
reducer.finish()
whole = net()
for n, (share, some) in enumerate(zip(shares, [False, True, False, False])):
    for k, part in enumerate(share.chunk(2)):
        if len(part):
            (whole(part, some and k == 0).sum() / 11).backward()
wanted = dict(whole.named_parameters())
report(quiet=quiet, accumulated=max(float((p.grad - wanted[name].grad).abs().max()) for name, p in names.items()
                                    if p.grad is not None and p.dtype == torch.float64),
       some=model.some.weight.grad is not None)

# Frozen and unfrozen between steps.
model.early.requires_grad_(False)
model.frozen.requires_grad_(True)
model.zero_grad()
model.early.weight.grad = torch.full_like(model.early.weight, 5.0)
reducer.arm()
if len(shares[rank]):
    (model(shares[rank], False).sum() / 11).backward()
reducer.finish()
thawed = net()
thawed.frozen.requires_grad_(True)
for share in shares:
    if len(share):
        (thawed(share, False).sum() / 11).backward()
report(thawed=float((model.frozen.weight.grad - thawed.frozen.weight.grad).abs().max()),
       untouched=bool((model.early.weight.grad == 5.0).all()))

# Wrong use is an error in every rank, and the line stays in step.
model.zero_grad()
try:
    reducer.arm()
    loss = model(data[:2], True).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    report(twice="accepted")
except UserErrorException as error:
    report(twice=str(error))
try:
    reducer.arm()
    report(again="accepted")
except UserErrorException as error:
    report(again=str(error))
reducer.finish()
reducer.close()
model.zero_grad()
watched.calls.clear()
model(data[:2], True).sum().backward()
report(closed=len(watched.calls))
try:
    agree(nn.Linear(3, 3 + (rank == size - 1)), line)
    report(other="accepted")
except UserErrorException as error:
    report(other=str(error))

sparse = nn.Embedding(4, 2, sparse=True)
reducer = Reducer(list(sparse.parameters()), line)
try:
    sparse(torch.tensor([1])).sum().backward()
    reducer.finish()
    report(sparse="accepted")
except UserErrorException as error:
    report(sparse=str(error))
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("backend", "by", "size"), [("gloo", "plain", 2), ("mpi", "mpirun", 4), ("horovod", "horovodrun", 2)]
)
def test_gradients_are_those_of_the_whole_batch(tmp_path: Path, backend: str, by: str, size: int) -> None:
    outcome = worlds.run(tmp_path, SCRIPT, size, by, arguments=[backend])
    outcome.same("agreed")
    outcome.same("bits")
    assert outcome.same("flags") == [0.0, 1.0, 0.0]
    calls = outcome.same("calls")  # the same messages in the same order, also where a rank has no sample
    assert len(calls) % 3 == 0 and calls[: len(calls) // 3] * 3 == calls and len(calls) >= 9
    # zero_grad(set_to_none=False) has nothing to zero where there was None
    nones = ["none.weight", "none.bias", "frozen.weight", "frozen.bias"]
    assert outcome.same("nones") == nones
    assert max(outcome.each("worst")) < 1e-12 and max(outcome.each("half")) < 0.02
    assert outcome.same("strides")
    assert set(outcome.each("quiet")) == {0} and outcome.same("some")
    assert max(outcome.each("accumulated")) < 1e-12
    assert max(outcome.each("thawed")) < 1e-12 and outcome.same("untouched")
    assert "second gradient" in outcome.same("twice")
    assert "cannot be begun again" in outcome.same("again")
    assert outcome.same("closed") == 0
    assert f"Rank {size - 1} has built another model than rank 0" in outcome.same("other")
    assert "sparse" in outcome.same("sparse")


def test_last_parameters_come_first_and_the_first_bucket_is_small() -> None:
    tensors = [torch.empty(n, device="meta") for n in (10, FIRST_BUCKET_BYTES, 20, FIRST_BUCKET_BYTES // 4, 30)]
    assert layout(tensors, 25 << 20) == [[4, 3], [2, 1, 0]]
    assert layout(tensors, 4) == [[4], [3], [2], [1], [0]]
    assert layout([], 100) == []


def test_each_type_has_its_own_buckets_in_the_order_of_backward() -> None:
    kinds = [torch.float32, torch.float64, torch.float32, torch.float64]
    tensors = [torch.empty(3, dtype=kind, device="meta") for kind in kinds]
    assert layout(tensors, 1 << 20) == [[3, 1], [2, 0]]
    assert layout(tensors[::-1], 1 << 20) == [[2, 0], [3, 1]][::-1]


def test_alone_gradients_are_left_as_they_are() -> None:
    model = nn.Linear(2, 2)
    reducer = Reducer(list(model.parameters()), Alone())
    reducer.flag = 1.0
    reducer.arm()
    model(torch.ones(1, 2)).sum().backward()
    gradient = model.weight.grad
    assert reducer.finish() == 1.0
    assert model.weight.grad is gradient
    reducer.close()


def test_parameters_without_a_size_are_refused() -> None:
    with pytest.raises(UserErrorException, match="run one batch through it first"):
        Reducer(list(nn.LazyLinear(3).parameters()), Alone())
