"""What a driver makes of the signs of life of a job's agents, whatever the cluster says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainkit import watching
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.rundir import AttemptDir, RunDir, publish
from trainkit.job import Status


def attempt(tmp_path: Path, nodes: int = 2) -> tuple[RunDir, AttemptDir]:
    run = RunDir(tmp_path / "run")
    one = run.attempt(1)
    prepare_attempt(one)
    publish(one.job, {"nodes": nodes, "interpreter": "python"})
    publish(one.handle, {"handle": "1"})
    return run, one


def silent(life: watching.Life) -> str:
    """What is said of it once it has been silent for long: its clock is set back."""
    life._looked -= 2.0 if life._looked else 0.0
    life.lost()
    life._looked -= 2.0
    life._seen -= watching.SILENCE_SECONDS
    return life.lost()


def test_a_head_that_was_first_seen_in_the_queue_is_lost_when_it_falls_silent(tmp_path: Path) -> None:
    run, one = attempt(tmp_path)
    life = watching.Life(run, one, lambda *_: None)
    life.begin_again()  # the cluster had not looked at the job yet
    one.beat.write_text("1.0")
    assert silent(life).startswith("node 0")


def test_the_last_sign_before_a_queue_counts_no_more(tmp_path: Path) -> None:
    run, one = attempt(tmp_path)
    one.beat.write_text("1.0")
    life = watching.Life(run, one, lambda *_: None)
    life.begin_again()
    assert not silent(life)
    one.beat.write_text("2.0")
    assert silent(life).startswith("node 0")


def test_agents_that_have_all_ended_end_the_job_of_a_cluster_that_does_not_say_so(tmp_path: Path) -> None:
    run, one = attempt(tmp_path)
    life = watching.Life(run, one, lambda *_: None)
    one.agent_end(0).write_text(json.dumps({"node": 0}))
    assert not life.over(False)
    one.agent_end(1).write_text(json.dumps({"node": 1}))
    assert not life.over(False)
    life._ended -= watching.SILENCE_SECONDS
    assert life.over(False)


def test_a_node_that_the_head_has_lost_is_not_waited_for(tmp_path: Path) -> None:
    run, one = attempt(tmp_path, nodes=3)
    life = watching.Life(run, one, lambda *_: None)
    one.agent_end(0).write_text(json.dumps({"node": 0, "lost": {"node": 2}}))
    assert not life.over(True)
    one.agent_end(1).write_text(json.dumps({"node": 1}))
    assert not life.over(True)
    assert not life.over(False)
    life._ended -= watching.LOST_SECONDS
    assert life.over(True)
    assert not life.over(False)  # the cluster may yet start the job again


def test_a_disk_that_does_not_answer_gives_no_job_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, one = attempt(tmp_path)
    phases = ["running", "running", "ended"]

    class Cluster:
        def poll(self, handle: str) -> Status:
            return Status(phases.pop(0), "its words")  # type: ignore[arg-type]

    def stale(*_: object) -> str:
        raise OSError(116, "Stale file handle")

    for look in ("lost", "over", "follow"):
        monkeypatch.setattr(watching.Life, look, stale)
    assert watching.watch(run, one, Cluster(), lambda *_: None) == ("", "its words")  # type: ignore[arg-type]


def test_a_job_that_begins_again_has_time_for_its_next_attempt(tmp_path: Path) -> None:
    run, one = attempt(tmp_path, nodes=1)
    life = watching.Life(run, one, lambda *_: None)
    one.agent_end(0).write_text(json.dumps({"node": 0}))
    assert not life.over(False)
    life._ended -= 2 * watching.SILENCE_SECONDS  # so long it waited in the cluster's queue
    life.begin_again()
    assert not life.over(False)
