"""What one fit must not leave to the next, and what an evaluation must not leave to training."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.loops.small import Noisy, loop, same, weights
from trainkit.errors import UserErrorException
from trainkit.loops import Accuracy, Callback, ConfusionMatrix, Preempted, Saving, TorchLoop


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Broken(Exception):
    """What these tests interrupt with."""


class Does(Callback):
    """Does something after one step."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_step(self, training: Any) -> None:
        if training.step == self.step:
            self.what(training)


def _break(training: Any) -> None:
    raise Broken


def test_a_second_fit_begins_with_the_users_own_rates() -> None:
    one = loop(record=False, saving=None)
    one.fit(epochs=2)
    assert one.optimizer.param_groups[0]["lr"] == 0.01
    with pytest.raises(Broken):
        loop_ = loop(record=False, saving=None, callbacks=[Does(3, _break)])
        loop_.fit(epochs=2)
    assert loop_.optimizer.param_groups[0]["lr"] == 0.01


def test_gradients_of_before_do_not_enter_a_fit() -> None:
    clean, other = loop(record=False, saving=None), loop(record=False, saving=None)
    clean.fit(steps=1)
    for parameter in other.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    other.fit(steps=1)
    assert same(weights(clean), weights(other))


def test_a_fit_that_was_told_to_stop_still_ends_its_epoch_when_resumed(tmp_path: Path) -> None:
    saving = Saving(every_steps=3, folder=tmp_path / "kept")
    first = [Does(2, lambda training: training.stop()), Does(5, _break)]
    with pytest.raises(Broken):
        loop(record=False, saving=saving, callbacks=first).fit(epochs=3)
    again = [Does(2, lambda training: training.stop()), Does(-1, None)]
    one = loop(record=False, saving=saving, callbacks=again)
    history = one.fit(epochs=3)
    assert history.steps == 7 and len(history) == 1


def test_evaluating_between_two_steps_changes_nothing() -> None:
    whole = loop(record=False, saving=None, dropout=0.5)
    whole.fit(epochs=1)
    looks = Does(2, lambda training: training.loop.evaluate())
    one = loop(record=False, saving=None, dropout=0.5, callbacks=[looks])
    one.fit(epochs=1)
    assert same(weights(whole), weights(one))


class _Caching(nn.Module):
    """Keeps a table that it makes when it first runs, as models with rotary positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)
        self.table: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.ones(2) * 2
        found: torch.Tensor = self.layer(inputs) * self.table
        return found


def test_what_a_model_keeps_while_it_is_evaluated_serves_training() -> None:
    model = _Caching()
    one = TorchLoop(
        model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
        train=Noisy(20), val=Noisy(7), record=False, saving=None, quiet=True,
    )  # fmt: skip
    one.evaluate()
    assert len(one.fit(epochs=1)) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schedule": None}, r"schedule was 'WarmupCosine\(warmup=0.1\)' and is None"),
        ({"clip": 1.0}, "clip was None and is 1.0"),
    ],
)
def test_a_fit_does_not_go_on_with_another_schedule(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    saving = Saving(folder=tmp_path / "kept")
    loop(record=False, saving=saving).fit(epochs=1)
    with pytest.raises(UserErrorException, match=words):
        loop(record=False, saving=saving, **values).fit(epochs=1)


def test_a_fit_does_not_go_on_with_another_rate(tmp_path: Path) -> None:
    saving = Saving(folder=tmp_path / "kept")
    loop(record=False, saving=saving).fit(epochs=1)
    other = loop(record=False, saving=saving)
    other.optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(UserErrorException, match=r"rates was \[0.01\] and is \[0.5\]"):
        other.fit(epochs=1)


class Asking(Accuracy):
    """Asks this process to end while it evaluates."""

    asks = True

    def sums(self, outputs: Any, targets: Any) -> torch.Tensor:
        if self.asks and not outputs.requires_grad:
            self.asks = False
            os.kill(os.getpid(), signal.SIGTERM)
        return super().sums(outputs, targets)


def test_tables_are_in_checkpoints_and_in_the_record_of_the_run_that_goes_on(tmp_path: Path) -> None:
    values: dict[str, Any] = {"training_metrics": True, "callbacks": []}
    whole = loop(record=False, saving=None, metrics=[Accuracy(), ConfusionMatrix(2)], **values).fit(epochs=2).rows
    saving = Saving(folder=tmp_path / "kept")
    with pytest.raises(Preempted):
        loop(record=False, saving=saving, metrics=[Asking(), ConfusionMatrix(2)], **values).fit(epochs=2)
    one = loop(resume=tmp_path / "kept", metrics=[Accuracy(), ConfusionMatrix(2)], **values)
    rows = one.fit(epochs=2).rows
    for row, other in zip(rows, whole, strict=True):
        for name in ("train_confusion_matrix", "val_confusion_matrix"):
            assert torch.equal(row[name], other[name]) and row[name].dtype == torch.int64
    from trainkit import Run

    matrices = Run.get_context().get_metrics()["train_confusion_matrix"][-2:]
    assert [each["data"]["matrix"] for each in matrices] == [row["train_confusion_matrix"].tolist() for row in whole]
