"""Jobs, as submitting decides on them; most are in containers, for which an engine only has to say it is there."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.strangers import install
from trainkit import ComputeTarget, DockerConfiguration, Environment, Experiment, ScriptRunConfig
from trainkit.distributed import SpreadConfiguration
from trainkit.dryrun import dry_run
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.plan import Plan, decide
from trainkit.workspace import Workspace

PASSWORD = "s3cret-of-the-registry"
SPACE = '''
"""A cluster that runs images itself, for tests."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Space:
    runs_images = True

    def start(self, job): raise NotImplementedError
    def poll(self, handle): raise NotImplementedError
    def cancel(self, handle): raise NotImplementedError
'''


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the only programs on the path: engines that know their version and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho 27.0.1\n")
        (folder / name).chmod(0o755)


def config(tmp_path: Path, image: str | None = "fastdotai/fastai2:latest") -> ScriptRunConfig:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("")
    environment = Environment("fastai2")
    environment.docker.base_image = image
    return ScriptRunConfig(str(source), "train.py", environment=environment)


def planned(workspace: Workspace, asked: ScriptRunConfig) -> Plan:
    return decide(workspace, "pets", asked, gpus=[])


def test_without_an_engine_nothing_is_submitted(workspace: Workspace, tmp_path: Path, engines: Path) -> None:
    asked = config(tmp_path)
    before = sorted(workspace.root.rglob("*"))
    with pytest.raises(UnsupportedJob, match="no engine answers here.*Install docker or podman"):
        Experiment(workspace, "pets").submit(asked)
    assert sorted(workspace.root.rglob("*")) == before


def test_the_engine_is_chosen_at_submit(workspace: Workspace, tmp_path: Path, engines: Path) -> None:
    add(engines, "podman")
    asked = config(tmp_path)
    image = planned(workspace, asked).environment.image
    assert image is not None and (image.engine, image.base) == ("podman", "fastdotai/fastai2:latest")
    add(engines, "docker")
    asked.run_config.docker = DockerConfiguration(engine="podman", shm_size="8g")
    image = planned(workspace, asked).environment.image
    assert image is not None and (image.engine, image.shm_size) == ("podman", "8g")
    asked.environment.docker.engine = asked.run_config.docker.engine = "dockre"
    with pytest.raises(UnsupportedJob, match="no container engine named 'dockre'"):
        planned(workspace, asked)


def test_config_json_names_an_image_and_an_engine(workspace: Workspace, tmp_path: Path, engines: Path) -> None:
    add(engines, "docker", "podman")
    asked = config(tmp_path, image=None)
    asked.environment.docker.enabled = True
    with pytest.raises(UnsupportedJob, match="nothing says of which image"):
        planned(workspace, asked)
    file = workspace.config.path
    more = {"default_image": "python:3.11", "container_engine": "podman"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    workspace = Workspace.from_config(file)
    image = planned(workspace, asked).environment.image
    assert image is not None and (image.base, image.engine) == ("python:3.11", "podman")
    asked.environment.docker.enabled = None
    assert planned(workspace, asked).environment.image is None


def test_the_image_is_recorded_and_the_password_is_not(workspace: Workspace, tmp_path: Path, engines: Path) -> None:
    add(engines, "docker")
    asked = config(tmp_path, "myregistry.azurecr.io/pets:1")
    registry = asked.environment.docker.base_image_registry
    registry.address, registry.username, registry.password = "myregistry.azurecr.io", "username", PASSWORD
    decided = planned(workspace, asked)
    assert decided.password == PASSWORD
    record = decided.record()
    assert record["environment"]["image"]["base"] == "myregistry.azurecr.io/pets:1"
    assert record["environment"]["image"]["registry"]["address"] == "myregistry.azurecr.io"
    text = dry_run(workspace, asked)
    assert "image       myregistry.azurecr.io/pets:1, run by docker" in text
    assert PASSWORD not in json.dumps(record) + repr(decided) + text
    registry.password = "env:PETS_PASSWORD"
    assert planned(workspace, asked).password == ""


def test_a_cluster_that_runs_images_needs_no_engine(
    workspace: Workspace, tmp_path: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "space"
    folder.mkdir()
    install(folder, "spacebase", {"spacebase.py": SPACE}, "[trainkit.launchers]\nspace = spacebase:Space\n")
    monkeypatch.syspath_prepend(str(folder))
    space = importlib.import_module("spacebase").Space()
    asked = config(tmp_path)
    asked.compute_target = ComputeTarget.attach(workspace, "orbit", space)
    image = planned(workspace, asked).environment.image
    assert image is not None and (image.engine, image.base) == ("", "fastdotai/fastai2:latest")
    asked.environment.docker.base_image = None
    asked.environment.docker.base_dockerfile = "FROM python:3.11"
    with pytest.raises(UnsupportedJob, match="orbit runs images itself.* has a Dockerfile.*push it to a registry"):
        planned(workspace, asked)


def test_fewer_nodes_are_for_what_goes_on_with_them(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")

    def asked(spread: str, restarts: int) -> ScriptRunConfig:
        return ScriptRunConfig(
            str(tmp_path), "train.py", distributed_job_config=SpreadConfiguration(spread, 1, 2), use_gpu=False,
            min_nodes=1, max_restarts=restarts,
        )  # fmt: skip

    assert planned(workspace, asked("horovod-elastic", 0)).job.min_nodes == 1
    assert planned(workspace, asked("fork", 1)).job.min_nodes == 1
    with pytest.raises(UserErrorException, match="max_restarts is 0: give both, or take the spread horovod-elastic"):
        planned(workspace, asked("fork", 0))
