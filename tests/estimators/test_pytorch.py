"""The version of torch that an estimator asks for, against what the job's environment has."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from trainkit import PyTorch
from trainkit.environment import Environment
from trainkit.errors import TrainingException

INSTALLED = version("torch")
MAJOR_MINOR = ".".join(INSTALLED.split(".")[:2])


def pytorch(tmp_path: Path, **options: Any) -> PyTorch:
    return PyTorch(tmp_path, **{"compute_target": "local", "entry_script": "train.py", **options})


@pytest.mark.parametrize("wanted", [None, INSTALLED, INSTALLED.split("+")[0], MAJOR_MINOR, INSTALLED.split(".")[0]])
def test_a_version_that_is_there(tmp_path: Path, wanted: str | None) -> None:
    made = pytorch(tmp_path, framework_version=wanted)
    assert made.framework_version == wanted
    assert made.conda_dependencies.is_empty and made.source_directory == tmp_path


@pytest.mark.parametrize("wanted", ["1.13", MAJOR_MINOR[:-1], "0.4.1", MAJOR_MINOR + "0"])
def test_another_version_is_refused_saying_what_there_is(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(TrainingException) as caught:
        pytorch(tmp_path, framework_version=wanted)
    message = str(caught.value)
    assert message.startswith(f"PyTorch {wanted} is not currently supported by the PyTorch estimator")
    assert f"torch {INSTALLED}" in message and "Leave framework_version out" in message


@pytest.mark.parametrize("wanted", [1.13, "", ("2",)])
def test_a_version_is_a_text(tmp_path: Path, wanted: Any) -> None:
    with pytest.raises(TrainingException, match="framework_version is a text"):
        pytorch(tmp_path, framework_version=wanted)


def test_a_pinned_torch_is_what_the_environment_will_have(tmp_path: Path) -> None:
    pytorch(tmp_path, framework_version="1.13", pip_packages=["torch==1.13.1"])
    pytorch(tmp_path, framework_version="1.13", pip_packages=["torch==1.13.*"])
    with pytest.raises(TrainingException, match=r"asks for torch 1\.12\.0"):
        pytorch(tmp_path, framework_version="1.13", pip_packages=["torch==1.12.0"])
    with pytest.raises(TrainingException, match=r"torch==1\.13\.\*"):
        pytorch(tmp_path, framework_version="1.13", pip_packages=["torch>=1.13"])


def test_an_environment_without_torch(tmp_path: Path) -> None:
    with pytest.raises(TrainingException, match="has no torch"):
        pytorch(tmp_path, framework_version=MAJOR_MINOR, environment_definition=Environment("e", inherit=False))


def test_what_is_supported_is_what_is_installed(tmp_path: Path) -> None:
    assert PyTorch.get_supported_versions() == [INSTALLED]
    assert (PyTorch.DEFAULT_VERSION, PyTorch.FRAMEWORK_NAME) == (INSTALLED, "PyTorch")


def test_a_later_change_is_compared_too(tmp_path: Path) -> None:
    made = pytorch(tmp_path, framework_version=MAJOR_MINOR)
    made.conda_dependencies.add_pip_package("torch==1.0.0")
    with pytest.raises(TrainingException, match=r"torch 1\.0\.0"):
        made.to_script_run_config()


def test_a_warning_names_the_users_line(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="vm_priority") as caught:
        pytorch(tmp_path, vm_priority="lowpriority")
    assert caught[0].filename == __file__


def test_an_images_version_is_known_only_in_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingException, match="cannot be compared with what the image has before it is fetched"):
        pytorch(tmp_path, framework_version=MAJOR_MINOR, custom_docker_image="pytorch/pytorch:latest")
    with pytest.raises(TrainingException, match="cannot be compared with what the image has"):
        pytorch(tmp_path, framework_version=MAJOR_MINOR, use_docker=True)
    pytorch(tmp_path, framework_version="1.13", custom_docker_image="python:3.9", pip_packages=["torch==1.13.1"])
