"""What becomes of runs that lose a node, a link, an agent or the head: verdicts, restarts, records."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.engines.commands import Client
from tests.engines.promises import CUT_OFF_SECONDS, LEFT_SECONDS
from tests.engines.testbed import Testbed, missing
from trainkit.boot.attempts import launched
from trainkit.boot.rundir import RunDir, read_json
from trainkit.loops.verifying import verify

pytestmark = pytest.mark.engine
WAITING = """
import os, time
attempt, rank = int(os.environ["TRAINKIT_ATTEMPT"]), os.environ["RANK"]
open("../seen-%d-%s-%s" % (attempt, rank, os.environ["WORLD_SIZE"]), "w").close()
time.sleep(300 if attempt == 1 else 0)
"""
TRAINING = """
import os, time
import torch
from torch import nn
from trainkit.loops import Callback, Saving, TorchLoop, WarmupCosine

torch.manual_seed(0)
numbers = torch.Generator().manual_seed(1)
inputs = torch.randn(240, 12, generator=numbers, dtype=torch.float64)
model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 2)).double()

class Slow(Callback):
    def on_step(self, training):
        if os.environ["TRAINKIT_ATTEMPT"] == "1" and os.environ["WORLD_SIZE"] == "2":
            time.sleep(0.05)

loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.AdamW(model.parameters(), 0.003),
    train=(inputs, (inputs.sum(1) > 0).long()), batch=12, schedule=WarmupCosine(), saving=Saving(every_steps=10),
    callbacks=[Slow()], device="cpu", quiet=True,
)
loop.fit(epochs=12)
if os.environ["RANK"] == "0":
    torch.save([p.detach() for p in model.parameters()], "outputs/end.pt")
"""
_names = count(1)


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Two nodes for this module; a test that breaks one mends it."""
    if missing():
        pytest.skip(missing())
    with Testbed(nodes=2) as made:
        yield made


def client(bed: Testbed) -> Client:
    return Client(bed, f"client-{next(_names)}", "ssh", hosts="node1,node2", connect_timeout_seconds=3)


def kill_agent(bed: Testbed, node: str, run: Path) -> None:
    (agent,) = bed.processes(node, f" agent {run} ")
    os.kill(agent, signal.SIGKILL)


Plant, Mend = Callable[[Testbed, Path], None], Callable[[Testbed], None]
STILL = "a node that stands still"
OTHER, HEAD = "node 1 (node2)", "node 0 (node1)"
FAULTS: dict[str, tuple[Plant, Mend, str]] = {
    "a node that dies": (lambda bed, _: bed.kill("node2", silently=True), lambda bed: bed.boot("node2"), OTHER),
    "a link that is cut": (lambda bed, _: bed.cut("node2"), lambda bed: bed.heal("node2"), OTHER),
    STILL: (lambda bed, _: bed.freeze("node2"), lambda bed: bed.thaw("node2"), OTHER),
    "an agent that is killed": (lambda bed, run: kill_agent(bed, "node2", run), lambda bed: None, OTHER),
    "a head that dies": (lambda bed, _: bed.kill("node1", silently=True), lambda bed: bed.boot("node1"), HEAD),
    "a head whose link is cut": (lambda bed, _: bed.cut("node1"), lambda bed: bed.heal("node1"), HEAD),
    "a head's agent that is killed": (lambda bed, run: kill_agent(bed, "node1", run), lambda bed: None, HEAD),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_verdict_names_the_node_and_nothing_is_left(bed: Testbed, fault: str) -> None:
    plant, mend, name = FAULTS[fault]
    user = client(bed)
    run = user.submit(WAITING)
    user.wait_for(run, "seen-1-*", 2)
    plant(bed, run)
    try:
        told = user.ended(run, code=1)
        if fault != STILL:  # a node that nobody reaches ends its ranks by itself
            user.nothing_left(run, CUT_OFF_SECONDS if "link" in fault else LEFT_SECONDS)
    finally:
        mend(bed)
    assert told["status"] == "Failed"
    assert told["verdict"]["kind"] == "lost" and name in told["verdict"]["summary"], told["verdict"]
    user.nothing_left(run, CUT_OFF_SECONDS)


def ended_without_node2(user: Client, run: Path, code: int = 0) -> dict[str, Any]:
    """All that is told of a run that loses its second node now."""
    user.bed.kill("node2", silently=True)
    try:
        return user.ended(run, code=code)
    finally:
        user.bed.boot("node2")


def test_a_job_goes_on_with_the_nodes_that_are_left(bed: Testbed) -> None:
    user = client(bed)
    run = user.submit(WAITING, "--max-restarts", "2", "--min-nodes", "1")
    user.wait_for(run, "seen-1-*", 2)
    told = ended_without_node2(user, run)
    assert told["status"] == "Completed"
    seen = sorted(path.name for path in run.glob("seen-*"))
    assert seen == ["seen-1-0-2", "seen-1-1-2", "seen-3-0-1"]  # attempt 2 was the try with two nodes
    stages = [json.loads(line)["details"] for line in (run / "stages.jsonl").read_text().splitlines()]
    assert any(words.startswith("restart 1 of 2: node 1 (node2) was lost") for words in stages), stages


def test_fewer_nodes_than_the_least_are_an_end_that_says_so(bed: Testbed) -> None:
    user = client(bed)
    run = user.submit(WAITING, "--max-restarts", "2")
    user.wait_for(run, "seen-1-*", 2)
    told = ended_without_node2(user, run, code=1)
    assert told["status"] == "Failed" and "node2" in told["verdict"]["summary"], told["verdict"]


def test_training_goes_on_from_its_newest_checkpoint_with_one_node_less(bed: Testbed) -> None:
    import torch

    user = client(bed)
    alone = user.submit(TRAINING, nodes=1)
    run = user.submit(TRAINING, "--max-restarts", "1", "--min-nodes", "1")
    user.wait_for(run, "checkpoints/step-*", 2)
    told = ended_without_node2(user, run)
    assert told["status"] == "Completed" and user.ended(alone)["status"] == "Completed"
    attempts: list[Any] = [read_json(attempt.job) for attempt in launched(RunDir(run))]
    assert [(job["nodes"], job["attempt"]) for job in attempts] == [(2, 1), (1, 3)]
    assert verify(run).problems == ()
    ends: list[Any] = [torch.load(each / "outputs/end.pt", weights_only=True) for each in (alone, run)]
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9)
