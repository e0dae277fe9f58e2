"""Jobs on several nodes that are asked to end: every rank saves its state, also those that mpirun has started."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.engines.commands import Client
from tests.engines.testbed import Testbed, missing
from trainkit.boot.rundir import RunDir, read_json
from trainkit.cli.codes import CANCELED

pytestmark = pytest.mark.engine
# Takes two seconds to save its state, as a large one does; the file says that it was there to the end.
SCRIPT = """
import os, signal, sys, time
from trainkit import Run

run = Run.get_context()
def save(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(2)
    open("../saved-%d" % run.rank, "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
open("../seen-%d-%d" % (run.rank, run.world_size), "w").close()
time.sleep(300)
"""


@pytest.fixture(scope="module")
def user() -> Iterator[Client]:
    """A client with two nodes that it reaches by ssh."""
    if missing():
        pytest.skip(missing())
    with Testbed(nodes=2) as bed:
        yield Client(bed, "client", "ssh", hosts="node1,node2")


@pytest.mark.parametrize(("spread", "ranks"), [("fork", 1), ("torchrun", 1), ("mpi", 2), ("horovod", 1)])
def test_all_ranks_save_when_the_run_is_cancelled(user: Client, spread: str, ranks: int) -> None:
    run = user.submit(SCRIPT, "--max-restarts", "1", ranks=ranks, spread=spread)
    user.wait_for(run, f"seen-*-{2 * ranks}", 2 * ranks)
    user.call("cancel", run.name)
    told = user.ended(run, code=CANCELED)
    assert told["status"] == "Canceled", told
    assert sorted(path.name for path in run.glob("saved-*")) == [f"saved-{rank}" for rank in range(2 * ranks)]
    records = [read_json(path) or {} for path in RunDir(run).attempt(1).ranks.glob("[0-9]*.json")]
    assert [record["exit_code"] for record in records] == [75] * 2 * ranks, json.dumps(records, indent=1)
    user.nothing_left(run, 10)
