"""Healthy loops for a soak of false alarms: two ranks with random slow steps and pauses below what a hang is.

Each step takes a random moment; now and then a rank stands still for seconds, in a step, before its first, or between
epochs, for less than the promise allows. None of them may be called a hang.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from trainkit import Workspace
from trainkit.boot.rundir import RunDir, read_json
from trainkit.testing.runs import submit

END_SECONDS = 180.0
LONGEST_PAUSE_SECONDS = 6.5  # a rank is named when it was seen to stand still for 8 s
SCRIPT = """
import os, random, time
import torch
from torch import nn
from trainkit.loops import Accuracy, Callback, Saving, TorchLoop

torch.set_num_threads(1)
torch.manual_seed(0)
chance = random.Random("{seed} " + os.environ["RANK"])
inputs = torch.randn(320, 8)
data = (inputs, (inputs.sum(1) > 0).long())
model = nn.Linear(8, 2)
pauses = {{chance.randrange({steps}): chance.uniform(0.5, {longest}) for _ in range(chance.choice((0, 1, 1, 2)))}}

class Uneven(Callback):
    def on_start(self, training):
        time.sleep(chance.choice((0, 0, 3)) * chance.random())
    def on_step(self, training):
        time.sleep(pauses.get(training.step, chance.expovariate(1 / {mean})))
    def on_epoch_end(self, training, metrics):
        time.sleep(chance.choice((0, 0, 2)) * chance.random())

loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
    train=data, val=data, metrics=[Accuracy()], batch=32, saving=Saving(every_steps=7), callbacks=[Uneven()],
    device="cpu", quiet=True,
)
loop.fit(epochs={epochs})
"""


@dataclass(frozen=True)
class Loop:
    """What became of one healthy run."""

    number: int
    seconds: float
    steps: int
    alarms: int
    wrong: str


def once(folder: Path, seed: int, number: int, keep: Path) -> Loop:
    """Run one and look for alarms; its directory is kept in `keep` where there are any."""
    chance = random.Random(f"{seed} healthy {number}")
    epochs = chance.choice((2, 3))
    values = {"seed": f"{seed} {number}", "steps": epochs * 10, "longest": LONGEST_PAUSE_SECONDS, "epochs": epochs}
    script = SCRIPT.format(**values, mean=chance.choice((0.02, 0.05, 0.15)))
    workspace, begun = Workspace.create("healthy", path=str(folder)), time.monotonic()
    run = submit(workspace, folder / "source", script, "fork", 2, use_gpu=False)
    while not RunDir(run.directory).state.exists() and time.monotonic() - begun < END_SECONDS:
        time.sleep(0.1)
    state = read_json(RunDir(run.directory).state) or {}
    lines = [line for path in run.directory.glob("attempts/*/hangs.jsonl") for line in path.read_text().splitlines()]
    wrong = [f"false alarm: {json.loads(line)['words']}" for line in lines]
    if state.get("status") != "Completed":
        wrong.append(f"{state.get('status')}: {(state.get('verdict') or {}).get('summary')}")
        run.cancel()
    if wrong:
        kept = keep / f"healthy-{seed}-{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(run.directory, kept, symlinks=True)
    return Loop(number, time.monotonic() - begun, epochs * 10, len(lines), "; ".join(wrong))
