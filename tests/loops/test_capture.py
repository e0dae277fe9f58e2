"""The state of training comes back exactly: an interrupted run ends as one that was not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainkit.errors import CheckpointError
from trainkit.loops.capture import capture, restore, set_streams, streams
from trainkit.loops.checkpoints import Checkpoints, load
from trainkit.loops.packing import pack, unpack

Make = Callable[[nn.Module], torch.optim.Optimizer]


class Net(nn.Module):
    """Tied weights, a frozen layer, running statistics, extra state: what real models have."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Dropout(0.3))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        out: Tensor = self.second(self.first(self.frozen(self.body(x).mean((2, 3)))))
        return out

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]


def groups(net: nn.Module) -> list[dict[str, Any]]:
    named = dict(net.named_parameters())
    return [
        {"params": [p for n, p in named.items() if n.startswith("body")], "lr": 0.1},
        {"params": [p for n, p in named.items() if n.startswith("frozen")], "lr": float("inf")},
        {"params": [p for n, p in named.items() if n.split(".")[0] in ("first", "second")], "note": ("a", 1, None)},
    ]


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda net: torch.optim.SGD(groups(net), lr=0.01),
    "momentum": lambda net: torch.optim.SGD(groups(net), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": lambda net: torch.optim.Adam(groups(net), lr=1e-3, betas=(0.9, 0.9999999), amsgrad=True),
    "adamw, one by one": lambda net: torch.optim.AdamW(groups(net), lr=1e-3, foreach=False),
    "rmsprop": lambda net: torch.optim.RMSprop(groups(net), lr=1e-3, centered=True),
    "lbfgs": lambda net: torch.optim.LBFGS([p for p in net.parameters() if p.requires_grad], lr=0.01, max_iter=2),
}


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int, layout: Any) -> None:
    for _ in range(count):
        inputs = torch.randn(4, 3, 8, 8).to(memory_format=layout) * random.random() * np.random.rand()

        def loss(inputs: Tensor = inputs) -> Any:
            optimizer.zero_grad()
            value = net(inputs).square().mean()
            value.backward()
            return value

        optimizer.step(loss)


def fresh(make: Make, seed: int, layout: Any) -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    net = Net().to(memory_format=layout)
    return net, make(net)


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for entry in values for tensor in tensors_in(entry)]


USUAL, LAST = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize(  # torch's LBFGS takes no channels last
    "name, layout",
    [(name, layout) for name in OPTIMIZERS for layout in (USUAL, LAST) if (name, layout) != ("lbfgs", LAST)],
)
def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path, name: str, layout: Any) -> None:
    net, optimizer = fresh(OPTIMIZERS[name], 1, layout)
    steps(net, optimizer, 3, layout)
    tensors, state = capture(net, optimizer)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, tensors, {"training": state}, [streams()], "")
    steps(net, optimizer, 3, layout)
    checkpoints.wait()

    again, its_optimizer = fresh(OPTIMIZERS[name], 2, layout)
    saved = load(tmp_path)
    restore(saved.tensors, saved.state["training"], again, its_optimizer)
    set_streams(saved.ranks[0])
    assert again.second.weight is again.first.weight
    steps(again, its_optimizer, 3, layout)

    for (key, a), b in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, key
    mine, its = optimizer.state_dict(), its_optimizer.state_dict()
    assert mine["param_groups"] == its["param_groups"]
    for a, b in zip(tensors_in(mine["state"]), tensors_in(its["state"]), strict=True):
        assert torch.equal(a, b) and (a.dtype, a.stride()) == (b.dtype, b.stride())


def test_streams_go_on_where_they_were() -> None:
    random.gauss(0, 1)
    np.random.randn()  # both keep a second normal number back
    before = streams()
    drawn = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.randn(3).tolist()]
    set_streams(before)
    assert drawn == [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.randn(3).tolist()]
    for bad in ({}, {**before, "torch": "xy"}, {**before, "torch": "00"}, {**before, "python": [1]}):
        with pytest.raises(CheckpointError, match="streams of random numbers"):
            set_streams(bad)


