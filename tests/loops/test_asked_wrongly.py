"""What users get wrong when they make a loop: one sentence that says what is possible, before hours are spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.loops.small import Noisy, loop
from trainkit.errors import CheckpointError, UserErrorException
from trainkit.loops import Accuracy, Callback, ConfusionMatrix, EarlyStopping, KeepBest, Saving, TorchLoop


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _of(model: nn.Module, **values: Any) -> TorchLoop:
    settings: dict[str, Any] = {
        "loss": nn.functional.cross_entropy, "train": Noisy(20), "batch": 8, "record": False, "saving": None,
        "quiet": True, "optimizer": torch.optim.SGD(model.parameters(), 0.1),
    }  # fmt: skip
    return TorchLoop(model=model, **{**settings, **values})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metrics": Accuracy()}, "metrics is a list"),
        ({"metrics": (each for each in [Accuracy()])}, "metrics is a list"),
        ({"metrics": None}, "metrics is a list"),
        ({"callbacks": EarlyStopping()}, "callbacks is a list"),
        ({"callbacks": None}, "callbacks is a list"),
        ({"batch": None}, "batch is a whole number"),
        ({"accumulate": None}, "accumulate is a whole number"),
        ({"seed": -1}, "seed is a whole number"),
        ({"seed": 1 << 70}, "seed is a whole number"),
        ({"seed": "a"}, "seed is a whole number"),
        ({"workers": -1}, "workers is a whole number"),
        ({"workers": "2"}, "workers is a whole number"),
        ({"backend": "smoke"}, "no backend 'smoke'; it is one of auto"),
        ({"channels_last": "yes"}, "channels_last is True or False"),
        ({"compile": "max"}, "compile is True or False"),
        ({"record": None}, "record is True or False"),
        ({"clip": True}, "clip is the largest norm"),
        ({"clip": float("nan")}, "clip is the largest norm"),
        ({"resume": 5}, "resume is a run's directory"),
        ({"resume": ""}, "resume is a run's directory"),
        ({"saving": "folder"}, "saving is a trainkit"),
        ({"loss": nn.CrossEntropyLoss}, r"not the class CrossEntropyLoss: make an object, CrossEntropyLoss\(\)"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "has reduction='sum', but must be the mean"),
        ({"train": (np.zeros((4, 6)), np.zeros(4))}, r"give two tensors: \(torch.as_tensor"),
        ({"train": torch.zeros(4, 6)}, "a tensor by itself"),
    ],
)
def test_each_argument_is_checked_when_the_loop_is_made(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        loop(**values)


def test_savings_and_callbacks_check_theirs() -> None:
    for folder in (5, ""):
        with pytest.raises(UserErrorException, match="folder is a path"):
            Saving(folder=folder)  # type: ignore[arg-type]
    for values in ({"patience": "3"}, {"patience": 1.5}, {"min_delta": "x"}, {"min_delta": float("nan")}):
        with pytest.raises(UserErrorException, match=next(iter(values))):
            EarlyStopping(**values)  # type: ignore[arg-type]


def test_models_that_cannot_be_trained_are_refused() -> None:
    fixed = nn.Linear(6, 2).requires_grad_(False)
    with pytest.raises(UserErrorException, match="nothing to train"):
        _of(fixed).fit(epochs=1)
    model = nn.Linear(6, 2)
    empty = torch.optim.SGD(model.parameters(), 0.1)
    empty.param_groups[0]["params"] = []
    with pytest.raises(UserErrorException, match="holds no parameter"):
        _of(model, optimizer=empty)
    with pytest.raises(UserErrorException, match="use another optimizer"):
        _of(model, optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(UserErrorException, match=r"call model.float\(\)"):
        _of(nn.Linear(6, 2).half(), precision="fp16")


def test_batch_normalisation_of_one_sample_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(UserErrorException, match="choose batch= so that none is left over"):
        _of(model, train=Noisy(25)).fit(epochs=1)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda out, y: {"ce": nn.functional.cross_entropy(out, y)}, "gave a dict, .* add up its terms"),
        (lambda out, y: (nn.functional.cross_entropy(out, y), 0), "gave a tuple"),
        (lambda out, y: nn.functional.cross_entropy(out, y).item(), "gave a float"),
        (lambda out, y: None, "gave a NoneType"),
        (lambda out, y: nn.functional.cross_entropy(out, y).detach(), "does not depend on any parameter"),
        (lambda out, y: (out.argmax(1) != y).float().mean(), "does not depend on any parameter"),
    ],
)
def test_a_loss_that_cannot_be_made_smaller_is_refused(loss: Any, words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        _of(nn.Linear(6, 2), loss=loss).fit(epochs=1)


@pytest.mark.parametrize("value", [None, "1", float("nan"), float("inf"), [1.0]])
def test_schedules_give_numbers(value: Any) -> None:
    for name in ("schedule", "momentum"):
        with pytest.raises(UserErrorException, match=rf"{name}\(step, steps\) has given .* a finite number"):
            loop(record=False, saving=None, **{name: lambda step, steps: value}).fit(epochs=1)


def test_a_table_cannot_be_watched_and_a_value_that_is_none_is_never_the_best() -> None:
    with pytest.raises(UserErrorException, match="no number but a table"):
        watched = KeepBest("val_confusion_matrix")
        loop(record=False, saving=None, metrics=[ConfusionMatrix(2)], callbacks=[watched]).fit(epochs=1)

    class Late(Accuracy):
        epochs = 0

        def value(self, sums: torch.Tensor) -> float:
            self.epochs += 1
            return super().value(sums) if self.epochs > 1 else float("nan")

    best = KeepBest("val_accuracy", "max")
    loop(record=False, saving=None, metrics=[Late()], callbacks=[best]).fit(epochs=3)
    assert best.best is not None and best.best > 0 and best.best_epoch >= 1


def test_what_a_callback_cannot_have_saved_is_refused() -> None:
    class Five(Callback):
        def tensors(self) -> Any:
            return {"number": 5}

    with pytest.raises(UserErrorException, match=r"Five.tensors\(\) gives .* a dict of tensors, not {'number': 5}"):
        loop(record=False, saving=Saving(folder="kept"), callbacks=[Five()]).fit(epochs=1)


def test_a_folder_that_cannot_be_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    steps: list[int] = []

    class Counts(Callback):
        def on_step(self, training: Any) -> None:
            steps.append(training.step)

    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot be made .* name another one"):
            loop(record=False, saving=Saving(folder=folder), callbacks=[Counts()]).fit(epochs=1)
    assert not steps
