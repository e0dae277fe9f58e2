"""What takes Slurm minutes: starting jobs again, and its accounts. `make test-slurm-slow` runs it and keeps the result.

Not collected with the other tests. python -m tests.engines.ondemand slurm writes benchmarks/results/slurm.json: the
commit, each test with its seconds and its failure, and a digest of the sources that it covers.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engines import slurmd
from tests.engines.test_slurm import ROOT, Run, nothing_left, until
from tests.engines.testbed import Testbed
from trainkit.loops.verifying import verify

pytestmark = pytest.mark.engine
# Counts seconds in a file, one line each; asked to end, it says "run me again". No second is counted twice.
COUNTS = """
import os, signal, sys, time
from pathlib import Path
count = Path("outputs") / ("count-" + os.environ["RANK"])
def asked(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(75)
signal.signal(signal.SIGTERM, asked)
done = len(count.read_text().splitlines()) if count.exists() else 0
for second in range(done, int(sys.argv[1]) if len(sys.argv) > 1 else 40):
    with count.open("a") as file:
        file.write("%d %s\\n" % (second, os.environ["TRAINKIT_ATTEMPT"]))
    time.sleep(1)
"""
EVERY_STEPS = 5
# Trains for half a minute, saved after every fifth step; each rank tells which steps it has made.
TRAINS = f"""
import os, time
import torch
from torch import nn
from trainkit.loops import Callback, Saving, TorchLoop

torch.manual_seed(0)
inputs = torch.randn(96, 8, generator=torch.Generator().manual_seed(1))
model = nn.Linear(8, 2)
count = os.path.join("outputs", "count-" + os.environ["RANK"])

class Slow(Callback):
    def on_step(self, training):
        with open(count, "a") as file:
            file.write("%d %s\\n" % (training.step, os.environ["TRAINKIT_ATTEMPT"]))
        time.sleep(0.2)

loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
    train=(inputs, (inputs.sum(1) > 0).long()), batch=8, saving=Saving(every_steps={EVERY_STEPS}), callbacks=[Slow()],
    device="cpu",
)
loop.fit(epochs=12)
"""
STEPS = 12 * 96 // 8


@pytest.fixture
def bed() -> Iterator[Testbed]:
    """Three nodes with Slurm, one to spare."""
    with Testbed(nodes=3) as made:
        made.slurm()
        yield made


def attempts_of(run: Run) -> list[int]:
    """The numbers of all attempts of a run."""
    return sorted(int(path.name) for path in (run.folder / "attempts").iterdir())


def lines_of(run: Run, rank: int) -> list[tuple[int, int]]:
    """What a rank has counted: each number with the attempt that counted it."""
    lines = (run.folder / "outputs" / f"count-{rank}").read_text().splitlines()
    return [(int(number), int(attempt)) for number, attempt in map(str.split, lines)]


def never_failed(ended: dict[str, Any]) -> None:
    """Check that a run has completed, has waited for Slurm, and was never called failed on the way."""
    assert ended["status"] == "Completed", ended
    assert {status for status, _ in ended["stages"]} <= {"Preparing", "Queued", "Running", "Finalizing"}
    assert any(status == "Queued" and "Slurm job" in words for status, words in ended["stages"]), ended["stages"]


def lost_nothing(run: Run) -> list[int]:
    """Check that each rank has counted every second once, in the order of its attempts; the attempts that counted."""
    for rank in range(2):
        lines = lines_of(run, rank)
        assert [second for second, _ in lines] == list(range(40)), lines
        assert [attempt for _, attempt in lines] == sorted(attempt for _, attempt in lines), lines
    return sorted({attempt for rank in range(2) for _, attempt in lines_of(run, rank)})


def goes_on(run: Run, ended: dict[str, Any], attempts: int) -> None:
    """Check that the run has completed in so many attempts, lost nothing, and was never called failed."""
    never_failed(ended)
    assert attempts_of(run) == lost_nothing(run) == list(range(1, attempts + 1))


def counted(run: Run, numbers: int) -> None:
    """Wait until rank 0 has counted so far."""
    file = run.folder / "outputs" / "count-0"
    until(lambda: file.exists() and len(file.read_text().splitlines()) >= numbers, f"{numbers} numbers counted")


def test_a_preempted_run_goes_on_when_there_is_room_again(bed: Testbed) -> None:
    run = Run(bed, "preempted", script=TRAINS, options={"partition": "low", "requeue": True})
    counted(run, 2 * EVERY_STEPS + 1)
    more = ["--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 5"]
    bed.run("ctl", ["sbatch", *more], cwd="/", check=True)
    never_failed(run.end(400))
    assert attempts_of(run) == [1, 2]
    words = re.search(r"resumed at step (\d+) of", (run.folder / "attempts/2/logs/rank-0.log").read_text())
    assert words, "the second attempt has begun anew"
    for rank in range(2):
        first, second = ([step for step, attempt in lines_of(run, rank) if attempt == n] for n in (1, 2))
        assert second == list(range(int(words[1]) + 1, STEPS + 1)), (first, second)
        assert len(first) - EVERY_STEPS <= int(words[1]) <= len(first), (first, words[1])  # the newest checkpoint
    verified = verify(run.folder)
    assert verified.problems == () and verified.epochs == 12 and verified.attempts == (1, 2), verified


def test_a_run_that_loses_a_node_goes_on_on_others(bed: Testbed) -> None:
    run = Run(bed, "loses", script=COUNTS, options={"requeue": True})
    counted(run, 3)
    bed.kill("node2")
    goes_on(run, run.end(400), 2)
    nothing_left(bed, run)


def test_a_run_whose_head_is_lost_goes_on_on_others(bed: Testbed) -> None:
    run = Run(bed, "headless", script=COUNTS, options={"requeue": True})
    counted(run, 3)
    bed.kill("node1")
    goes_on(run, run.end(500), 2)


def test_a_time_limit_is_no_end_for_a_run_that_may_be_requeued(bed: Testbed) -> None:
    options = {"requeue": True, "time": 1, "signal_seconds": 30}
    run = Run(bed, "limit", script=COUNTS, options=options)
    never_failed(run.end(560))
    assert len(lost_nothing(run)) >= 2  # each of them ended by the limit, except for the last


def test_a_run_waits_for_nodes_that_take_long_to_clean_up_before_it_goes_on() -> None:
    with Testbed(nodes=2) as bed:
        epilog = bed.shared / "epilog"
        epilog.write_text("#!/bin/sh\nexec sleep 40\n")
        epilog.chmod(0o755)
        bed.slurm(config=f"Epilog={epilog}\n")
        run = Run(bed, "cleaned", script=COUNTS, options={"requeue": True})
        counted(run, 3)
        bed.run("ctl", ["scontrol", "requeue", run.job()], check=True)
        ended = run.end(500)
        goes_on(run, ended, 2)
        assert any("its nodes clean up" in words for _, words in ended["stages"]), ended["stages"]


def test_a_cancelled_run_is_not_requeued(bed: Testbed) -> None:
    run = Run(bed, "cancelled", script=COUNTS, options={"requeue": True})
    counted(run, 3)
    (run.folder / "cancel.json").write_text('{"time": 0}')
    assert run.end()["status"] == "Canceled"
    number = run.job()
    until(lambda: bed.run("ctl", ["squeue", "-h", "-j", number]).stdout == "", "the end of the job")
    time.sleep(10)
    assert bed.run("ctl", ["squeue", "-h", "-t", "pending,running"]).stdout == ""


ASK = "import sys; from trainkit_launchers.slurm import Slurm; print(Slurm().poll(sys.argv[1]).words)"


def test_accounts_know_what_the_controller_has_forgotten() -> None:
    if slurmd.missing(sacct=True):
        pytest.skip(slurmd.missing(sacct=True))
    with Testbed(nodes=2) as bed:
        bed.slurm(sacct=True)
        run = Run(bed, "accounts", script="raise SystemExit(7)", nodes=1)
        assert run.end()["verdict"]["exit_code"] == 7
        handle = json.loads((run.folder / "attempts" / "1" / "handle.json").read_text())["handle"]
        number = handle.split()[0]
        query = ["sacct", "-X", "-n", "-P", "-j", number, "-o", "State"]
        until(lambda: bed.run("ctl", query).stdout.strip() in ("FAILED", "COMPLETED"), "the account")
        bed.slurm_down("ctl")
        bed.run("ctl", ["/usr/sbin/slurmctld", "-c"], check=True)  # forgets all jobs
        until(
            lambda: "Invalid job id" in bed.run("ctl", ["squeue", "-j", number]).stderr, "the controller's forgetting"
        )
        words = bed.run("ctl", [sys.executable, "-c", ASK, handle], cwd=ROOT, check=True).stdout
        assert f"Slurm job {number} ended (" in words and "not known" not in words, words