def test_state_keeps_its_type_where_torch_would_give_it_its_parameters(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    net = nn.Module()
    net.weight = parameter
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    exact = torch.tensor([1 / 3, 2 / 3, 1e-9])
    optimizer.state[parameter]["momentum_buffer"] = exact
    tensors, state = capture(net, optimizer)
    optimizer.state[parameter]["momentum_buffer"] = torch.zeros(3)
    restore(tensors, state, net, optimizer)
    found = optimizer.state[parameter]["momentum_buffer"]
    assert torch.equal(found, exact) and found.dtype == torch.float32 and found is not exact


def test_the_scaler_goes_on_and_one_that_is_not_there_is_refused() -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7, growth_interval=3)
    scaler.scale(net(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    tensors, state = capture(net, optimizer, scaler)
    other = torch.amp.GradScaler("cpu")
    restore(tensors, state, net, optimizer, other)
    assert other.state_dict() == scaler.state_dict()
    for wrong in (None, torch.amp.GradScaler("cpu", enabled=False)):
        with pytest.raises(CheckpointError, match="saved with a gradient scaler, and training goes on without"):
            restore(tensors, state, net, optimizer, wrong)
    with pytest.raises(CheckpointError, match="saved without a gradient scaler, and training goes on with"):
        restore(*capture(net, optimizer), net, optimizer, scaler)


def sgd(net: nn.Module, **values: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, **values)


def trained(net: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return capture(net, optimizer)


@pytest.mark.parametrize(
    "other, make, words",
    [
        (lambda: nn.Linear(3, 5), sgd, r"weight is float32\[4, 3\] in the checkpoint and float32\[5, 3\] in the model"),
        (lambda: nn.Linear(3, 4).double(), sgd, r"float32\[4, 3\] in the checkpoint and float64"),
        (lambda: nn.Linear(3, 4, bias=False), sgd, "bias is not in the model"),
        (lambda: nn.Sequential(nn.Linear(3, 4)), sgd, "0.weight is not in the checkpoint; .*and 1 more"),
        (lambda: nn.Linear(3, 4), lambda net: torch.optim.Adam(net.parameters()), "is no Adam.*betas"),
        (
            lambda: nn.Linear(3, 4),
            lambda net: torch.optim.SGD([net.weight], lr=0.1),
            r"groups of \[2\].* this one of \[1\]",
        ),
        (
            lambda: nn.Linear(3, 4),
            lambda net: torch.optim.SGD([net.bias, net.weight], lr=0.1, momentum=0.9),
            "parameters are in another order",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_error_and_changes_nothing(
    other: Callable[[], nn.Module], make: Make, words: str
) -> None:
    net = nn.Linear(3, 4)
    saved = trained(net, sgd(net, momentum=0.9))
    model = other()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        restore(*saved, model, make(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_compiled_model_has_the_names_of_the_plain_one() -> None:
    net = nn.Linear(3, 4)
    saved = trained(net, sgd(net))
    compiled: Any = torch.compile(nn.Linear(3, 4))
    restore(*saved, compiled, sgd(compiled))
    assert torch.equal(compiled.weight, net.weight)
    assert set(capture(compiled, sgd(compiled))[0]["model"]) == {"weight", "bias"}


@pytest.mark.parametrize(
    "value",
    [
        {"$": "tensor", "name": "none"}, {1: 2, "1": 3, (1, 2): None}, (1, [2, (3,)], {}), float("inf"), -0.0, 2**80,
        1e-320, True, {"a": (0.9, 0.999)}, np.float32(0.1), "\ud800", b"",
    ],
)  # fmt: skip
def test_values_come_back_as_they_were(value: Any) -> None:
    import json

    if value == b"":
        with pytest.raises(CheckpointError, match="holds a bytes, which no checkpoint can hold"):
            pack({"a": value}, {})
        return
    found = unpack(json.loads(json.dumps(pack(value, {}))), {})
    assert found == value and type(found) is type(value) and repr(found) == repr(value)


def test_a_state_that_no_capture_made_is_refused() -> None:
    net = nn.Linear(3, 4)
    tensors, state = trained(net, sgd(net))
    for bad in ({}, {**state, "optimizer": {"$": "tensor", "name": "gone"}}, {**state, "model": {"$": "magic"}}):
        with pytest.raises(CheckpointError, match="something else|cannot be read"):
            restore(tensors, bad, net, sgd(net))
    with pytest.raises(CheckpointError, match="something else"):
        restore({}, state, net, sgd(net))
