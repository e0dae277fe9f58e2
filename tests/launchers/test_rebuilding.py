"""Environments that a host lacks: asked for, built and found again by the program that is sent there, run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.prepare.conftest import Shelf
from trainkit.boot.rundir import publish
from trainkit.errors import LaunchError
from trainkit.job import Job
from trainkit.prepare.installer import uv
from trainkit_launchers.remote import rebuilding
from trainkit_launchers.remote.asking import Line
from trainkit_launchers.remote.hosts import parse_hosts

HERE = ("sh", "-c", 'for last; do :; done; exec sh -c "$last"', "ssh")  # in place of ssh: runs the last word here
OLD_SECONDS = 40 * 24 * 3600.0
PYTHON = os.path.realpath(sys.executable)


def job(folder: Path, requirements: str, **values: Any) -> Job:
    """A job whose environment is here by name only: its recipe, and no interpreter."""
    environment = folder / "envs" / "0123456789abcdef"
    recipe = {"python": PYTHON, "uv": uv(), "requirements": requirements, "files": [], "refusal": "", **values}
    publish(environment / "rebuild.json", recipe)
    interpreter = str(environment / "bin" / "python")
    return Job(run_id="r", experiment="e", run_dir=str(folder / "r"), attempt=1, interpreter=interpreter, script="s.py")


def build(folder: Path, wanted: Job) -> None:
    line = Line(HERE, PYTHON, 30.0)
    rebuilding.build(line, parse_hosts(["here"]), wanted, str(folder / "sent"))


def test_it_is_built_once_and_what_is_old_is_removed(tmp_path: Path) -> None:
    wheel = Shelf(tmp_path / "shelf").build("tk_extra", "1.5")
    requirements = "--no-index\n--find-links @WHEELS@\ntk-extra==1.5\n"
    wanted = job(tmp_path, requirements, files=[str(wheel)])
    for name in ("old", "other"):
        (tmp_path / "envs" / name).mkdir()
    rebuilt = tmp_path / "envs/old/rebuilt.json"
    rebuilt.write_text("{}")
    os.utime(rebuilt, (rebuilt.stat().st_mtime - OLD_SECONDS,) * 2)
    programs = tmp_path / "sent" / "programs"
    for name in (".build.host.1", ".build.host.2"):
        (programs / name).mkdir(parents=True)
    (programs / "uv-1").write_text("")
    for name in (".build.host.1", "uv-1"):
        os.utime(programs / name, (rebuilt.stat().st_mtime,) * 2)
    build(tmp_path, wanted)
    assert {path.name for path in programs.iterdir()} & {".build.host.1", ".build.host.2", "uv-1"} == {".build.host.2"}
    code = "import tk_extra; print(tk_extra.version)"
    done = subprocess.run([wanted.interpreter, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1.5\n"
    made = Path(wanted.interpreter).stat(follow_symlinks=False).st_ino
    build(tmp_path, job(tmp_path, requirements, files=[str(wheel)]))
    assert Path(wanted.interpreter).stat(follow_symlinks=False).st_ino == made
    assert sorted(path.name for path in (tmp_path / "envs").iterdir() if path.name[0] != ".") == [
        "0123456789abcdef", "other",
    ]  # fmt: skip
    assert list(programs.glob("*build*")) == [programs / ".build.host.2"]


@pytest.mark.parametrize(
    ("requirements", "values", "words"),
    [
        ("--no-index\ntk-absent==1\n", {}, ["here has not got", "it cannot be built there", "tk-absent"]),
        ("", {"python": "/nowhere/python3"}, ["it has no /nowhere/python3", "Install it there"]),
        ("", {"refusal": "tk is a folder"}, ["here lacks the job's environment", "tk is a folder"]),
    ],
    ids=["what cannot be installed", "no such Python", "what cannot travel"],
)
def test_a_host_that_cannot_have_it_is_named(
    tmp_path: Path, requirements: str, values: dict[str, str], words: list[str]
) -> None:
    wanted = job(tmp_path, requirements, **values)
    with pytest.raises(LaunchError) as caught:
        build(tmp_path, wanted)
    for word in words:
        assert word in caught.value.message
    assert not Path(wanted.interpreter).exists()


def test_a_place_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    """The recipe lies on this machine, the host has a file in the way of the folder."""
    wanted = job(tmp_path, "")
    recipe = rebuilding.recipe_of(wanted.interpreter)
    assert recipe is not None
    (tmp_path / "file").write_text("")
    away = {"act": "build", "environment": str(tmp_path / "file/envs/x"), "python": PYTHON, "requirements": ""}
    asked = {**away, "directory": str(tmp_path / "sent"), "uv": "uv-none", "seconds": 1.0}
    with rebuilding.Archive(asked, lambda file: rebuilding._pack(recipe, "", "", file)) as path:
        (reply,) = rebuilding.send(Line(HERE, PYTHON, 30.0), parse_hosts(["here"]), path)
    assert f"the folder {tmp_path}/file/envs cannot be made there (Not a directory)" in reply.error


def test_an_environment_without_a_recipe_is_left_alone(tmp_path: Path) -> None:
    assert rebuilding.recipe_of(sys.executable) is None
    (tmp_path / "rebuild.json").write_text("{")
    with pytest.raises(LaunchError, match="is damaged"):
        rebuilding.recipe_of(str(tmp_path / "bin/python"))
