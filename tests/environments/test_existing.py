"""Environments that conda has made, found by a program that answers as conda does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trainkit import Environment
from trainkit.errors import UserErrorException


@pytest.fixture
def conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of conda's installation, with the environments pets and (twice) birds; cats has no Python."""
    root = tmp_path / "conda"
    folders = [root, root / "envs" / "pets", root / "envs" / "birds", tmp_path / "birds", root / "envs" / "cats"]
    for folder in folders:
        (folder / "bin").mkdir(parents=True)
        if folder.name != "cats":
            (folder / "bin" / "python").symlink_to(sys.executable)
    listed = json.dumps({"envs": [str(folder) for folder in folders]})
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "conda"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'env list --json' ] && echo '{listed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return root


def test_its_python_is_the_jobs(conda: Path) -> None:
    for name, folder in (("pets", conda / "envs" / "pets"), ("base", conda)):
        made = Environment.from_existing_conda_environment("e", name)
        assert made.spec().interpreter == str(folder / "bin" / "python") and made.spec().is_plain


@pytest.mark.parametrize(
    ("name", "words"),
    [("dogs", "has base, birds, cats, pets"), ("birds", "lists .* and "), ("cats", "has no Python")],
)
def test_what_cannot_be_found_is_told(conda: Path, name: str, words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        Environment.from_existing_conda_environment("e", name)


def test_without_conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserErrorException, match="neither micromamba, mamba nor conda is on the PATH"):
        Environment.from_existing_conda_environment("e", "pets")
