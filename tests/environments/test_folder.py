"""Environments as folders that people edit, those of the Azure ML SDK among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainkit import Environment
from trainkit.errors import UserErrorException


def test_a_folder_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = Environment("pets", pip_packages=["timm"], conda_packages=["ffmpeg=7"])
    made.docker.base_dockerfile = "FROM python:3.11\n"
    made.version = "3"
    made.save_to_directory(tmp_path / "a" / "saved")
    folder = tmp_path / "a" / "saved"
    assert sorted(p.name for p in folder.iterdir()) == [
        "BaseDockerfile", "azureml_environment.json", "conda_dependencies.yml",
    ]  # fmt: skip
    assert Environment.load_from_directory(folder) == made
    with pytest.raises(UserErrorException, match="has azureml_environment.json already; give overwrite=True"):
        made.save_to_directory(folder)
    made.docker.base_image = "python:3.12"
    made.save_to_directory(folder, overwrite=True)
    assert not (folder / "BaseDockerfile").exists() and Environment.load_from_directory(folder) == made


def test_edited_files_count(tmp_path: Path) -> None:
    Environment("pets", pip_packages=["timm"]).save_to_directory(tmp_path)
    (tmp_path / "conda_dependencies.yml").write_text("dependencies:\n- pip:\n  - rich\n")
    (tmp_path / "BaseDockerfile").write_text("FROM python:3.11\nRUN true\n")
    spec = Environment.load_from_directory(tmp_path).spec()
    assert spec.pip_packages == ("rich",)
    assert spec.image is not None and spec.image.dockerfile == "FROM python:3.11\nRUN true\n"


def test_conda_files_of_another_name_are_found(tmp_path: Path) -> None:
    values = {"name": "old", "python": {"condaDependenciesFile": "conda.yml", "condaDependencies": None}}
    (tmp_path / "azureml_environment.json").write_text(json.dumps(values))
    (tmp_path / "conda.yml").write_text("dependencies:\n- pip:\n  - rich\n")
    assert Environment.load_from_directory(tmp_path).python.conda_dependencies.pip_packages == ["rich"]


@pytest.mark.parametrize(
    ("text", "words"), [(None, "holds no environment"), ("{", "cannot be read"), ("[]", "no object")]
)
def test_what_is_no_such_folder(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "azureml_environment.json").write_text(text)
    with pytest.raises(UserErrorException, match=words):
        Environment.load_from_directory(tmp_path)
