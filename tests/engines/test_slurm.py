"""Slurm itself, on a testbed: the laws of a launcher, whole runs, and what happens when its parts fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines import pages
from tests.engines.testbed import USER, Testbed

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parent.parent.parent
WELL = """
from trainkit import Run
import os, platform
Run.get_context().log("rank", int(os.environ["RANK"]))
print("on", platform.node())
"""
LONG = "import time\nfor second in range(300):\n    time.sleep(1)\n"
SHORT = "import time\nfor second in range(12):\n    time.sleep(1)\n"


def inner(bed: Testbed, *arguments: str, user: str = "root", timeout: float = 600) -> None:
    """Run tests of slurm_laws.py in ctl; fails with what they print."""
    folder = bed.shared / f"laws-{user}"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={folder}"]
    laws = [str(ROOT / "tests" / "engines" / "slurm_laws.py"), *arguments]
    done = bed.run("ctl", [*command, *laws], cwd=ROOT, user=user, timeout=timeout, env={"CI": "true"})
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The condition's first true value; fails when it has none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)
    return value


class Run:
    """A run that a client in ctl has submitted, and waits for."""

    def __init__(self, bed: Testbed, name: str, **asked: Any) -> None:
        folder = bed.shared / name
        folder.mkdir()
        command = [sys.executable, "-m", "tests.engines.runs_on_slurm", str(folder), json.dumps(asked)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.client = bed.start("ctl", command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, **pipes)
        assert self.client.stdout is not None and self.client.stderr is not None
        line = self.client.stdout.readline()
        assert line, self.client.stderr.read()[-4000:]
        self.id, self.folder = json.loads(line)["id"], Path(json.loads(line)["run_dir"])

    def ranks(self, count: int, attempt: int = 1) -> None:
        """Wait until so many ranks of an attempt run."""
        logs = self.folder / "attempts" / str(attempt) / "logs"
        until(lambda: len(list(logs.glob("rank-*.log"))) == count, f"the start of {count} ranks")

    def job(self) -> str:
        """Slurm's number of the job."""
        handle = self.folder / "attempts" / "1" / "handle.json"
        until(handle.exists, "the job's submission")
        return str(json.loads(handle.read_text())["handle"]).split()[0]

    def end(self, seconds: float = 120.0) -> dict[str, Any]:
        """How it ended."""
        output, errors = self.client.communicate(timeout=seconds)
        assert output, errors[-4000:]
        return dict(json.loads(output.splitlines()[-1]))


def nothing_left(bed: Testbed, run: Run, seconds: float = 20.0) -> None:
    """Wait until no process of the run is left on any node."""

    def left() -> list[str]:
        return [
            f"{node}:{pid}"
            for node in bed.names
            for pid in bed.nodes[node].pids()
            if f"TRAINKIT_RUN_ID={run.id}".encode() in _environment(pid)
        ]

    until(lambda: not left(), "the end of all processes of the run", seconds)


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def test_the_laws_and_what_slurm_refuses(slurm: Testbed) -> None:
    inner(slurm)


def test_an_ordinary_user_needs_no_rights(slurm: Testbed) -> None:
    os.chmod(slurm.shared, 0o1777)
    inner(slurm, "-k", "TestSlurm or (waiting and cancelled)", user=USER)


def test_the_pages_example_runs(slurm: Testbed) -> None:
    printed = pages.run_example(slurm, "slurm.md", slurm.shared / "page", {"partition=short": "partition=debug"})
    assert "rank 3 of 4 on node2" in printed


def test_a_whole_run_through_config_json(slurm: Testbed) -> None:
    ended = Run(slurm, "well", script=WELL, ranks=2).end()
    assert ended["status"] == "Completed", ended
    assert {key: value["rank"] for key, value in ended["metrics"].items()} == {"0": 0, "1": 1, "2": 2, "3": 3}
    assert {rank["node_name"] for rank in ended["ranks"]} == {"node1", "node2"}


def test_a_rank_that_fails_is_the_verdict_and_not_slurms_words(slurm: Testbed) -> None:
    script = "import os, time\nif os.environ['RANK'] == '1':\n    raise ValueError('the reason')\ntime.sleep(300)\n"
    ended = Run(slurm, "fails", script=script).end()
    assert ended["status"] == "Failed"
    assert (ended["verdict"]["rank"], ended["verdict"]["exception"]) == (1, "ValueError")
    assert "the reason" in ended["verdict"]["summary"]


FAILS_TWICE = """
import os, sys, time
attempt, rank = int(os.environ["TRAINKIT_ATTEMPT"]), os.environ["RANK"]
print("attempt", attempt, flush=True)
if attempt < 3:
    if rank == str(2 - attempt):
        sys.exit(75) if attempt == 1 else os.kill(os.getpid(), 9)
    time.sleep(300)
"""


