"""train.py as its users start it: alone, under mpirun, under torchrun, copied elsewhere; the same model each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trainkit import events
from trainkit.export import load_checkpoint
from trainkit_recipes import birds

BIN = Path(sys.executable).parent
ARGUMENTS = ["--num_epochs", "2", "--batch_size", "4", "--data"]
COUNTS = (("train", 5), ("val", 4))
PICTURES = " ".join(f"{split}/{kind}/{n}" for split, count in COUNTS for kind in "ab" for n in range(count))


@dataclass
class Trained:
    """What one start of the script left."""

    output: str
    folder: Path

    def metrics(self) -> dict[str, Any]:
        (run,) = (self.folder / ".trainkit" / "runs" / "train").glob("train_*")
        return events.metrics(run)


@pytest.fixture(scope="module")
def train(fill: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """Starts a copy of train.py in a folder of its own, with the launcher's words before it."""
    data = fill(tmp_path_factory.mktemp("data"), PICTURES, 64)

    def start(*launcher: str, arguments: tuple[str, ...] = (), status: int = 0) -> Trained:
        folder = tmp_path_factory.mktemp("copied")
        shutil.copy(Path(str(birds.__file__)).parent / "train.py", folder)
        command = [*(launcher or (sys.executable,)), "train.py", *ARGUMENTS, str(data), *arguments]
        env = {**os.environ, "TRAINKIT_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=180)
        assert done.returncode == status, done.stdout + done.stderr
        return Trained(done.stdout + done.stderr, folder)

    return start


@pytest.fixture(scope="module")
def alone(train: Callable[..., Trained]) -> Trained:
    return train()


def test_the_lines_that_users_know(alone: Trained) -> None:
    lines = [line for line in alone.output.splitlines() if line]
    assert lines[0] == "Epoch 0/1" and "Epoch 1/1" in lines
    assert sum(line.startswith("train Loss: ") for line in lines) == 2
    assert sum(line.startswith("val Loss: ") and " Acc: " in line for line in lines) == 2
    assert lines[-2].startswith("Training complete in 0m ") and lines[-1].startswith("Best val Acc: 0.")


def test_the_metrics_that_users_know(alone: Trained) -> None:
    metrics = alone.metrics()
    assert metrics["lr"] == 0.001 and metrics["momentum"] == 0.9
    best = metrics["best_val_acc"]
    assert len(best) == 4 and best == sorted(best) and best[0] == 0.0, "both phases of both epochs"
    assert best[-1] == max(metrics["val_acc"])
    assert len(metrics["train_loss"]) == len(metrics["val_loss"]) == len(metrics["train_acc"]) == 2
    progress = metrics["progress"]
    assert set(progress["phase"]) == {"train", "val"} and progress["phase"][-1] == "val"
    assert progress["step"][-1] == 6 and set(progress["epochs"]) == {2}
    assert min(progress["samples_per_second"]) > 0 and progress["done"][-1] == 1.0
    assert progress["done"] == sorted(progress["done"])


def test_the_model_can_be_read_back(alone: Trained) -> None:
    import torch

    path = alone.folder / "outputs" / "model.pt"
    assert sorted(torch.load(path, weights_only=True)) == ["classes", "model", "preprocessing", "state_dict"]
    checkpoint = load_checkpoint(path)
    assert checkpoint.classes == ("a", "b") and checkpoint.preprocessing.size == 64
    assert checkpoint.module()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.engine
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param((str(BIN / "mpirun"), "--oversubscribe", "-np", "3", sys.executable), id="mpirun"),
        pytest.param((str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"), id="torchrun"),
    ],
)
def test_ranks_share_the_work_and_change_nothing(
    train: Callable[..., Trained], alone: Trained, launcher: tuple[str, ...]
) -> None:
    import torch

    together = train(*launcher)
    assert together.output.count("Epoch 0/1") == 1, "one rank speaks"
    ours, theirs = (load_checkpoint(t.folder / "outputs" / "model.pt").state_dict for t in (together, alone))
    for name, value in ours.items():
        assert torch.allclose(value.double(), theirs[name].double(), atol=2e-4), name
    a, b = together.metrics(), alone.metrics()
    assert a["val_acc"] == b["val_acc"], "every picture once, over all ranks"
    assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-3)
    assert not list(together.folder.glob("trainkit-*/world-*")), "the meeting place is cleared"


def test_mistakes_end_in_one_line(train: Callable[..., Trained]) -> None:
    failed = train(arguments=("--weights", "imagenet"), status=1)
    last = failed.output.strip().splitlines()[-1]
    assert "efficientnet_lite0 has no weights named 'imagenet'; choose one of packaged, none" in last
    assert not list((failed.folder / "outputs").iterdir())
