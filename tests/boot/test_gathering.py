"""Agents that nobody waits for any more: the driver died before it had recorded what it had started."""

from __future__ import annotations

from pathlib import Path

from trainkit.boot.rundir import RunDir, make_private, publish, read_json
from trainkit.testing import make_job, wait_until
from trainkit_launchers.local import Local


def test_agents_of_an_attempt_that_the_run_went_on_without_end_and_say_so(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "open('../ran', 'w').close()", nodes=2)
    Local().start(job)
    wait_until(lambda: all(attempt.agent(node).exists() for node in (0, 1)), 30, "both agents")
    following = RunDir(job.run_dir).attempt(job.attempt + 1)
    make_private(following.path)
    publish(following.handle, {"handle": "of another driver"})
    wait_until(lambda: all(attempt.agent_end(node).exists() for node in (0, 1)), 60, "their ends")
    problems = [(read_json(attempt.agent_end(node)) or {})["problem"] for node in (0, 1)]
    assert problems == ["The run went on without this attempt."] * 2
    assert not (tmp_path / "ran").exists()


def test_an_agent_of_a_run_that_has_ended_starts_nothing(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "open('../ran', 'w').close()")
    publish(attempt.handle, {"handle": "given up while it waited in a queue"})
    publish(RunDir(job.run_dir).state, {"status": "Failed"})
    Local().start(job)
    wait_until(attempt.agent_end(0).exists, 30, "its end")
    assert (read_json(attempt.agent_end(0)) or {})["problem"] == "The run went on without this attempt."
    assert not (tmp_path / "ran").exists()
