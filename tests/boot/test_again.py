"""Agents that hold an allocation start their job again in it: after failures of ranks, and as often as it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trainkit import outcome, restarts
from trainkit.boot.again import Ending, ending
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.rundir import AttemptDir, RunDir, publish, read_json
from trainkit.job import Job, agent_command
from trainkit.testing import make_job, wait_until

FAILING = """
import os, sys, time
attempt, rank = int(os.environ["TRAINKIT_ATTEMPT"]), os.environ["RANK"]
print("attempt", attempt, flush=True)
open("../seen-%d-%s" % (attempt, rank), "w").close()
if attempt <= int(sys.argv[1]):
    if rank == sys.argv[2]:
        sys.exit(int(sys.argv[3]))
    time.sleep(600)
"""


@contextmanager
def agents(folder: Path, *arguments: str, **values: Any) -> Iterator[tuple[Job, list[subprocess.Popen[bytes]]]]:
    """Two nodes' agents of a job, on this machine, as a launcher that holds an allocation starts them."""
    job, attempt = make_job(folder, FAILING, nodes=2, arguments=arguments, **values)
    publish(attempt.handle, {"handle": "7", "launcher": "a test's", "time": 0})
    started = []
    for node in range(job.nodes):
        with open(job.agent_log(node), "wb") as log:
            command = agent_command(sys.executable, job, node, restarts=True)
            started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True))
    try:
        yield job, started
    finally:
        for agent in started:
            agent.kill()
            agent.wait()


def attempts(job: Job) -> list[AttemptDir]:
    return RunDir(job.run_dir).attempts()


def codes(attempt: AttemptDir) -> list[Any]:
    return [record["exit_code"] for record in outcome.records_of(attempt)]


@pytest.mark.parametrize("failure", ["1 3", "0 75"], ids=["of another node", "of the head, which asks for it"])
def test_they_go_on_with_the_next_attempt(tmp_path: Path, failure: str) -> None:
    rank, code = failure.split()
    with agents(tmp_path, "1", rank, code, max_restarts=2) as (job, started):
        assert [agent.wait(60) for agent in started] == [0, 0]
    first, second = attempts(job)
    assert codes(first)[int(rank)] == int(code) and codes(second) == [0, 0]
    for node in range(2):
        told = [read_json(attempt.agent(node), "identity") or {} for attempt in (first, second)]
        assert told[0]["identity"] == told[1]["identity"], "the agents are the same"
    handle = read_json(second.handle) or {}
    assert (handle["handle"], handle["requeued"]) == ("7", False)
    assert restarts.begun(RunDir(job.run_dir), second).startswith("restart 1 of 2: ")
    assert outcome.judge(2, outcome.records_of(second), outcome.ends_of(second), nodes=2) == ("Completed", None)


def test_no_more_often_than_the_job_says(tmp_path: Path) -> None:
    with agents(tmp_path, "9", "1", "3", max_restarts=1) as (job, started):
        assert [agent.wait(60) for agent in started] == [0, 0]
    assert [codes(attempt)[1] for attempt in attempts(job)] == [3, 3]
    verdict: dict[str, Any] = {"kind": "exit", "summary": "It failed"}
    assert not restarts.may_restart(RunDir(job.run_dir), job, verdict)
    assert verdict["summary"] == "It failed (after 1 of 1 restarts)"


@pytest.mark.parametrize("victim", [0, 1])
def test_not_where_an_agent_was_asked_to_end_or_killed(tmp_path: Path, victim: int) -> None:
    number = (signal.SIGTERM, signal.SIGKILL)[victim]
    with agents(tmp_path, "9", "none", "3", max_restarts=3) as (job, started):
        wait_until(lambda: len(list(tmp_path.glob("seen-1-*"))) == 2, 30, "both ranks")
        os.kill(started[victim].pid, number)
        assert [agent.wait(60) for agent in started][1 - victim] == 0
    assert len(attempts(job)) == 1


def record(rank: int, **values: Any) -> dict[str, Any]:
    return {"rank": rank, "exit_code": 0, "signal": None, **values}


RANK, MPIRUN = ["python", "-m", "trainkit.boot.rank"], ["mpirun", "-n", "2"]


@pytest.mark.parametrize(
    ("records", "commands", "told"),
    [
        ([record(0), record(1)], [(RANK, 0), (RANK, 0)], Ending(True, False)),
        ([record(0), record(1)], [(MPIRUN, 1)], Ending(True, False)),
        ([record(0), record(1, exit_code=3)], [(RANK, 0), (RANK, 3)], Ending(False, False)),
        ([record(0)], [(RANK, 0), (RANK, -9)], Ending(False, False)),
        ([record(0)], [(MPIRUN, 137)], Ending(False, False)),
        ([record(0)], [(RANK, 0), (RANK, 1)], Ending(False, True)),
        ([record(0, exit_code=1, kind="world")], [(MPIRUN, 1)], Ending(False, True)),
        ([record(0), record(1, exit_code=None, signal="SIGKILL")], [(RANK, 0), (RANK, None)], Ending(False, True)),
    ],
    ids=["well", "well in spite of mpirun", "an exit code", "a shim that was killed", "mpirun that was killed",
         "a shim that could not begin", "another world", "a process that does not end"],
)  # fmt: skip
def test_what_another_try_can_help(tmp_path: Path, records: Any, commands: Any, told: Ending) -> None:
    attempt = RunDir(tmp_path).attempt(1)
    prepare_attempt(attempt)
    for one in records:
        publish(attempt.rank_record(one["rank"]), one)
    given = [{"argv": argv, "status": status} for argv, status in commands]
    assert ending(attempt, range(2), given, ended_otherwise=False) == told
