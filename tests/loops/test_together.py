"""What goes wrong in one rank alone ends the fit in all ranks, each of which says why; the world itself goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.loops import worlds

ROOT = Path(__file__).parents[2]
SCRIPT = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
from tests.loops.small import Noisy, loop, weights
from trainkit.errors import TrainkitError
from trainkit.loops import Callback, Saving

folder = Path({folder!r})
(folder / "file").write_text("x")

class Does(Callback):
    def __init__(self, **hooks):
        self.hooks = hooks
    def on_step(self, training):
        self.hooks.get("step", lambda training: None)(training)
    def state(self):
        return self.hooks.get("state", dict)()

def fails(text):
    raise ValueError(text)

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)

def tried(name, **values):
    try:
        history = loop(**{{"record": False, "saving": None, **values}}).fit(epochs=2)
        told = f"made {{history.steps}} steps"
    except Exception as error:
        told = f"{{type(error).__name__}}: {{error}}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    report(**{{name: told}})

tried("place", saving=Saving(folder=folder / "file"))
tried("resume", resume=folder / "nowhere")
tried("state", saving=Saving(folder=folder / "state"), callbacks=[Does(state=lambda: fails("no state"))])
tried("batch", batch=8 + RANK)
tried("data", train=Noisy(50 + RANK))
tried("stop", callbacks=[Does(step=lambda training: RANK and training.step == 3 and training.stop())])

def full_at(step):
    def fill(training):
        if training.step == step and RANK == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, most))
    return [Does(step=fill)]

tried("full", saving=Saving(folder=folder / "full", every_steps=3), callbacks=full_at(8))
tried("full at the end", saving=Saving(folder=folder / "end", every_epochs=2), callbacks=full_at(8))

from trainkit import Run
run = Run.get_context()  # plain ranks have a record each; the one of rank 0 has the account
if RANK == 0:
    (run.directory / "samples.jsonl").mkdir()
tried("account", record=True)

one = loop(record=False)
with torch.no_grad():
    for parameter in one.model.parameters():
        parameter.add_(RANK)
report(evaluated=one.evaluate()["loss"], predicted=one.predict(one.train.inputs[:1]).sum().item())
alone = loop(record=False)
alone.model.eval()
report(wanted=alone.model(alone.train.inputs[:1]).sum().item())
"""


@pytest.fixture(scope="module", params=["plain", "mpirun"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> worlds.Outcome:
    folder = tmp_path_factory.mktemp("together")
    return worlds.run(folder, SCRIPT.format(root=str(ROOT), folder=str(folder)), 2, request.param)


@pytest.mark.engine
def test_all_ranks_say_what_has_failed_in_one(world: worlds.Outcome) -> None:
    def said(name: str, *words: str) -> None:
        for text in world.each(name):
            assert all(word in text for word in words), (name, text)

    said("place", "CheckpointError", "cannot be made")
    said("resume", "CheckpointError", "Nothing to resume from")
    said("state", "no state")
    said("batch", "UserErrorException", "Rank 1 has another fit than rank 0: batch is 9 and not 8")
    said("data", "UserErrorException", "samples is 51 and not 50")
    said("full", "CheckpointError", "could not be written", "and those before it are untouched")
    said("full at the end", "CheckpointError", "could not be written", "none before it")
    said("account", "TrainkitError", "account of epoch 0's samples cannot be written", "Is a directory")
    assert "Rank 0 has failed" in world.ranks[1]["full"]


@pytest.mark.engine
def test_one_rank_may_end_the_fit_of_all(world: worlds.Outcome) -> None:
    assert world.same("stop") == "made 7 steps"


@pytest.mark.engine
def test_evaluation_is_of_rank_0s_model_also_before_training(world: worlds.Outcome) -> None:
    world.same("evaluated")
    assert world.same("predicted") == pytest.approx(world.ranks[0]["wanted"], abs=1e-6)


LOST = """
import sys
sys.path.insert(0, {root!r})
from tests.loops.small import Noisy, loop
class Bad(Noisy):
    def batches(self, shares, epoch, seed):
        for number, batch in enumerate(super().batches(shares, epoch, seed)):
            if RANK == 1 and number == 3:
                raise ValueError("the disk of rank 1 is gone")
            yield batch
loop(record=False, saving=None, train=Bad(50)).fit(epochs=2)
"""


@pytest.mark.engine
@pytest.mark.parametrize("by", ["torchrun", "mpirun"])
def test_an_error_in_one_rank_ends_all_and_is_told_as_the_cause(tmp_path: Path, by: str) -> None:
    outcome: Any = worlds.start(tmp_path, LOST.format(root=str(ROOT)), 2, by).wait(60)
    assert outcome.code != 0 and "ValueError: the disk of rank 1 is gone" in outcome.output
    if by == "torchrun":
        cause = outcome.output[outcome.output.index("Root Cause") :]
        assert "rank      : 1 " in cause
        assert "RankLost: Another rank has ended" in outcome.output or "rank      : 0 " not in outcome.output
