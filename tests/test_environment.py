"""Environments as users describe them, and what they are frozen into."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trainkit import CondaDependencies, ContainerRegistry, DockerBuildContext, Environment
from trainkit.environment import EnvironmentSpec, variables_checked
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.imagespec import ImageSpec, RegistrySpec

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_a_name_is_a_text() -> None:
    with pytest.raises(TypeError, match="Environment name expected str, <class 'int'> found"):
        Environment(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("section", ["", "docker", "python"])
def test_attributes_that_do_not_exist_cannot_be_set(section: str) -> None:
    environment = Environment("e")
    with pytest.raises(AttributeError, match="base_imgae"):
        (getattr(environment, section) if section else environment).base_imgae = "x"


def test_a_plain_environment_is_the_interpreter_in_use() -> None:
    spec = Environment("e").spec()
    assert spec.is_plain and spec.interpreter == sys.executable


def test_a_spec_survives_its_json() -> None:
    spec = Environment("e", pip_packages=["a==1"], environment_variables={"X": "1"}, inherit=False).spec()
    assert EnvironmentSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert not spec.is_plain


def test_user_managed_installs_nothing() -> None:
    environment = Environment("e")
    environment.python.user_managed_dependencies = True
    assert environment.spec().is_plain
    environment.python.conda_dependencies.add_pip_package("timm")
    with pytest.raises(UserErrorException, match="nothing is installed"):
        environment.spec()


def test_the_interpreter_can_be_another(tmp_path: Path) -> None:
    environment = Environment("e")
    environment.python.interpreter_path = str(tmp_path / "python")
    with pytest.raises(UserErrorException, match=f"no program {tmp_path / 'python'}"):
        environment.spec()
    (tmp_path / "python").symlink_to(sys.executable)
    assert environment.spec().interpreter == str(tmp_path / "python")


def test_pythons_own_version_is_no_wish() -> None:
    assert Environment("e", python_version=OWN).spec().is_plain
    with pytest.raises(UnsupportedJob, match="inherit=False"):
        Environment("e", python_version="3.6.2").spec()
    assert Environment("e", python_version="3.6.2", inherit=False).spec().python_version == "3.6.2"


def test_the_retired_sdk_is_left_out_with_one_warning() -> None:
    environment = Environment("e", pip_packages=["azureml-defaults", "timm"])
    with pytest.warns(DeprecationWarning, match="azureml-defaults will not be installed") as caught:
        assert environment.spec().pip_packages == ("timm",)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_from_pip_requirements(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("timm>=1\nrich\n")
    environment = Environment.from_pip_requirements("e", tmp_path / "r.txt")
    (tmp_path / "r.txt").unlink()
    assert environment.spec().pip_packages == ("timm>=1", "rich")
    with pytest.raises(UserErrorException, match="path doesn't exist"):
        Environment.from_pip_requirements("e", tmp_path / "r.txt")


def test_from_conda_specification(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(
        f"name: e\nchannels: \n  - conda-forge\ndependencies:\n  - python={OWN}\n  - ffmpeg=7  # video\n  - pip\n"
        "  - pip:\n    - timm>=1\n    - 'rich'\n"
    )
    spec = Environment.from_conda_specification("e", tmp_path / "c.yml").spec()
    assert spec.conda_packages == ("ffmpeg=7",) and spec.conda_channels == ("conda-forge",)
    assert spec.pip_packages == ("timm>=1", "rich") and spec.python_version == ""


@pytest.mark.parametrize("line", ["variables:", "  key: value", "- [a, b]", "dependencies: [a]", "&anchor"])
def test_what_a_conda_file_may_not_hold_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "c.yml").write_text(f"dependencies:\n- python\n{line}\n")
    with pytest.raises(UserErrorException, match=r"c\.yml"):
        Environment.from_conda_specification("e", tmp_path / "c.yml")


def test_conda_dependencies_are_written_and_read_back(tmp_path: Path) -> None:
    made = CondaDependencies.create(
        pip_packages=["timm==1.0", "a; python_version<'4'"], conda_packages=["ffmpeg=7"], python_version="3.11",
        pip_indexurl="https://example.org/simple",
    )  # fmt: skip
    made.add_channel("bioconda")
    made.save(tmp_path / "c.yml")
    read = CondaDependencies(tmp_path / "c.yml")
    assert read == made
    assert read.pip_options == ["--index-url https://example.org/simple"]


def test_conda_dependencies_change_step_by_step() -> None:
    made = CondaDependencies()
    assert made.is_empty
    made.add_pip_package("timm==1.0")
    made.add_pip_package("timm==1.1")
    made.add_conda_package("python=3.11")
    assert made.pip_packages == ["timm==1.1"] and made.python_version == "3.11" and made.conda_packages == []
    made.remove_pip_package("timm")
    made.python_version = None
    assert made.is_empty
    with pytest.raises(AttributeError):
        made.pip_package = []  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", ["--prefix=/etc", "a\nb", "", 3])
def test_what_is_no_conda_package(package: Any) -> None:
    with pytest.raises(UserErrorException):
        CondaDependencies().add_conda_package(package)


@pytest.mark.parametrize(
    "values", [{"RANK": "1"}, {"TRAINKIT_RUN_ID": "x"}, {"A=B": "1"}, {"": "1"}, {"A": "\0"}, ["A"], {"A": None}]
)
def test_variables_that_cannot_be(values: Any) -> None:
    with pytest.raises(UserErrorException):
        variables_checked(values)


def test_variables_are_texts() -> None:
    assert variables_checked({"EPOCHS": 3, "OMP_NUM_THREADS": "1"}) == {"EPOCHS": "3", "OMP_NUM_THREADS": "1"}


def test_a_clone_is_independent() -> None:
    one = Environment("one", pip_packages=["a"])
    two = one.clone("two")
    two.python.conda_dependencies.add_pip_package("b")
    assert one.python.conda_dependencies.pip_packages == ["a"] and two.name == "two"


def test_from_docker_image(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("timm\n")
    (tmp_path / "c.yml").write_text("dependencies:\n- ffmpeg=7\n")
    registry = ContainerRegistry("r.example.org", "user", "env:PASSWORD")
    spec = Environment.from_docker_image(
        "e", "r.example.org/pets", registry, pip_requirements=tmp_path / "r.txt"
    ).spec()
    assert spec.pip_packages == ("timm",)
    assert spec.image == ImageSpec(
        base="r.example.org/pets", registry=RegistrySpec("r.example.org", "user", "env:PASSWORD")
    )
    spec = Environment.from_docker_image("e", "pets", conda_specification=tmp_path / "c.yml").spec()
    assert spec.conda_packages == ("ffmpeg=7",) and spec.image == ImageSpec(base="pets")
    with pytest.raises(UserErrorException, match="conda_specification and pip_requirements exclude each other"):
        Environment.from_docker_image(
            "e", "pets", conda_specification=tmp_path / "c.yml", pip_requirements=tmp_path / "r.txt"
        )


def test_from_dockerfile_and_build_context(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:3.11\n")
    wanted = ImageSpec(dockerfile="FROM python:3.11\n")
    assert Environment.from_dockerfile("e", tmp_path / "Dockerfile").spec().image == wanted
    assert Environment.from_dockerfile("e", "FROM python:3.11\n").spec().image == wanted
    context = DockerBuildContext.from_local_directory(None, tmp_path)
    spec = Environment.from_docker_build_context("e", context).spec()
    assert spec.image == dataclasses.replace(wanted, context=str(tmp_path))
