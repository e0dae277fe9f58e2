"""A rank that holds the others up, where a loop's ranks on several nodes exchange over MPI."""

from __future__ import annotations

import pytest

from tests.engines.commands import Client
from tests.engines.testbed import Testbed
from trainkit.boot.rundir import RunDir, read_lines
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
HANGING = """
import os, time
import torch
from torch import nn
from trainkit.loops import Callback, TorchLoop

class Stop(Callback):
    def on_step(self, training):
        while os.environ["RANK"] == "1" and training.at.step == 1 and not os.path.exists("../mended"):
            time.sleep(0.1)  # here

torch.manual_seed(0)
model = nn.Linear(4, 2)
loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
    train=(torch.randn(160, 4), torch.zeros(160).long()), batch=8, callbacks=[Stop()], device="cpu", quiet=True,
    backend="mpi",
)
loop.fit(epochs=1)
"""


def test_a_rank_that_stops_in_the_second_step_is_named_with_the_stacks_of_all_nodes(testbed: Testbed) -> None:
    pytest.importorskip("mpi4py")
    user = Client(testbed, "hangs", "ssh", hosts="node1,node2")
    run = user.submit(HANGING, nodes=2, ranks=1, spread="mpi")
    found = wait_until(lambda: list(read_lines(RunDir(run).attempt(1).hangs)), 150, "the hang's record")
    assert [(line["ranks"], line["held_up"]) for line in found] == [([1], [0])]
    assert found[0]["words"].startswith("Rank 1 on node2 has not moved for "), found[0]["words"]
    assert "after step 1; it was updating the weights or in a callback." in found[0]["words"]
    stacks = found[0]["stacks"]
    assert sorted(stacks) == ["0", "1"]
    here = next(number for number, text in enumerate(HANGING.splitlines(), 1) if "# here" in text)
    assert f"line {here} in on_step" in stacks["1"], stacks["1"]
    assert "collectives/mpi.py" in stacks["0"] and "in finish" in stacks["0"], stacks["0"]
    (run / "mended").touch()
    assert user.ended(run)["status"] == "Completed"
    assert len(list(read_lines(RunDir(run).attempt(1).hangs))) == 1
    user.nothing_left(run, 15)
