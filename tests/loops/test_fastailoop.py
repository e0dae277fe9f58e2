"""FastaiLoop as its users see it: fastai's own results, and those of an uninterrupted fit after any interruption."""

from __future__ import annotations

import os
import random
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.loops.learners import COUNT, bits, learner
from trainkit import Run, events
from trainkit.boot.rundir import RunDir, read_lines
from trainkit.errors import UserErrorException
from trainkit.loops import Preempted, Saving, Tensors
from trainkit.loops.digest import expected
from trainkit.loops.order import Order

pytest.importorskip("fastai")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastai.callback.core import Callback
    from fastai.callback.fp16 import MixedPrecision
    from fastai.callback.tracker import EarlyStoppingCallback

from trainkit.loops.fastailoop import FastaiLoop, FineTune, FitPlan

STEPS = 5  # of an epoch


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Broken(BaseException):
    """What these tests interrupt with: like the end of the process, nothing may catch it."""


class Break(Callback):
    """Interrupts at an event, when it has happened so often."""

    def __init__(self, event: str, times: int, how: str) -> None:
        super().__init__()
        self.how, self.left = how, [times]
        setattr(self, event, self._count)

    def _count(self) -> None:
        self.left[0] -= 1
        if self.left[0] == 0:
            if self.how == "raise":
                raise Broken
            os.kill(os.getpid(), signal.SIGTERM)


def _loop(folder: Path | None = None, **values: Any) -> FastaiLoop:
    saving = None if folder is None else Saving(every_steps=2, folder=folder)
    return FastaiLoop(learner(), **{"saving": saving, "record": False, "quiet": True, "plan": FineTune(2), **values})


@pytest.fixture(scope="module")
def whole() -> tuple[str, list[dict[str, Any]]]:
    """The bits and the history of a fit that nothing interrupts: one epoch frozen, two not."""
    loop = _loop()
    rows = loop.fit().rows
    return bits(loop.learner), rows


@pytest.mark.parametrize(
    ("event", "times", "how"),
    [
        ("after_batch", 3, "raise"),  # in the frozen epoch
        ("after_batch", 3, "SIGTERM"),
        ("after_batch", STEPS + 2, "SIGTERM"),  # while its result is measured
        ("after_fit", 1, "raise"),  # between the phases
        ("after_step", STEPS + 1, "SIGTERM"),  # first step of all weights
        ("after_step", 2 * STEPS, "SIGTERM"),  # last step of an epoch
        ("after_validate", 2, "raise"),
        ("after_step", 3 * STEPS - 1, "raise"),
    ],
)
def test_a_fit_ends_with_the_same_bits_wherever_it_was_interrupted(
    tmp_path: Path, whole: tuple[str, list[dict[str, Any]]], event: str, times: int, how: str
) -> None:
    first = _loop(tmp_path / "checkpoints", callbacks=[Break(event, times, how)])
    with pytest.raises(Broken if how == "raise" else Preempted):
        first.fit()
    torch.manual_seed(99)
    random.seed(99)
    second = _loop(tmp_path / "checkpoints")
    history = second.fit()
    assert (bits(second.learner), history.rows) == whole


def test_interrupted_again_and_again(tmp_path: Path, whole: tuple[str, list[dict[str, Any]]]) -> None:
    for _ in range(30):
        loop = _loop(tmp_path / "checkpoints", callbacks=[Break("after_batch", 2, "SIGTERM")])
        try:
            history = loop.fit()
            break
        except Preempted as error:
            assert error.code == 75
    assert (bits(loop.learner), history.rows) == whole
    again = _loop(tmp_path / "checkpoints")
    assert again.fit().rows == whole[1] and bits(again.learner) == whole[0]  # nothing is left to do


def test_several_calls_are_taken_up_where_one_was_interrupted(tmp_path: Path) -> None:
    def calls(loop: FastaiLoop) -> str:
        loop.fit_one_cycle(1, 1e-2)
        loop.fit(2, lr=1e-3)
        return bits(loop.learner)

    uninterrupted = calls(_loop())
    with pytest.raises(Preempted):
        calls(_loop(tmp_path / "a", callbacks=[Break("after_step", STEPS + 3, "SIGTERM")]))
    assert calls(_loop(tmp_path / "a")) == uninterrupted
    with pytest.raises(UserErrorException, match=r"phase 1 is fit\(2, lr=0.001"):
        other = _loop(tmp_path / "a")
        other.fit_one_cycle(1, 1e-2)
        other.fit(2, lr=1e-4)


def test_callbacks_that_remember_decide_as_if_uninterrupted(tmp_path: Path) -> None:
    def early() -> Any:
        return EarlyStoppingCallback(monitor="valid_loss", min_delta=5.0, patience=2)

    uninterrupted = _loop(callbacks=[early()])
    rows = uninterrupted.fit(6, lr=1e-3).rows
    ended = bits(uninterrupted.learner)
    assert len(rows) == 3  # the first is the best, two more are no better
    with pytest.raises(Preempted):
        _loop(tmp_path / "a", callbacks=[early(), Break("after_step", 2 * STEPS + 2, "SIGTERM")]).fit(6, lr=1e-3)
    resumed = _loop(tmp_path / "a", callbacks=[early()])
    assert resumed.fit(6, lr=1e-3).rows == rows
    assert bits(resumed.learner) == ended
    assert _loop(tmp_path / "a", callbacks=[early()]).fit(6, lr=1e-3).rows == rows  # stopped early is over


