"""`trainkit doctor --target` without a cluster: what it tells of what it was told, and what it leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish
from trainkit.cli.nodes import Examination, _ended_badly, _live
from trainkit.errors import LaunchError
from trainkit.job import Job, Status

NODE = {
    "name": "a", "address": "10.0.0.1", "python": {"version": "3.11.7", "main": {"torch": "2.4.0"}}, "cpus": 8,
    "gpus": 2, "driver": "535.1", "disk_free": 10**11, "shm_free": 10**9, "link": {"rate": 1100.4, "latency": 0.08},
}  # fmt: skip
BROKEN = {
    **NODE, "name": "b", "python": {"path": "/p", "problem": "is missing"}, "disk_free": None, "shm_free": None,
    "driver": "", "link": {"problem": "unreachable", "why": "x", "port": 1},
}  # fmt: skip


class Waiting:
    """A launcher whose cluster has no room."""

    def __init__(self) -> None:
        self.canceled = 0

    def start(self, job: Job) -> str:
        return "7"

    def poll(self, handle: str) -> Status:
        return Status("ended") if self.canceled else Status("queued", "Priority")

    def cancel(self, handle: str) -> None:
        self.canceled += 1


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptDir:
    found = RunDir(tmp_path).attempt(1)
    for folder in (found.path, found.logs, found.ranks, found.nodes):
        make_private(folder)
    return found


def test_a_table_and_what_is_wrong() -> None:
    found = Examination("lab", [NODE, BROKEN], ["Node 1 (b) is ill."], ["Node 0 (a) is slow."], 1.25)
    lines = found.text().splitlines()
    assert lines[0].split()[:4] == ["NODE", "NAME", "ADDRESS", "PYTHON"]
    assert lines[1].split()[:7] == ["0", "a", "10.0.0.1", "3.11.7", "2.4.0", "8", "2"] and "1100" in lines[1]
    assert "is missing" in lines[2] and "unreachable" in lines[2]
    assert lines[3:] == ["BAD   Node 1 (b) is ill.", "note  Node 0 (a) is slow."]
    assert found.to_json()["healthy"] is False


def test_nodes_that_are_fit() -> None:
    found = Examination("lab", [NODE, NODE], seconds=1.25)
    assert found.text().splitlines()[-1] == "ok    2 nodes of lab are fit for a job together (1.2 s)"
    assert found.to_json()["healthy"] is True


def test_a_cluster_that_has_no_room_in_time(attempt: AttemptDir) -> None:
    launcher = Waiting()
    job = Job("r", "doctor", str(attempt.path.parents[1]), 1, "/python", nodes=2)
    with pytest.raises(LaunchError, match=r"After 0\.2 s the nodes were still queued \(Priority\)"):
        _live(launcher, job, attempt, 0.2)
    assert launcher.canceled and attempt.handle.exists() and not attempt.preflight.exists()


def test_agents_that_failed_before_they_met(attempt: AttemptDir) -> None:
    job = Job("r", "doctor", str(attempt.path.parents[1]), 1, "/python", nodes=2)
    problem = "Not all 2 nodes reported within 60 s; node 1 did not."
    publish(attempt.agent_end(0), {"node": 0, "name": "a", "ended": time.time(), "problem": problem, "commands": []})
    assert [problem in words for words in _ended_badly(job, attempt)] == [True]
    for rank in range(2):
        publish(attempt.rank_record(rank), {"rank": rank, "exit_code": 0})
    assert list(_ended_badly(job, attempt)) == []
