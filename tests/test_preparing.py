"""What a driver prepares: the record beside the run, and what a job is told of its interpreter or image."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from trainkit import preparing
from trainkit.boot.rundir import RunDir
from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError
from trainkit.imagespec import ImageSpec, RegistrySpec
from trainkit.job import Container, Job, agent_command
from trainkit.prepare import Prepared

JOB = Job("birds_1", "birds", "/work/.trainkit/runs/birds/birds_1", 1, "", script="train.py")


def prepared(engine: str) -> Prepared:
    container = Container(engine, "sha256:1", "fastai:latest", "/usr/bin/python3")
    return Prepared(sys.executable, True, "0123", True, "reused", container)


def test_an_image_that_the_cluster_runs_is_recorded_and_nothing_is_looked_up(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "birds" / "birds_1")
    run.path.mkdir(parents=True)
    image = ImageSpec(base="registry.example/fastai:2.8", registry=RegistrySpec("registry.example", "me", "env:SECRET"))
    spec = EnvironmentSpec("fastai", "python", image=image)
    made = preparing.prepare_run(run, tmp_path, {"environment": json.loads(json.dumps(spec.to_json()))}, True)
    assert made.container == Container("", image.base, image.base, "python3")
    recorded = json.loads(run.environment.read_text())
    assert recorded["container"]["image"] == image.base and recorded["interpreter"] == sys.executable
    job = preparing.told(JOB, made, tmp_path, True)
    assert job.interpreter == "python3" and job.boot.endswith(".zip")
    assert agent_command(job.interpreter, job, 0)[2] == "agent"


def test_with_an_engine_nodes_run_the_guard_with_their_own_interpreter(tmp_path: Path) -> None:
    job = preparing.told(JOB, prepared("podman"), tmp_path, False)
    assert agent_command(job.interpreter, job, 0)[:3] == (sys.executable, job.boot, "guard")


def test_a_loop_in_an_image_without_trainkit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="the image fastai:latest has none of this version"):
        preparing.told(dataclasses.replace(JOB, module="trainkit.loops.run"), prepared("docker"), tmp_path, False)
