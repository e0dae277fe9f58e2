"""Run by test_ray.py in its testbed's ctl, beside a Ray cluster: the laws of a launcher, and Ray's own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from trainkit.boot.processes import parent_of, with_environment, words_of
from trainkit.errors import LaunchError
from trainkit.testing import LauncherLaws, launch, make_job, wait_until
from trainkit_launchers.ray import Ray

SLEEP = "import time; time.sleep(300)"


def ray(**values: object) -> Ray:
    return Ray(os.environ["RAY_OF_THE_TEST"], python=os.environ["PYTHON_OF_RAY"], **values)  # type: ignore[arg-type]


class TestRay(LauncherLaws):
    """All laws, on two nodes."""

    def launcher(self) -> Ray:
        return ray()


def test_a_job_waits_in_words_and_can_be_cancelled_while_it_does(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path / "first", SLEEP, nodes=2)
    launcher = ray(cpus=2.0)
    first = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(first).phase == "running", 60, "the first job's start")
    job, attempt = make_job(tmp_path / "second", SLEEP, nodes=2)
    second = launch(launcher, job, attempt)
    words = "waits for 2 nodes with 2 CPU free on each; 0 of 4 CPU free on 2 nodes"
    wait_until(lambda: launcher.poll(second).words == words, 60, "the second job's words")
    assert launcher.poll(second).phase == "queued"
    for handle in (second, first):
        launcher.cancel(handle)
        wait_until(lambda handle=handle: ray().poll(handle).phase == "ended", 30, "the job's end")
    assert not list(attempt.nodes.glob("*.agent.json"))


def test_a_job_that_waited_too_long_is_lost_and_says_what_for(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path / "first", SLEEP, nodes=1)
    launcher = ray(cpus=2.0)
    first = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(first).phase == "running", 60, "the first job's start")
    job, attempt = make_job(tmp_path / "second", SLEEP, nodes=2)
    hasty = ray(cpus=2.0, queue_seconds=1.0)
    second = launch(hasty, job, attempt)
    wait_until(lambda: hasty.poll(second).phase == "lost", 60, "the end of its patience")
    assert hasty.poll(second).words == (
        "Ray could not start the job: waits for 2 nodes with 2 CPU free on each; 2 of 4 CPU free on 2 nodes: "
        "longer than queue_seconds=1"
    )
    launcher.cancel(first)
    wait_until(lambda: ray().poll(first).phase == "ended", 30, "the job's end")


def test_an_agent_dies_with_the_actor_that_holds_it(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEP)
    launcher = ray()
    handle = launch(launcher, job, attempt)
    wait_until(lambda: with_environment("TRAINKIT_RUN_ID", job.run_id), 60, "the rank's start")
    (rank,) = (pid for pid in with_environment("TRAINKIT_RUN_ID", job.run_id) if words_of(pid)[1:3] == SHIM)
    actor = parent_of(parent_of(rank))
    assert words_of(actor)[0].startswith("ray::Agent")
    os.kill(actor, signal.SIGKILL)
    wait_until(lambda: not with_environment("TRAINKIT_RUN_ID", job.run_id), 10, "the end of the rank")
    wait_until(lambda: launcher.poll(handle).phase == "ended", 30, "the job's end")
    assert "Ray lost the actor that held the agent of node 0" in Path(job.agent_log(0)).read_text()


SHIM = ["-m", "trainkit.boot.rank"]


def test_what_the_cluster_could_never_hold_is_refused(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "", nodes=2)
    with pytest.raises(LaunchError, match=r"needs 2 nodes with 3 CPU each. It has 2 nodes alive \(.*2 CPU") as refused:
        ray(cpus=3.0).start(job)
    assert (refused.value.available, refused.value.transient) == (0, False)
    assert not (attempt.path / "ray").exists()


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "")
    address = os.environ["RAY_OF_THE_TEST"].replace("8265", "8266")
    with pytest.raises(LaunchError, match=f"No Ray cluster answers at {address}") as refused:
        Ray(address).start(job)
    assert refused.value.transient


def test_a_python_without_ray_is_named_with_the_remedy(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "")
    launcher = Ray(os.environ["RAY_OF_THE_TEST"], python="/usr/bin/python3")
    handle = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(handle).phase == "lost", 60, "the job's end")
    assert "No module named 'ray' - name Ray's own interpreter" in launcher.poll(handle).words


def test_a_job_that_ray_has_forgotten_is_lost(tmp_path: Path) -> None:
    status = ray().poll(f"never-was {tmp_path}")
    assert (status.phase, "no longer knows the job never-was" in status.words) == ("lost", True)
    ray().cancel(f"never-was {tmp_path}")


def test_what_ray_does_to_its_workers_does_not_reach_ranks(tmp_path: Path) -> None:
    script = "import json, os; json.dump(dict(os.environ), open('../environment', 'w'))"
    job, attempt = make_job(tmp_path, script)
    launcher = ray()
    handle = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(handle).phase == "ended", 60, "the job's end")
    environment = json.loads((tmp_path / "environment").read_text())
    assert not [name for name in environment if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"]
    assert all("trainkit" in entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry)
