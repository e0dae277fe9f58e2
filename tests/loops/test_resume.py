"""An interrupted and resumed fit ends with the bits of an uninterrupted one, wherever it was interrupted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tests.loops.small import loop, same, weights
from trainkit.boot.rundir import read_lines
from trainkit.errors import UserErrorException
from trainkit.loops import Accuracy, Callback, EarlyStopping, KeepBest, Preempted, Saving, TorchLoop
from trainkit.loops.digest import expected
from trainkit.loops.order import Order


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Broken(Exception):
    """What these tests interrupt with."""


class Break(Callback):
    """Raises, or sends SIGTERM to this process, after a step; later fits pass it."""

    def __init__(self, step: int, how: str = "raise") -> None:
        self.step, self.how = step, how

    def on_step(self, training: Any) -> None:
        if training.step == self.step:
            if self.how == "raise":
                raise Broken
            os.kill(os.getpid(), signal.SIGTERM)


def _whole(**values: Any) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    one = loop(record=False, saving=None, **{"callbacks": [Break(-1)], **values})
    history = one.fit(epochs=3)
    return weights(one), history.rows


def _resumed(folder: Path, step: int, how: str = "raise", **values: Any) -> tuple[TorchLoop, list[dict[str, Any]]]:
    """The same fit, interrupted after `step` and taken up by another loop."""
    saving = Saving(every_steps=3, folder=folder)
    callbacks = values.pop("callbacks", [])
    first = loop(record=False, saving=saving, callbacks=[Break(step, how), *callbacks], **values)
    with pytest.raises(Broken if how == "raise" else Preempted):
        first.fit(epochs=3)
    torch.manual_seed(99)
    np.random.seed(99)
    again = [type(each)(**_arguments(each)) for each in callbacks]
    second = loop(record=False, saving=saving, callbacks=[Break(-1), *again], **values)
    history = second.fit(epochs=3)
    return second, history.rows


def _arguments(callback: Any) -> dict[str, Any]:
    names = {"metric", "patience"} if isinstance(callback, EarlyStopping) else {"metric"}
    return {name: getattr(callback, name) for name in names}


@pytest.mark.parametrize("how", ["raise", "sigterm"])
@pytest.mark.parametrize("step", [1, 3, 5, 7, 11, 20])
def test_wherever_it_is_interrupted_the_bits_are_those_of_an_uninterrupted_fit(
    tmp_path: Path, step: int, how: str
) -> None:
    whole, rows = _whole(dropout=0.3, accumulate=2)
    one, history = _resumed(tmp_path / "kept", step, how, dropout=0.3, accumulate=2)
    assert same(weights(one), whole)
    assert history == rows


def test_callbacks_decide_as_they_would_have(tmp_path: Path) -> None:
    callbacks = [EarlyStopping("val_loss", patience=2), KeepBest("val_loss")]
    whole, rows = _whole(callbacks=[Break(-1), *callbacks], dropout=0.1)
    fresh = [EarlyStopping("val_loss", patience=2), KeepBest("val_loss")]
    one, history = _resumed(tmp_path / "kept", 17, "raise", callbacks=fresh, dropout=0.1)
    assert same(weights(one), whole)
    assert history == rows


class Drawn(Dataset[tuple[torch.Tensor, int]]):
    """A dataset that draws from all three streams, as augmentations do."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        import random

        noise = torch.rand(6) + float(np.random.rand()) + random.random()
        return torch.full((6,), number / 30) + noise, number % 2


def test_worker_processes_do_not_change_a_bit(tmp_path: Path) -> None:
    whole, rows = _whole(train=Drawn(), workers=0)
    one, history = _resumed(tmp_path / "kept", 6, "sigterm", train=Drawn(), workers=2)
    assert same(weights(one), whole)
    assert history == rows


class Interrupting(Accuracy):
    """A metric that asks this process to end while it evaluates."""

    asked = 0

    def sums(self, outputs: Any, targets: Any) -> torch.Tensor:
        if type(self).asked == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        type(self).asked += 1
        return super().sums(outputs, targets)


