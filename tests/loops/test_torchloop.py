"""TorchLoop in one process: trains as a bare loop would, refuses what cannot be, measures exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.loops.small import Noisy, loop, same, weights
from trainkit import Run
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops import (
    Accuracy,
    Callback,
    ConfusionMatrix,
    EarlyStopping,
    KeepBest,
    OneCycle,
    TorchLoop,
    freeze_statistics,
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _bare(epochs: int) -> list[torch.Tensor]:
    """What `loop()` does, written out."""
    one = loop(record=False, saving=None)
    steps, step = epochs * one.order().steps, 0
    for epoch in range(epochs):
        shares = one.order().steps_from(epoch)
        for inputs, targets in Noisy(50).batches(shares, epoch, 0):  # type: ignore[misc]
            for group in one.optimizer.param_groups:
                group["lr"] = 0.01 * one.schedule(step, steps)  # type: ignore[misc]
            one.optimizer.zero_grad()
            one.loss(one.model(inputs), targets).backward()
            one.optimizer.step()
            step += 1
    return weights(one)


def test_a_fit_has_the_bits_of_the_bare_loop() -> None:
    one = loop(record=False, saving=None)
    history = one.fit(epochs=3)
    assert same(weights(one), _bare(3))
    assert history.steps == 21 and len(history) == 3
    assert history["train_loss"][0] > history["train_loss"][-1]


def test_accumulation_learns_the_same() -> None:
    whole, parts = loop(dtype=torch.float64, record=False), loop(dtype=torch.float64, record=False, accumulate=3)
    whole.fit(epochs=2)
    parts.fit(epochs=2)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_a_fit_of_steps_ends_there() -> None:
    one = loop(record=False)
    history = one.fit(steps=10)  # of 7 an epoch
    assert history.steps == 10 and len(history) == 2


def test_evaluation_and_prediction_see_each_sample_once_in_order() -> None:
    one = loop(record=False, val_batch=5)
    data = Noisy(23)
    inputs, targets = next(data.batches([torch.arange(23).numpy()], 0, 0))  # type: ignore[misc]
    outputs = one.model.eval()(inputs).detach()
    found = one.evaluate()
    assert found["accuracy"] == pytest.approx((outputs.argmax(1) == targets).double().mean().item(), abs=0)
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(outputs, targets).item(), abs=1e-6)
    assert torch.allclose(one.predict(data), outputs, atol=1e-6)
    assert one.predict(data.inputs).shape == (23, 2)
    with pytest.raises(UserErrorException, match="no data to evaluate"):
        loop(val=None, record=False).evaluate()


def test_metrics_go_into_the_run() -> None:
    one = loop(metrics=[Accuracy(), ConfusionMatrix(2)], training_metrics=False)
    rows = one.fit(epochs=2).rows
    metrics = Run.get_context().get_metrics()
    for name in ("train_loss", "val_loss", "val_accuracy"):
        assert metrics[name][-2:] == [row[name] for row in rows]
    assert metrics["progress"]["done"][-1] == 1.0 and metrics["progress"]["steps"][-1] == 14
    matrices = metrics["val_confusion_matrix"]
    assert len(matrices) == 2
    assert sum(map(sum, matrices[-1]["data"]["matrix"])) == 23


class _Seen(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, training: Any) -> None:
        self.calls.append("start")

    def on_epoch_start(self, training: Any) -> None:
        self.calls.append(f"epoch {training.epoch}")

    def on_step(self, training: Any) -> None:
        self.calls.append(f"step {training.step}")

    def on_train_end(self, training: Any, metrics: Any) -> None:
        self.calls.append(f"train {sorted(metrics)}")

    def on_epoch_end(self, training: Any, metrics: Any) -> None:
        self.calls.append(f"epoch {sorted(metrics)}")

    def on_end(self, training: Any) -> None:
        self.calls.append("end")


def test_callbacks_are_called_in_their_places() -> None:
    seen = _Seen()
    loop(callbacks=[seen], record=False, training_metrics=True, batch=25).fit(epochs=1)
    assert seen.calls == [
        "start", "epoch 0", "step 1", "step 2", "train ['train_accuracy', 'train_loss']",
        "epoch ['train_accuracy', 'train_loss', 'val_accuracy', 'val_loss']", "end",
    ]  # fmt: skip


def test_early_stopping_and_the_best_weights() -> None:
    stop, best = EarlyStopping("val_loss", patience=2), KeepBest("val_loss")
    one = loop(callbacks=[stop, best], record=False, schedule=lambda step, steps: 30.0 if step > 20 else 1.0)
    history = one.fit(epochs=30)
    assert len(history) == stop.best_epoch + 3
    losses = history["val_loss"]
    assert one.evaluate()["loss"] == pytest.approx(min(losses), abs=1e-12)


def test_watching_a_metric_that_is_not_measured_says_which_are() -> None:
    with pytest.raises(UserErrorException, match="watches 'val_f1', but an epoch measures: train_loss, val_loss"):
        loop(callbacks=[EarlyStopping("val_f1")], record=False).fit(epochs=1)


def test_clipping_bounds_the_step() -> None:
    class Norms(Callback):
        def on_step(self, training: Any) -> None:
            now = torch.cat([p.detach().flatten() for p in training.model.parameters()])
            self.moved = float((now - self.before).norm()) if hasattr(self, "before") else 0.0
            self.before = now

    norms = Norms()
    one = loop(record=False, callbacks=[norms], clip=1e-3, schedule=None)
    one.optimizer = torch.optim.SGD(one.model.parameters(), lr=1.0)
    one.fit(steps=3)
    assert 0 < norms.moved <= 1.001e-3


def test_frozen_statistics_stay_through_a_fit() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    freeze_statistics(model)
    one = TorchLoop(
        model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
        train=Noisy(20), record=False, quiet=True,
    )  # fmt: skip
    before = model[1].running_mean.clone()  # type: ignore[union-attr,operator]
    one.fit(epochs=1)
    assert torch.equal(before, model[1].running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_learn(precision: str) -> None:
    one = loop(record=False, precision=precision, schedule=None)
    history = one.fit(epochs=6)
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert all(p.dtype == torch.float32 for p in one.model.parameters())


def test_momentum_follows_its_schedule() -> None:
    one = loop(record=False, schedule=OneCycle(), momentum=lambda step, steps: 0.5 + 0.1 * step)
    one.fit(steps=3)
    assert one.optimizer.param_groups[0]["betas"][0] == pytest.approx(0.7)
    with pytest.raises(UserErrorException, match="neither momentum nor betas"):
        plain = loop(record=False, momentum=lambda step, steps: 0.9)
        plain.optimizer = torch.optim.Adagrad(plain.model.parameters())
        plain.fit(steps=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch": 0}, "batch is a whole number from 1, not 0"),
        ({"accumulate": 1.5}, "accumulate is a whole number"),
        ({"precision": "half"}, "precision is one of float32, bf16, fp16, not 'half'"),
        ({"clip": -1.0}, "clip is the largest norm"),
        ({"loss": "mse"}, "loss is a function"),
        ({"schedule": 0.1}, "schedule is a function"),
        ({"optimizer": "sgd"}, "optimizer is a torch.optim.Optimizer"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)}, "parameters that the model does not have"),
        ({"train": 5}, "int"),
    ],
)
def test_what_cannot_be_is_refused_when_the_loop_is_made(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        loop(**values)


def test_a_loader_of_other_batches_is_refused() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*points()), batch_size=64)
    with pytest.raises(UserErrorException, match="batch_size=64, the loop batch=8. Give the loop batch=64"):
        loop(train=loader)
    assert loop(train=loader, batch=64, record=False).fit(epochs=1).steps == 2


def points() -> tuple[torch.Tensor, torch.Tensor]:
    """100 points and their classes."""
    data = Noisy(100)
    return data.inputs, data.targets


def test_a_fit_needs_one_length() -> None:
    for lengths in ({}, {"epochs": 1, "steps": 1}, {"epochs": 0}, {"steps": 2.5}):
        with pytest.raises(UserErrorException, match=r"epochs|steps"):
            loop(record=False).fit(**lengths)  # type: ignore[arg-type]


def test_a_schedule_that_counts_by_itself_is_refused() -> None:
    one = loop(record=False)
    with pytest.raises(UserErrorException, match="not an LRScheduler"):
        loop(schedule=torch.optim.lr_scheduler.StepLR(one.optimizer, 1))


def test_a_loss_that_is_no_number_is_refused() -> None:
    one = loop(record=False, loss=lambda out, y: nn.functional.cross_entropy(out, y, reduction="none"))
    with pytest.raises(UserErrorException, match=r"one number.*shape \(8,\).*reduction='mean'"):
        one.fit(epochs=1)


def test_training_that_diverges_ends_with_a_reason() -> None:
    one = loop(record=False, schedule=None)
    one.optimizer = torch.optim.SGD(one.model.parameters(), lr=float("inf"))
    with pytest.raises(TrainkitError, match="epoch 0 is nan: training has diverged"):
        one.fit(epochs=1)
