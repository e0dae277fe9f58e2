"""Environments built ahead of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.prepare.conftest import Shelf
from trainkit import Environment
from trainkit.errors import EnvironmentBuildError, UnsupportedJob
from trainkit.workspace import Workspace


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Packages to install."""
    return Shelf(tmp_path / "shelf")


def test_a_job_finds_what_was_built(workspace: Workspace, shelf: Shelf, capsys: Any) -> None:
    shelf.build("tk_built", "1.0")
    made = Environment("e", pip_packages=[*shelf.options, "tk-built"])
    details = made.register(workspace).build(workspace)
    details.wait_for_completion(show_output=True)
    assert details.status == "Succeeded" and "building environment" in details.log
    assert "built environment" in capsys.readouterr().out
    again = made.build_local(workspace, useDocker=False)
    again.wait_for_completion(show_output=True)
    assert "reused environment" in capsys.readouterr().out


def test_a_build_that_fails_says_why(workspace: Workspace, shelf: Shelf) -> None:
    details = Environment("e", pip_packages=[*shelf.options, "tk-absent"]).build(workspace)
    with pytest.raises(EnvironmentBuildError, match="tk-absent"):
        details.wait_for_completion(show_output=False)
    assert details.status == "Failed"
    assert [p for p in (workspace.root / "envs").iterdir() if not p.name.startswith(".")] == []


def test_what_no_job_could_use_is_not_begun(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedJob, match="nothing says of which image"):
        Environment("e").build_local(workspace, useDocker=True)
    made = Environment.from_docker_image("e", "python:3.11")
    with pytest.raises(UnsupportedJob, match="use_docker=False asks for no container"):
        made.build_local(workspace, useDocker=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedJob, match="no engine answers here"):
        made.build(workspace)
