"""Environments with images as users submit them, in real containers: what runs where, and what is built again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.engines.containers import Engine
from trainkit import Environment, Experiment, Run, ScriptRunConfig
from trainkit.boot.rundir import RunDir, read_json, read_lines
from trainkit.workspace import Workspace

pytestmark = pytest.mark.engine
SCRIPT = """
import json, os, sys
from trainkit import Run
Run.get_context().log("made", os.path.exists("/made"))
with open("outputs/seen.json", "w") as file:
    json.dump([sys.executable, os.getuid(), os.path.exists("/.dockerenv"), os.environ["COLOUR"]], file)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a script that tells where it runs."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    return folder


def finished(workspace: Workspace, source: Path, environment: Environment) -> Run:
    environment.environment_variables["COLOUR"] = "blue"
    run = Experiment(workspace, "pets").submit(ScriptRunConfig(str(source), "train.py", environment=environment))
    run.wait_for_completion()
    assert run.get_status() == "Completed"
    return run


def prepared(run: Run) -> list[str]:
    return [line["details"] for line in read_lines(RunDir(run.directory).stages) if line["status"] == "Preparing"]


def test_a_job_runs_in_the_image_that_it_names(docker: Engine, workspace: Workspace, source: Path) -> None:
    environment = Environment("fastai2")
    environment.docker.enabled = True
    environment.docker.base_image = docker.small
    environment.python.user_managed_dependencies = True
    run = finished(workspace, source, environment)
    python, uid, in_container, colour = json.loads((run.directory / "outputs" / "seen.json").read_text())
    assert python.startswith("/usr/bin/python") and in_container and (uid, colour) == (os.getuid(), "blue")
    assert run.get_metrics() == {"made": False}
    container = (read_json(RunDir(run.directory).environment) or {})["container"]
    assert (container["engine"], container["name"]) == ("docker", docker.small) and ":" in container["image"]
    assert run.get_details()["runDefinition"]["environment"]["image"]["base"] == docker.small


def test_a_dockerfile_is_built_once_and_again_where_it_changed(
    docker: Engine, workspace: Workspace, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["FROM " + docker.small, "RUN python -c \"open('/made', 'w')\""]
    environment = Environment("made")
    environment.docker.base_dockerfile = "\n".join(lines)
    run = finished(workspace, source, environment)
    assert run.get_metrics() == {"made": True} and "reused" not in prepared(run)[-1]
    Path("Dockerfile").write_text("\n".join(lines))
    environment.docker.base_dockerfile = "./Dockerfile"
    assert "reused" in prepared(finished(workspace, source, environment))[-1]
    Path("Dockerfile").write_text("\n".join([*lines, "ENV MORE=1"]))
    run = finished(workspace, source, environment)
    assert "reused" not in prepared(run)[-1]
    assert "changed since: dockerfile" in RunDir(run.directory).prepare_log.read_text()