def test_ranks_that_fail_are_started_again_in_the_same_allocation(slurm: Testbed) -> None:
    run = Run(slurm, "again", script=FAILS_TWICE, restarts=2)
    ended = run.end()
    assert (ended["status"], ended["attempt"]) == ("Completed", 3), ended
    jobs = slurm.run("ctl", ["squeue", "-h", "-t", "all", "-o", "%i %j"]).stdout.splitlines()
    assert [line for line in jobs if run.id in line] == [f"{run.job()} {run.id}.1"]
    for number in (1, 2, 3):
        attempt = run.folder / "attempts" / str(number)
        assert json.loads((attempt / "handle.json").read_text())["handle"].split()[0] == run.job()
        assert (attempt / "logs" / "rank-1.log").read_text() == f"attempt {number}\n"
    words = [details for _, details in ended["stages"] if details.startswith("restart ")]
    assert len(words) == 2 and "rank 1" in words[0] and "rank 0" in words[1], ended["stages"]
    assert all("on the same 2 node(s)" in each for each in words)


def test_a_queue_timeout_is_told_in_the_verdict(slurm: Testbed) -> None:
    options = {"queue_timeout_seconds": 1, "cpus_per_rank": 64}
    ended = Run(slurm, "late", script=WELL, options=options).end()
    assert ended["status"] == "Failed"
    assert "queue_timeout_seconds=1 and was cancelled" in ended["verdict"]["summary"], ended["verdict"]


def test_a_setup_that_fails_is_told_in_the_verdict(slurm: Testbed) -> None:
    ended = Run(slurm, "setup", script=WELL, options={"setup_script": "echo nothing; exit 3"}).end()
    assert ended["status"] == "Failed"
    assert "exit code 3" in ended["verdict"]["summary"] and "slurm.log" in ended["verdict"]["summary"]


def test_more_nodes_than_there_are_fail_at_once(slurm: Testbed) -> None:
    ended = Run(slurm, "many", script=WELL, nodes=9).end()
    assert ended["status"] == "Failed"
    assert "the job needs 9 nodes, and the partition debug has, or allows, 2" in ended["verdict"]["summary"].lower()


def test_the_controllers_restart_ends_no_run(slurm: Testbed) -> None:
    run = Run(slurm, "controller", script=SHORT)
    run.ranks(2)
    slurm.run("ctl", ["scontrol", "shutdown", "slurmctld"], check=True)  # a stop, as for an upgrade: it saves its state
    until(lambda: slurm.run("ctl", ["squeue"]).returncode, "the end of slurmctld")
    time.sleep(3)
    slurm.slurm_up("ctl")
    ended = run.end()
    assert ended["status"] == "Completed", ended


def test_a_controller_that_does_not_answer_yet_is_asked_again(slurm: Testbed) -> None:
    slurm.slurm_down("ctl")
    try:
        run = Run(slurm, "early", script=WELL)
        stages = run.folder / "stages.jsonl"
        until(lambda: stages.exists() and "It is asked again" in stages.read_text(), "Slurm's silence")
    finally:
        slurm.slurm_up("ctl")
    ended = run.end()
    assert ended["status"] == "Completed", ended
    assert len(list(run.folder.glob("attempts/*/handle.json"))) == 1


def test_the_death_of_a_nodes_slurmd_ends_no_run(slurm: Testbed) -> None:
    run = Run(slurm, "slurmd", script="import time\nfor second in range(5):\n    time.sleep(1)\n")
    run.ranks(2)
    slurm.slurm_down("node2")
    try:
        assert run.end()["status"] == "Completed"
    finally:
        slurm.slurm_up("node2")


def test_a_node_that_srun_cannot_reach_is_named(slurm: Testbed) -> None:
    with Testbed(nodes=2) as bed:  # where Slurm has had trouble with the node before, it leaves the job in its queue
        bed.slurm()
        bed.slurm_down("node2", kill=True)
        verdict = Run(bed, "unreached", script=LONG).end()["verdict"]
        assert verdict["kind"] == "lost" and "failed on node node2" in verdict["summary"], verdict


def test_a_node_that_dies_is_named_long_before_slurm_notices(slurm: Testbed) -> None:
    with Testbed(nodes=2) as bed:
        bed.slurm()
        run = Run(bed, "dies", script=LONG)
        run.ranks(2)
        bed.kill("node2")
        ended = run.end(60)
        assert ended["status"] == "Failed"
        assert "node2" in ended["verdict"]["summary"], ended["verdict"]
        nothing_left(bed, run)
