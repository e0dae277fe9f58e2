"""Registered environments: versions, labels, and what is never in their files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainkit import ContainerRegistry, DockerBuildContext, Environment
from trainkit.environments.definition import definition_of, environment_of
from trainkit.environments.store import EnvironmentStore
from trainkit.errors import UserErrorException
from trainkit.workspace import Workspace

PASSWORD = "s3cret-of-the-registry"
DOCKERFILE = "FROM python:3.11\nRUN pip install fastai\n"
REGISTERS = """
import sys
from trainkit import Environment, Workspace

ws = Workspace.from_config(sys.argv[1])
for number in range(8):
    made = Environment("pets", environment_variables={"BY": sys.argv[2], "NUMBER": number})
    print(made.register(ws).version, made.register(ws).version)
"""


def full(tmp_path: Path) -> Environment:
    """An environment that says something of everything."""
    made = Environment(
        "pets", pip_packages=["fastai==2.7.12", "timm"], conda_packages=["ffmpeg=7"], python_version="3.11",
        environment_variables={"A": "1"},
    )  # fmt: skip
    made.python.conda_dependencies.add_channel("bioconda")
    made.python.conda_dependencies.set_pip_option("--extra-index-url https://example.org/simple")
    made.python.interpreter_path = "/opt/conda/bin/python"
    made.docker.base_image = "registry.example.org/pets:1"
    made.docker.base_image_registry = ContainerRegistry("registry.example.org", "user", PASSWORD)
    made.docker.arguments = ["--init"]
    made.docker.shm_size = "8g"
    made.docker.shared_volumes = False
    made.docker.engine = "podman"
    made.docker.enabled = True
    return made


def test_versions_are_numbers_and_unchanged_content_keeps_its_own(workspace: Workspace, tmp_path: Path) -> None:
    made = full(tmp_path)
    assert made.version is None
    first = made.register(workspace)
    assert (first.version, made.register(workspace).version, first.register(workspace).version) == ("1", "1", "1")
    made.python.conda_dependencies.add_pip_package("rich")
    assert made.register(workspace).version == "2"
    assert Environment.get(workspace, "pets").python.conda_dependencies.pip_packages[-1] == "rich"
    read = Environment.get(workspace, "pets", version=1)
    assert read.docker.base_image_registry == ContainerRegistry("registry.example.org", "user", None)
    made.python.conda_dependencies.remove_pip_package("rich")
    read.docker.base_image_registry.password, read.version = PASSWORD, None
    assert read == made and read.spec() == made.spec()
    assert first.clone("other").version is None
    assert {name: env.version for name, env in workspace.environments.items()} == {"pets": "2"}
    assert Environment.list(workspace) == workspace.environments


def test_a_password_by_value_is_in_no_file(workspace: Workspace, tmp_path: Path) -> None:
    made = full(tmp_path)
    made.register(workspace)
    made.save_to_directory(tmp_path / "saved")
    files = [*workspace.root.rglob("*"), *(tmp_path / "saved").rglob("*")]
    assert not any(PASSWORD.encode() in file.read_bytes() for file in files if file.is_file())
    with pytest.raises(UserErrorException, match="no password"):
        Environment.get(workspace, "pets").spec()
    made.docker.base_image_registry.password = "env:PETS_PASSWORD"
    assert made.register(workspace).spec() == made.spec()


def test_what_is_registered_stands_for_itself(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "conda.yml").write_text("dependencies:\n- ffmpeg\n")
    made = Environment.from_dockerfile("pets", "Dockerfile")
    made.python.conda_dependencies_file = "conda.yml"
    made.register(workspace)
    (tmp_path / "Dockerfile").unlink()
    (tmp_path / "conda.yml").unlink()
    read = Environment.get(workspace, "pets").spec()
    assert read.image is not None and read.image.dockerfile == DOCKERFILE and read.conda_packages == ("ffmpeg",)
    with pytest.raises(UserErrorException, match=f"there is no file {tmp_path}/Dockerfile"):
        Environment.from_dockerfile("other", "Dockerfile").register(workspace)
    assert list(workspace.environments) == ["pets"]
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    context = Environment.from_docker_build_context(
        "context", DockerBuildContext.from_local_directory(workspace, tmp_path)
    )
    assert context.register(workspace).spec() == context.spec()


def test_labels_are_on_one_version_at_a_time(workspace: Workspace) -> None:
    for number in range(3):
        Environment("pets", environment_variables={"N": number}).register(workspace)
    Environment.label(workspace, "pets", 1, ["stable", "checked"])
    Environment.label(workspace, "pets", "2", ["stable"])
    found = {
        label: Environment.get(workspace, "pets", label=label).version for label in ("stable", "checked", "latest")
    }
    assert found == {"stable": "2", "checked": "1", "latest": "3"}
    for version, labels, words in (
        (9, ["stable"], "has no version 9; it has 1, 2, 3"),
        (1, ["latest"], "always on the version registered last"),
        (1, "stable", "labels is a list of words"),
        (1, ["a/b"], "labels is a list of words"),
    ):
        with pytest.raises(UserErrorException, match=words):
            Environment.label(workspace, "pets", version, labels)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "cats"}, "No environment 'cats' is registered in .*; registered are pets"),
        ({"name": "../pets"}, "No environment"),
        ({"name": 3}, "No environment 3"),
        ({"name": "pets", "version": "2"}, "has no version '2'; it has 1"),
        ({"name": "pets", "version": "one"}, "has no version 'one'"),
        ({"name": "pets", "label": "stable"}, "has no label 'stable'; it has latest"),
        ({"name": "pets", "version": "1", "label": "latest"}, "version= or label=, not both"),
        ({"name": "AzureML-PyTorch-1.6-GPU"}, "curated environment .* Environment.from_docker_image"),
    ],
)
def test_what_is_not_there_is_told(workspace: Workspace, values: dict[str, Any], words: str) -> None:
    Environment("pets").register(workspace)
    with pytest.raises(UserErrorException, match=words):
        Environment.get(workspace, **values)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a" * 256, "AzureML-mine", "Microsoft"])
def test_names_that_cannot_be_registered(workspace: Workspace, name: str) -> None:
    with pytest.raises(UserErrorException, match="cannot be registered"):
        Environment(name).register(workspace)
    assert workspace.environments == {}


def test_those_who_register_at_the_same_time_get_numbers_of_their_own(workspace: Workspace, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", REGISTERS, str(workspace.config.path)]
    started = [subprocess.Popen([*argv, str(n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
    for one in started:
        assert one.wait(60) == 0
    store = EnvironmentStore(workspace.root)
    versions = store.versions("pets")
    assert versions == list(range(1, len(versions) + 1)) and len(versions) >= 24
    contents = {json.dumps(definition_of(store.read("pets", n)), sort_keys=True) for n in versions}
    assert len(contents) == 24
    assert [path.name for path in (store.path / "pets").iterdir() if path.name.startswith(".")] == []


def test_the_old_sdks_own_files_are_understood() -> None:
    values: dict[str, Any] = {
        "name": "MNIST-env", "version": "1", "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
        "python": {
            "interpreterPath": "python", "userManagedDependencies": False, "baseCondaEnvironment": None,
            "condaDependencies": {"name": "x", "channels": ["defaults"],
                                  "dependencies": ["python=3.6.2", "tensorflow=1.15.0", "pip", {"pip": ["timm"]}]},
        },
        "docker": {
            "enabled": False, "baseImage": "mcr.microsoft.com/azureml/base:x", "baseDockerfile": None, "shmSize": None,
            "baseImageRegistry": {"address": None, "username": None, "password": None}, "arguments": [],
        },
        "spark": {"repositories": [], "packages": [], "precachePackages": True}, "inferencingStackVersion": None,
    }  # fmt: skip
    made = environment_of(values, "a file")
    dependencies = made.python.conda_dependencies
    assert (dependencies.python_version, dependencies.conda_packages) == ("3.6.2", ["tensorflow=1.15.0"])
    assert dependencies.pip_packages == ["timm"] and made.docker.enabled is None
    assert made.docker.base_image == "mcr.microsoft.com/azureml/base:x" and made.docker.shm_size == "2g"


@pytest.mark.parametrize(
    "values", [{}, {"name": 3}, {"name": "e", "python": [1]}, {"name": "e", "docker": {"buildContext": {"x": 1}}}]
)
def test_what_describes_no_environment(values: Any) -> None:
    with pytest.raises(UserErrorException, match="FILE describes no environment"):
        environment_of(values, "FILE")


def test_what_is_no_workspace_is_refused() -> None:
    for call in (
        lambda: Environment.get("tests", "pets"),
        lambda: Environment.list("tests"),
        lambda: Environment("pets").register(None),
    ):
        with pytest.raises(UserErrorException, match="workspace is a Workspace"):
            call()