def test_asked_to_end_during_evaluation_it_repeats_only_that(tmp_path: Path) -> None:
    whole, rows = _whole()
    saving = Saving(folder=tmp_path / "kept")
    Interrupting.asked = 0
    with pytest.raises(Preempted) as caught:
        loop(record=False, saving=saving, metrics=[Interrupting()], callbacks=[Break(-1)], val_batch=8).fit(epochs=3)
    assert caught.value.code == 75
    manifest = json.loads(next((tmp_path / "kept").glob("step-*/manifest.json")).read_text())
    assert manifest["step"] == 7  # the end of the first epoch's training
    second = loop(record=False, saving=saving, metrics=[Accuracy()], callbacks=[Break(-1)])
    history = second.fit(epochs=3)
    assert same(weights(second), whole)
    assert history.rows == rows


def test_fit_goes_on_where_it_was_interrupted_in_the_same_process(tmp_path: Path) -> None:
    whole, rows = _whole(dropout=0.2)
    one = loop(record=False, saving=Saving(every_steps=3, folder=tmp_path / "kept"), callbacks=[Break(8)], dropout=0.2)
    with pytest.raises(Broken):
        one.fit(epochs=3)
    one.callbacks[0].step = -1  # type: ignore[attr-defined]
    assert one.fit(epochs=3).rows == rows
    assert same(weights(one), whole)


def test_a_finished_fit_is_not_trained_again(tmp_path: Path) -> None:
    saving = Saving(folder=tmp_path / "kept")
    first = loop(record=False, saving=saving)
    rows = first.fit(epochs=2).rows
    second = loop(record=False, saving=saving)
    history = second.fit(epochs=2)
    assert history.rows == rows and history.steps == 14
    assert same(weights(second), weights(first))


def test_a_checkpoint_of_another_fit_is_refused(tmp_path: Path) -> None:
    saving = Saving(folder=tmp_path / "kept")
    loop(record=False, saving=saving).fit(epochs=1)
    for values, words in (({"batch": 16}, "batch was 8 and is 16"), ({"seed": 5}, "seed was 0 and is 5")):
        with pytest.raises(UserErrorException, match=words):
            loop(record=False, saving=saving, **values).fit(epochs=1)
    with pytest.raises(UserErrorException, match="steps was 7 and is 14"):
        loop(record=False, saving=saving).fit(epochs=2)


def test_another_runs_checkpoint_is_taken_up_with_its_history(tmp_path: Path) -> None:
    from trainkit import Run

    whole, rows = _whole(callbacks=[])
    Interrupting.asked = 0
    with pytest.raises(Preempted):
        loop(record=False, saving=Saving(folder=tmp_path / "kept"), metrics=[Interrupting()], val_batch=8).fit(epochs=3)
    one = loop(resume=tmp_path / "kept", callbacks=[])
    one.fit(epochs=3)
    assert same(weights(one), whole)
    run = Run.get_context()
    assert run.get_metrics()["train_loss"][-3:] == [row["train_loss"] for row in rows]
    assert "step-" in run.get_tags()["resumed_from"]


def test_the_account_of_samples_covers_every_epoch(tmp_path: Path) -> None:
    from trainkit import Run

    Run.get_context()
    begun = len(list(read_lines(Run.get_context().directory / "samples.jsonl")))
    loop(callbacks=[Break(-1)]).fit(epochs=2)
    account = list(read_lines(Run.get_context().directory / "samples.jsonl"))[begun:]
    assert [row["epoch"] for row in account] == [0, 1]
    for row in account:
        order = Order(row["samples"], row["batch"], row["seed"], row["shuffle"])
        (part,) = row["parts"]
        assert (part["start"], part["stop"]) == (0, 50)
        assert int(part["digest"], 16) == expected(order, row["epoch"], 0, 50)


def test_parts_of_an_interrupted_epoch_add_up(tmp_path: Path) -> None:
    saving = Saving(every_steps=2, folder=tmp_path / "kept")
    with pytest.raises(Broken):
        loop(record=False, saving=saving, callbacks=[Break(5)]).fit(epochs=1)
    manifest = sorted((tmp_path / "kept").glob("step-*"))[-1]
    state = json.loads((manifest / "state.json").read_text())
    position = (state.get("state") or state)["position"]
    assert [(p["start"], p["stop"]) for p in position["parts"]] == [(0, 16), (16, 32)]
    order = Order(50, 8, 0)
    for part in position["parts"]:
        assert int(part["digest"], 16) == expected(order, 0, part["start"], part["stop"])
