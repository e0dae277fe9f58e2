"""The timer adds up what a step is made of; the advice names the largest waste."""

from __future__ import annotations

import torch

from trainkit.loops.timer import StepTimer, advice

PARTS = {"data": 0.0, "forward": 0.0, "backward": 0.0, "communication": 0.0, "optimizer": 0.0}


def test_laps_add_up_to_the_time_that_passed() -> None:
    timer = StepTimer(torch.device("cpu"))
    begun = timer.lap("optimizer")
    timer.seconds["optimizer"] = 0.0
    for part in ("data", "forward", "data"):
        sum(range(10000))
        ended = timer.lap(part)
    assert abs(sum(timer.seconds.values()) - (ended - begun)) < 1e-9
    assert timer.seconds["data"] > 0 and timer.seconds["forward"] > 0 and timer.seconds["backward"] == 0


def test_the_advice_names_the_largest_waste_and_what_helps() -> None:
    text = advice({**PARTS, "data": 6.0, "forward": 2.0, "backward": 2.0}, 10, "float32", False, False)
    assert text.startswith("A step took 1e+03 ms: data 60%, forward 20%, backward 20%.")
    assert "largest waste is data" in text and "workers=" in text
    text = advice({**PARTS, "communication": 3.0, "forward": 4.0, "backward": 3.0}, 10, "bf16", True, False)
    assert "largest waste is communication" in text and "accumulate=" in text


def test_where_computing_is_all_it_names_what_was_not_tried() -> None:
    busy = {**PARTS, "forward": 4.0, "backward": 6.0}
    assert "precision='bf16', channels_last=True" in advice(busy, 10, "float32", False, False)
    assert advice(busy, 10, "bf16", True, False).endswith("Computing takes nearly all of it.")
    assert "larger batch=" in advice({**PARTS, "forward": 1e-3, "optimizer": 1e-3}, 10, "float32", False, False)
    assert advice(PARTS, 0, "float32", False, False) == ""
