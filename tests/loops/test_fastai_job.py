"""A Learner's loop as a job that is killed and asked to end: it goes on by itself, with the record of one fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainkit import Experiment
from trainkit.boot.rundir import RunDir, read_json
from trainkit.distributed import SpreadConfiguration
from trainkit.estimators import Fastai
from trainkit.loops.verifying import verify

pytest.importorskip("fastai")
ROOT = Path(__file__).parents[2]
BUILD = """
import os, signal, sys
sys.path.insert(0, ROOT)
from fastai.callback.core import Callback
from tests.loops.learners import bits, learner
from trainkit import Run
from trainkit.loops import FastaiLoop, Saving
from trainkit.loops.fastailoop import FineTune

class Ended(Callback):
    # attempt 1 is killed in the second phase, attempt 2 is asked to end in the evaluation after it
    def after_batch(self):
        run = Run.get_context()
        attempt, training = int(os.environ["TRAINKIT_ATTEMPT"]), self.training
        if attempt == 1 and training and self.n_epoch == 2 and self.iter == 3 and run.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if attempt == 2 and not training and self.n_epoch == 2 and run.rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)

def build(endings: bool = True) -> FastaiLoop:
    def then(loop):
        Run.get_context().tag("bits", bits(loop.learner))
    return FastaiLoop(learner(), plan=FineTune(2), saving=Saving(every_steps=2), then=then, quiet=True,
                      callbacks=[Ended()] if endings else [])
"""


def _job(folder: Path, workspace: Any, endings: bool) -> Any:
    folder.mkdir()
    (folder / "mine.py").write_text(f"ROOT = {str(ROOT)!r}\n" + BUILD)
    job = Fastai(
        folder, compute_target="local", loop="mine:build", script_params={"--endings": endings}, max_restarts=4,
        process_count_per_node=2, distributed_training=SpreadConfiguration("fork"),
    )  # fmt: skip
    run = Experiment(workspace, "learners").submit(job)
    run.wait_for_completion()
    return run


def test_a_job_that_is_killed_and_asked_to_end_is_as_one_that_was_not(workspace: Any, tmp_path: Path) -> None:
    whole, ended = (_job(tmp_path / name, workspace, name == "ended") for name in ("whole", "ended"))
    assert (read_json(RunDir(ended.directory).state) or {})["attempt"] == 3
    assert ended.get_tags()["bits"] == whole.get_tags()["bits"]
    ours, theirs = ended.get_metrics(), whole.get_metrics()
    for name in ("train_loss", "valid_loss", "error_rate", "f1_score"):
        assert ours[name] == theirs[name] and len(theirs[name]) == 3
    found = verify(ended.directory)
    assert found.problems == () and found.epochs == 3
