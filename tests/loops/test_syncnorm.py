"""BatchNorm over the batch of all ranks, against BatchNorm on that batch in one process."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.loops import worlds
from trainkit import UserErrorException
from trainkit.loops.collectives import Alone
from trainkit.loops.syncnorm import SyncBatchNorm, convert_batch_norm

SCRIPT = """
import sys
import torch
from torch import nn
from trainkit.loops.collectives import gather, total
from trainkit.loops.syncnorm import convert_batch_norm
from trainkit.loops.world import join

world = join(sys.argv[1])
line, rank, size = world.collective, world.rank, world.size

def worst(a, b):
    # against the size of the true values; a bias before a BatchNorm has a gradient of 0, but for rounding
    return float((a.double() - b.double()).abs().max() / max(1.0, float(b.double().abs().max())))

def compare(name, make, shape, shares, dtype=torch.float64, offset=0.0):
    torch.manual_seed(3)
    plain = make().to(dtype)
    torch.manual_seed(3)
    mine = make().to(dtype)
    held = [id(p) for p in mine.parameters()]
    mine = convert_batch_norm(mine, line)
    assert [id(p) for p in mine.parameters()] == held and list(mine.state_dict()) == list(plain.state_dict())
    ends = [sum(shares[: n + 1]) for n in range(size)]
    own = slice(ends[rank] - shares[rank], ends[rank])
    errors = {}
    for step in range(2):
        whole = (torch.randn(sum(shares), *shape, dtype=torch.float64) * 3 + offset).to(dtype)
        part = whole[own].clone().requires_grad_()
        whole.requires_grad_()
        expected, found = plain(whole), mine(part)
        pull = torch.randn(expected.shape, dtype=torch.float64).to(dtype)
        plain.zero_grad(), mine.zero_grad()
        (expected * pull).sum().backward()
        (found * pull[own]).sum().backward()
        if len(part):
            errors["output"] = worst(found, expected[own])
            errors["input"] = worst(part.grad, whole.grad[own])
        for key, p in plain.named_parameters():
            errors[key] = worst(total(line, dict(mine.named_parameters())[key].grad), p.grad)
        for key, b in plain.named_buffers():
            errors[key] = worst(dict(mine.named_buffers())[key], b)
    plain.eval(), mine.eval()
    sample = torch.randn(3, *shape).to(dtype)
    errors["evaluation"] = worst(mine(sample), plain(sample))
    report(**{name: max(errors.values()), name + "_errors": errors})

uneven = [5, 3, 1, 2][:size]
gap = [4, 0, 3, 0][:size]
last = [0] * (size - 1) + [6]
two = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
compare("images", two, (3, 6, 6), uneven)
compare("gap", two, (3, 6, 6), gap)
compare("last", two, (3, 6, 6), last)
compare("float32", two, (3, 6, 6), uneven, torch.float32)
compare("channels_last", lambda: two().to(memory_format=torch.channels_last), (3, 6, 6), uneven)
compare("far", lambda: nn.BatchNorm2d(3), (3, 5, 5), uneven, torch.float32, offset=300.0)
compare("vectors", lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (4,), uneven)
compare("sequences", lambda: nn.BatchNorm1d(3), (3, 7), uneven)
compare("volumes", lambda: nn.BatchNorm3d(2), (2, 3, 3, 3), gap)
compare("bare", lambda: nn.BatchNorm2d(3, affine=False, momentum=None), (3, 4, 4), uneven)
compare("stateless", lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        (3, 4, 4), uneven)
from timm.layers import BatchNormAct2d
compare("timm", lambda: nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4)), (3, 4, 4), uneven)

try:  # one value for each channel in the whole world is no batch
    convert_batch_norm(nn.BatchNorm1d(2), line)(torch.ones(int(rank == 0), 2))
    report(single="accepted")
except ValueError as error:
    report(single=str(error))
"""


@pytest.mark.engine
@pytest.mark.parametrize(("backend", "by", "size"), [("gloo", "plain", 2), ("mpi", "mpirun", 4)])
def test_it_is_the_batchnorm_of_the_whole_batch(tmp_path: Path, backend: str, by: str, size: int) -> None:
    outcome = worlds.run(tmp_path, SCRIPT, size, by, arguments=[backend])
    limits = {"float32": 1e-5, "far": 1e-3}
    names = ("images", "gap", "last", "float32", "channels_last", "far", "vectors", "sequences", "volumes", "bare",
             "stateless", "timm")  # fmt: skip
    for name in names:
        assert max(outcome.each(name)) < limits.get(name, 1e-9), (name, outcome.each(name + "_errors"))
    assert "more than 1 value per channel" in outcome.same("single")


class _TwoRanks(Alone):
    """What a model is converted for; nothing is summed here."""

    size = 2


def test_one_rank_needs_no_change() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    assert convert_batch_norm(model, Alone()) is model and type(model[0]) is nn.BatchNorm2d


def test_a_layer_that_may_compute_something_else_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    with pytest.raises(UserErrorException, match="cannot convert Own"):
        convert_batch_norm(nn.Sequential(Own(3)), _TwoRanks())


def test_layers_stay_shared_copied_and_stored() -> None:
    layer = nn.BatchNorm1d(3)
    layer.statistics_frozen = True  # type: ignore[assignment]
    model = convert_batch_norm(nn.Sequential(layer, nn.ReLU(), layer), _TwoRanks())
    assert isinstance(model, nn.Sequential) and isinstance(model[0], SyncBatchNorm)
    assert model[0] is model[2] and model[0].statistics_frozen
    copied = copy.deepcopy(model)
    assert copied[0].line is model[0].line and copied[0].weight is not model[0].weight
    file = io.BytesIO()
    torch.save(model, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert type(loaded[0].line) is Alone
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        model[0](torch.ones(2, 3, 4, 4))
