"""A run's account of its samples: every way in which it can be wrong is found and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainkit.boot.rundir import Lines, RunDir
from trainkit.errors import UserErrorException
from trainkit.loops.digest import digest
from trainkit.loops.order import Order
from trainkit.loops.verifying import verify

ORDER = Order(100, 16, 3)


def part(start: int, stop: int, world: int = 1, attempt: int = 1, epoch: int = 0, **other: Any) -> dict[str, Any]:
    text = f"{digest(ORDER.epoch(epoch)[start:stop], epoch):032x}"
    return {"start": start, "stop": stop, "world_size": world, "attempt": attempt, "digest": text, **other}


def row(*parts: dict[str, Any], epoch: int = 0, **other: Any) -> dict[str, Any]:
    facts = {"samples": 100, "batch": 16, "seed": 3, "shuffle": True}
    return {"fit": 1, "epoch": epoch, **facts, "parts": list(parts), **other}


def problems(folder: Path, *rows: dict[str, Any]) -> tuple[str, ...]:
    lines = Lines(RunDir(folder).samples)
    for each in rows:
        lines.append(each)
    lines.close()
    return verify(folder).problems


def test_stretches_of_several_worlds_and_attempts_make_an_epoch(tmp_path: Path) -> None:
    torn = row(part(0, 100), epoch=0)
    whole = row(part(48, 100, 4, 2), part(0, 48, 2, 1))
    assert problems(tmp_path, torn, whole, row(part(0, 100, 4, 2, 1), epoch=1)) == ()
    found = verify(tmp_path)
    assert (found.epochs, found.samples, found.worlds, found.attempts) == (2, 200, (2, 4), (1, 2))


WRONG = [
    (row(part(0, 48), part(64, 100)), "epoch 0: samples 48 to 64 were not seen"),
    (row(part(0, 48)), "epoch 0: samples 48 to 100 were not seen"),
    (row(part(0, 64), part(48, 100)), "epoch 0: samples 48 to 64 were seen twice"),
    (row(part(0, 100, epoch=1)), "epoch 0: samples 0 to 100 (attempt 1, 1 ranks) are not those that the order says"),
    (row(part(0, 48), part(48, 100, digest="0" * 32)), "epoch 0: samples 48 to 100 (attempt 1, 1 ranks) are not"),
    (row(part(0, 48), part(48, 100), seed=4), "are not those that the order says"),
    (row(part(0, 120)), "epoch 0: samples 0 to 120 are not of its 100"),
    (row({"start": 0}), "its account is damaged"),
    (row(part(0, 100), seed="x"), "epoch 0: its account is damaged"),
    (row(part(0, 100), batch=0), "epoch 0: its account is damaged"),
    (row(part(0, 48), fit=2), "epoch 0 of fit 2: samples 48 to 100 were not seen"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    found = problems(tmp_path, wrong)
    assert any(message in problem for problem in found), found


def test_a_missing_epoch_is_named(tmp_path: Path) -> None:
    found = problems(tmp_path, row(part(0, 100)), row(part(0, 100, epoch=2), epoch=2))
    assert found == ("epoch 1: there is no account of it",)


def test_a_checkpoint_that_is_not_whole_is_named(tmp_path: Path) -> None:
    broken = RunDir(tmp_path).checkpoints / "step-00000007"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{}")
    (found,) = problems(tmp_path, row(part(0, 100)))
    assert found.startswith("checkpoint step-00000007: ")


def test_a_run_without_any_account_proves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="left no account of its samples"):
        verify(tmp_path)


NONSENSE = [
    (name, value)
    for name in ("fit", "epoch", "samples", "batch", "seed", "shuffle", "parts")
    for value in (None, -1, "x", [1], {"a": 1}, 1.5, float("inf"), 10**30)
    if (name, value) != ("batch", 10**30)  # a batch of all samples is none
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_an_account_of_nonsense_is_damaged_and_no_traceback(tmp_path: Path, name: str, value: Any) -> None:
    wrong = row(part(0, 48, epoch=1), part(48, 100, epoch=1), epoch=1) | {name: value}
    assert problems(tmp_path, row(part(0, 100)), wrong, row(part(0, 100, epoch=2), epoch=2))


@pytest.mark.parametrize("name", ["start", "stop", "world_size", "attempt", "digest"])
@pytest.mark.parametrize("value", [None, -1, "x", [1], {}, 1.5])
def test_a_part_of_nonsense_is_damaged_and_no_traceback(tmp_path: Path, name: str, value: Any) -> None:
    assert problems(tmp_path, row(part(0, 100) | {name: value}))


def test_epochs_whose_account_was_taken_out_are_missed(tmp_path: Path) -> None:
    from tests.loops.small import loop
    from trainkit.loops import Saving

    rows = [row(part(0, 100, epoch=epoch), epoch=epoch) for epoch in range(3)]
    assert problems(tmp_path / "first", *rows[1:]) == ("epoch 0: there is no account of it",)
    folder = tmp_path / "last"
    loop(record=False, saving=Saving(folder=RunDir(folder).checkpoints)).fit(epochs=3)
    order = Order(50, 8, 0)
    for epoch in range(2):
        text = f"{digest(order.epoch(epoch), epoch):032x}"
        seen = {"start": 0, "stop": 50, "world_size": 1, "attempt": 1, "digest": text}
        rows[epoch] = {"fit": 1, "epoch": epoch, "samples": 50, "batch": 8, "seed": 0, "shuffle": True, "parts": [seen]}
    assert problems(folder, *rows[:2]) == ("epoch 2: there is no account of it",)
