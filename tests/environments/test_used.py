"""The environment of a run, as an object."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit import Environment, UserErrorException
from trainkit.boot.rundir import RunDir, publish
from trainkit.environments.used import environment_used
from trainkit.environmentspec import EnvironmentSpec
from trainkit.imagespec import ImageSpec, RegistrySpec


def recorded(folder: Path, spec: EnvironmentSpec) -> RunDir:
    """A run's directory with what submitting writes of its environment."""
    publish(RunDir(folder).job, {"environment": spec.to_json()})
    return RunDir(folder)


def test_packages_and_variables_come_back(tmp_path: Path) -> None:
    environment = Environment("lite", pip_packages=["colorama>=0.4"], environment_variables={"MESSAGE": "hello"})
    environment.python.conda_dependencies.add_pip_package("--extra-index-url https://packages.example/simple")
    spec = environment.spec()
    assert environment_used(recorded(tmp_path, spec)).spec() == spec


def test_an_image_comes_back(tmp_path: Path) -> None:
    registry = RegistrySpec("registry.example", "me", "env:PASSWORD")
    image = ImageSpec("podman", "pets:1", registry=registry, arguments=("--privileged",), shm_size="1g")
    spec = EnvironmentSpec("pets", "python", user_managed=True, image=image)
    environment = environment_used(recorded(tmp_path, spec))
    assert (environment.docker.base_image, environment.docker.engine) == ("pets:1", "podman")
    assert environment.spec() == spec


def test_a_run_that_was_not_submitted_has_none(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="was not submitted"):
        environment_used(RunDir(tmp_path / "run"))