def test_the_same_learning_as_fastais_own() -> None:
    """In one order and with nothing drawn at random, the weights are those of Learner.fine_tune, to the bit."""

    def fixed(**values: Any) -> Any:
        found = learner(plain=True, **values)
        ids = list(range(len(found.dls.train_ds)))
        torch.manual_seed(3)
        pictures = torch.stack([found.dls.train_ds[i][0] for i in ids]).as_subclass(torch.Tensor)
        labels = torch.tensor([int(found.dls.train_ds[i][1]) for i in ids])
        return found, pictures, labels

    theirs, pictures, labels = fixed(count=48)  # 40 to train with: nothing for fastai to drop
    batches = [Order(40, 8, 7).epoch(epoch) for epoch in range(3)]

    class Given(Callback):
        order = -50
        epochs = iter(range(3))

        def before_train(self) -> None:
            self.now = batches[next(self.epochs)]

        def before_batch(self) -> None:
            if self.training:
                ids = torch.from_numpy(self.now[self.iter * 8 : self.iter * 8 + 8])
                self.learn.xb, self.learn.yb = (pictures[ids],), (labels[ids],)

    with theirs.no_bar(), theirs.no_logging():
        theirs.fine_tune(2, 1e-2, cbs=Given())
    ours, *_ = fixed(count=48)
    loop = FastaiLoop(ours, train=Tensors(pictures, labels), seed=7, saving=None, record=False, quiet=True)
    loop.fine_tune(2, 1e-2)
    for a, b in zip(theirs.model.parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_sample_once_an_epoch_and_metrics_in_the_run() -> None:
    run = Path(Run.get_context().directory)  # of this process: other tests may have used it
    seen: list[int] = []
    one = learner()
    kept = one.dls.train.do_item
    one.dls.train.do_item = lambda i: (seen.append(i), kept(i))[1]
    loop = FastaiLoop(one, quiet=True)
    history = loop.fit(2)
    count = COUNT * 5 // 6
    assert sorted(seen) == sorted(2 * list(range(count)))
    metrics = events.metrics(run)
    for name in ("train_loss", "valid_loss", "error_rate", "f1_score"):
        assert metrics[name][-2:] == history[name]
    rows = list(read_lines(RunDir(run).samples))[-2:]
    digests = [part["digest"] for row in rows for part in row["parts"]]
    assert digests == [f"{expected(Order(count, 8, 0), epoch, 0, count):032x}" for epoch in range(2)]
    assert loop.validate()["valid_loss"] == history["valid_loss"][-1]


def test_predictions_are_fastais_own_in_the_datas_order() -> None:
    loop = _loop()
    loop.fit()
    values, targets, losses = loop.predictions()
    theirs = loop.learner
    torch.manual_seed(0)
    with theirs.no_bar():
        _, labels = theirs.get_preds()
    assert torch.equal(targets, labels) and values.shape == (len(labels), 2) and losses.shape == labels.shape
    assert torch.allclose(values.sum(1), torch.ones(len(labels)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_number_formats_learn_and_resume(tmp_path: Path, precision: str) -> None:
    values = {"precision": precision, "channels_last": True}
    loop = _loop(**values)
    rows, ended = loop.fit().rows, bits(loop.learner)
    assert np.isfinite(rows[-1]["valid_loss"])
    with pytest.raises(Preempted):
        _loop(tmp_path / "a", callbacks=[Break("after_step", STEPS + 2, "SIGTERM")], **values).fit()
    again = _loop(tmp_path / "a", **values)
    assert again.fit().rows == rows and bits(again.learner) == ended


def test_a_learner_is_fastais_again_afterwards() -> None:
    loop = _loop()
    before = set(vars(loop.learner))
    loop.fit()
    assert not {"_do_fit", "all_batches", "_do_one_batch", "_backward", "_step"} & set(vars(loop.learner))
    assert "progress" in before and hasattr(loop.learner, "progress")
    with loop.learner.no_bar(), loop.learner.no_logging():
        loop.learner.fit(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: FastaiLoop(torch.nn.Linear(1, 1)), "fastai Learner, not Linear"),
        (lambda: _loop(precision="half"), "float32, bf16, fp16"),
        (lambda: _loop(plan=None).fit(), "How long"),
        (lambda: _loop(batch=0), "from 1"),
        (lambda: FitPlan(0), "epochs"),
        (lambda: _loop(callbacks=[MixedPrecision()]).fit(), "precision="),
        (lambda: FastaiLoop(learner(default_cbs=False), record=False, saving=None).fit(1), "Recorder"),
        (lambda: FastaiLoop(_weighted(), record=False, saving=None).fit(1), "get_idxs"),
        (lambda: FastaiLoop(_skipping(), record=False, saving=None).fit(1), "skipped"),
    ],
)
def test_refusals_say_what_to_do(change: Any, words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        change()


def _weighted() -> Any:
    from fastai.callback.data import WeightedDL

    found = learner()
    found.dls.loaders[0] = found.dls.train.new(cls=WeightedDL)
    return found


def _skipping() -> Any:
    from fastai.data.load import SkipItemException

    found = learner()

    def skip(item: Any) -> Any:
        raise SkipItemException

    found.dls.train.after_item = skip
    return found


def test_each_of_a_scripts_loops_has_its_own_checkpoints_and_all_its_metrics() -> None:
    run = Run.get_context()
    before = len(events.metrics(Path(run.directory)).get("valid_loss", []))
    rows = []
    for _ in range(2):
        loop = FastaiLoop(learner(), quiet=True)
        loop.fit(2, lr=1e-3)
        rows += loop.fit_one_cycle(2, 1e-3).rows
    found = events.metrics(Path(run.directory))
    assert found["valid_loss"][before:] == [row["valid_loss"] for row in rows] and len(rows) == 8
    assert len(list(RunDir(Path(run.directory)).checkpoints.glob("**/fit-*"))) >= 1
