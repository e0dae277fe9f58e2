"""Schedules are pure functions of the step."""

from __future__ import annotations

import math

import pytest
import torch

from trainkit.errors import UserErrorException
from trainkit.loops.schedules import OneCycle, OneCycleMomentum, StepDecay, WarmupCosine


def test_one_cycle_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=40, pct_start=0.25, div_factor=25, final_div_factor=4000,
        base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    ours, momentum = OneCycle(), OneCycleMomentum()
    for step in (0, 5, 39):  # their peak is one step earlier; the ends agree
        while theirs.last_epoch < step:
            optimizer.step()
            theirs.step()
        if step != 5:
            assert ours(step, 40) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
            assert momentum(step, 40) == pytest.approx(optimizer.param_groups[0]["momentum"], rel=1e-6)
    factors = [ours(step, 40) for step in range(40)]
    assert max(factors) == pytest.approx(1.0, abs=0.01)
    assert factors.index(max(factors)) in (9, 10)


def test_step_decay_falls_at_its_shares() -> None:
    decay = StepDecay(0.1, at=(0.5, 0.75))
    assert [round(decay(step, 8), 6) for step in range(8)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]


def test_warmup_cosine_rises_and_falls_to_nearly_nothing() -> None:
    curve = [WarmupCosine(0.2)(step, 10) for step in range(10)]
    assert curve[0] == 0.5
    assert max(curve) == 1.0
    assert all(before >= after for before, after in zip(curve[2:], curve[3:], strict=False))
    assert curve[-1] < 0.05


@pytest.mark.parametrize("schedule", [OneCycle(), OneCycleMomentum(), StepDecay(), WarmupCosine()])
def test_a_fit_of_one_step_has_a_rate(schedule: object) -> None:
    assert math.isfinite(schedule(0, 1))  # type: ignore[operator]
    assert schedule(0, 1) > 0  # type: ignore[operator]


def test_senseless_values_are_refused() -> None:
    for make in (lambda: OneCycle(warmup=1.0), lambda: StepDecay(at=(1.5,)), lambda: WarmupCosine(warmup=-1)):
        with pytest.raises(UserErrorException, match="not "):
            make()
