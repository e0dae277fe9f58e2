"""A loop as a job that is killed: it is started again, goes on by itself, and its record proves it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from trainkit import Experiment, PyTorch
from trainkit.boot.rundir import RunDir, read_json
from trainkit.distributed import SpreadConfiguration
from trainkit.loops.verifying import verify
from trainkit.testing import wait_until
from trainkit.testing.kills import find, kill

TRAIN = """
import time, torch
from torch import nn
from trainkit.loops import Callback, Saving, TorchLoop
class Slow(Callback):
    def on_step(self, training):
        time.sleep(0.02)
def build(epochs: int = 3):
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    model = nn.Linear(8, 2)
    return TorchLoop(model=model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                     train=(x, (x.sum(1) > 0).long()), batch=8, epochs=epochs, saving=Saving(every_steps=10),
                     callbacks=[Slow()])
"""


def test_a_killed_and_a_preempted_loop_go_on(workspace: Any, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "mine.py").write_text(TRAIN)
    job = PyTorch(
        tmp_path / "source", compute_target="local", loop="mine:build", script_params={"--epochs": 3}, max_restarts=4,
        process_count_per_node=2, distributed_training=SpreadConfiguration("fork"),
    )  # fmt: skip
    run = Experiment(workspace, "kills").submit(job)
    paths = RunDir(run.directory)
    wait_until(lambda: any(paths.checkpoints.glob("step-*/manifest.json")), 90, "a checkpoint")
    kill(find("script", run.directory, run.id))
    wait_until(lambda: len(paths.attempts()) == 2 and paths.attempt(2).rank_log(1).exists(), 60, "a second attempt")
    before = _newest(paths)
    wait_until(lambda: _newest(paths) > before, 90, "a newer checkpoint")
    os.kill(find("agent", run.directory, run.id), signal.SIGTERM)
    run.wait_for_completion()
    assert (read_json(paths.state) or {})["attempt"] == 3
    found = verify(run.directory)
    assert found.problems == () and found.epochs == 3 and found.samples == 1200
    assert len(found.attempts) >= 2 and found.worlds == (2,)


def _newest(paths: RunDir) -> str:
    return max((path.name for path in paths.checkpoints.glob("step-*")), default="")
