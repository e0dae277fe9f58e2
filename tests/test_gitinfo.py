"""What git says of a source directory."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from trainkit import gitinfo

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(top: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *settings, "-C", str(top), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "remote", "add", "origin", "https://me:secret@example.org/birds.git")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text("1")
    assert gitinfo.read(tmp_path / "src") == {
        "uri": "https://example.org/birds.git", "branch": "main", "commit": "", "dirty": True,
    }  # fmt: skip
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    clean = gitinfo.read(tmp_path / "src")
    assert (clean["commit"], clean["dirty"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "elsewhere").write_text("not in the source")
    assert gitinfo.read(tmp_path / "src") == clean
    (tmp_path / "src/new.py").write_text("not in the commit")
    assert gitinfo.read(tmp_path / "src")["dirty"] is True
    git(tmp_path, "checkout", "-q", "--detach")
    assert gitinfo.read(tmp_path / "src")["branch"] == ""


def test_no_repository(tmp_path: Path) -> None:
    assert gitinfo.read(tmp_path) == {}
    assert gitinfo.read(tmp_path / "missing") == {}


def test_a_hostile_repository_runs_nothing(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(program))
    assert gitinfo.read(tmp_path)["commit"] == ""
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("https://user:token@host/a/b.git", "https://host/a/b.git"),
        ("https://token@host/a@b.git", "https://host/a@b.git"),
        ("https://host/a.git", "https://host/a.git"),
        ("git@host:a/b.git", "git@host:a/b.git"),
        ("/srv/a.git", "/srv/a.git"),
        ("", ""),
    ],
)
def test_passwords_are_not_kept(uri: str, clean: str) -> None:
    assert gitinfo.without_credentials(uri) == clean
