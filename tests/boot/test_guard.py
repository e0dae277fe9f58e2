"""The guard of a container: whatever is killed between the launcher and the ranks, nothing of the container stays."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.engines.containers import SMALL, Engine
from trainkit import Environment, Experiment, Run, ScriptRunConfig
from trainkit.boot import processes
from trainkit.boot.rundir import RunDir
from trainkit.job import Container, Job
from trainkit.testing import wait_until

SCRIPT = """
import os, subprocess, sys, time
from trainkit import Run
Run.get_context().log("pid", os.getpid())
print("uid", os.getuid(), "home", os.environ["HOME"], "python", sys.version.split()[0], flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)  # an orphan to be
open("outputs/here", "w").write("x")
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the engines that tests can start."""
    found: Engine = request.getfixturevalue(request.param)
    return found


def submitted(workspace: Any, engine: Engine, seconds: float = 300) -> tuple[Run, RunDir]:
    """A run in a container of the small image, which has begun."""
    Path("train.py").write_text(SCRIPT)
    environment = Environment("small")
    environment.docker.base_image = SMALL
    environment.docker.engine = engine.program
    environment.python.user_managed_dependencies = True
    config = ScriptRunConfig(".", "train.py", arguments=[seconds], environment=environment)
    run = Experiment(workspace, "guarded").submit(config)
    files = RunDir(next(workspace.root.glob(f"runs/*/{run.id}")))
    wait_until(lambda: (files.outputs / "here").exists() or files.state.exists(), 60, "the rank's beginning")
    assert not files.state.exists(), files.state.read_text()
    return run, files


def guard_of(files: RunDir) -> int:
    """The guard's pid."""
    return int(json.loads(files.attempt(1).agent(0).read_text())["identity"].split(":")[1])


def nothing_stays(engine: Engine, run: Run) -> None:
    """Neither a process nor a container of the run, a few seconds after its end."""
    wait_until(lambda: not processes.with_environment("TRAINKIT_RUN_ID", run.id), 10, "the end of all processes")
    wait_until(lambda: not any(run.id in name for name in engine.containers()), 10, "the end of the container")


def test_a_job_in_a_container_leaves_its_files_and_nothing_else(workspace: Any, engine: Engine) -> None:
    run, files = submitted(workspace, engine, seconds=0)
    run.wait_for_completion()
    assert run.get_status() == "Completed" and "outputs/here" in run.get_file_names()
    log = files.attempt(1).rank_log(0).read_text()
    assert f"home {files.home} python 3.11." in log
    assert files.outputs.joinpath("here").stat().st_uid == files.run.stat().st_uid
    assert not files.home.exists()
    nothing_stays(engine, run)


@pytest.mark.parametrize("killed", ["guard", "engine"])
def test_what_is_killed_takes_the_container_along(workspace: Any, engine: Engine, killed: str) -> None:
    run, files = submitted(workspace, engine)
    guard = guard_of(files)
    pid = guard if killed == "guard" else processes.children_of(guard)[0]
    assert processes.send(processes.identity(pid), signal.SIGKILL)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    nothing_stays(engine, run)


def test_a_canceled_job_ends_its_container(workspace: Any, engine: Engine) -> None:
    run, _ = submitted(workspace, engine)
    run.cancel()
    run.wait_for_completion()
    assert run.get_status() == "Canceled"
    nothing_stays(engine, run)


def stop(engine: Engine, run: Run) -> None:
    """Stop the run's container as its owner may, with the engine's own command."""
    (name,) = [name for name in engine.containers() if run.id in name]
    engine.run("stop", name)
    run.wait_for_completion(raise_on_error=False)


def test_a_container_that_is_stopped_from_outside_is_named(workspace: Any, engine: Engine) -> None:
    run, files = submitted(workspace, engine)
    stop(engine, run)
    verdict = json.loads(files.state.read_text())["verdict"]
    assert (run.get_status(), verdict["kind"], verdict["node"]) == ("Failed", "lost", 0)
    assert verdict["summary"].startswith(f"The container of {SMALL} on ")
    assert verdict["summary"].endswith(" was stopped from outside, by SIGTERM, though nobody had canceled the run.")
    nothing_stays(engine, run)


def test_a_scheduler_that_signals_all_processes_has_stopped_no_container(workspace: Any, engine: Engine) -> None:
    run, files = submitted(workspace, engine)
    guard = guard_of(files)
    for pid in (*processes.children_of(guard), guard):  # the engine's client first, which passes it on
        assert processes.send(processes.identity(pid), signal.SIGTERM)
    run.wait_for_completion(raise_on_error=False)
    assert "stopped from outside" not in files.state.read_text()
    assert not files.attempt(1).stopped(0).exists()
    nothing_stays(engine, run)


def test_a_command_means_the_images_python(workspace: Any, podman: Engine) -> None:
    environment = Environment.from_docker_image("small", SMALL)
    command = ["python", "-c", "import sys; open('outputs/python', 'w').write(sys.executable)"]
    run = Experiment(workspace, "commands").submit(ScriptRunConfig(".", command=command, environment=environment))
    run.wait_for_completion()
    (told,) = workspace.root.glob(f"runs/*/{run.id}/outputs/python")
    assert told.read_text() in ("/usr/bin/python", "/usr/bin/python3")


def test_a_job_keeps_its_container_through_json() -> None:
    container = Container(
        "podman", "sha256:1", "fastai:latest", "/usr/bin/python3", ("--cap-drop=ALL",), mounts=("/x",)
    )
    job = Job("run", "experiment", "/runs/run", 1, "/usr/bin/python3", container=container)
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
