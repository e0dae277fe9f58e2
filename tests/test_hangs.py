"""A rank that holds the others up, in a real job: found, told with its stacks, and ended where that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot.rundir import RunDir, read_json, read_lines
from trainkit.notes import notes_of
from trainkit.testing import runs, wait_until

HANGING = """
import os, time
import torch
from torch import nn
from trainkit.loops import Callback, TorchLoop

class Stop(Callback):
    def on_step(self, training):
        time.sleep(0.02)
        if os.environ["RANK"] == "1" and training.at.step == 25 and not os.path.exists("../mended"):
            open("../stopped", "w").close()
            while not os.path.exists("../mended"):
                time.sleep(0.1)  # here

torch.manual_seed(0)
model = nn.Linear(4, 2)
loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
    train=(torch.randn(160, 4), torch.zeros(160).long()), batch=4, callbacks=[Stop()], device="cpu", quiet=True,
)
loop.fit(epochs=1)
"""


@pytest.mark.parametrize("hang", ["report", "end"])
def test_a_rank_that_holds_the_others_up_is_named(workspace: Any, tmp_path: Path, hang: str) -> None:
    run = runs.submit(workspace, tmp_path / "source", HANGING, ranks=2, hang=hang)
    attempt = RunDir(run.directory).attempt(1)
    found = wait_until(lambda: list(read_lines(attempt.path / "hangs.jsonl")), 90, "the hang's record")
    assert [line["ranks"] for line in found] == [[1]] and found[0]["held_up"] == [0]
    here = next(number for number, text in enumerate(HANGING.splitlines(), 1) if "# here" in text)
    assert f"line {here} in on_step" in found[0]["stacks"]["1"], found[0]["stacks"]
    assert notes_of(RunDir(run.directory)) == [found[0]["words"]]
    if hang == "report":
        (Path(run.directory) / "mended").touch()
        run.wait_for_completion()
        assert len(list(read_lines(attempt.path / "hangs.jsonl"))) == 1
        return
    run.wait_for_completion(raise_on_error=False)
    state = read_json(RunDir(run.directory).state) or {}
    assert (state["status"], state["verdict"]["kind"]) == ("Failed", "hang")
    assert state["verdict"]["summary"] == found[0]["words"] and json.dumps(state).count("has not moved") == 1
