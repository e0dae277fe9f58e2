"""`trainkit env`: what was built is listed, shown, built ahead and removed, but never under a run that uses it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.containers import Engine
from tests.prepare.conftest import Shelf
from trainkit import Environment, Workspace
from trainkit.cli import codes
from trainkit.testing import wait_until

Run = Callable[..., tuple[int, str, str]]
DEADLINE_SECONDS = 60.0


@pytest.fixture
def cli(workspace: Any, command_line: Run) -> Run:
    """The command line, in a workspace of its own."""
    return command_line


@pytest.fixture
def packages(tmp_path: Path) -> list[str]:
    """The words that ask for one small package."""
    shelf = Shelf(tmp_path / "shelf")
    shelf.build("lite", "1.0")
    Path("packages.txt").write_text("\n".join([*shelf.options, "lite"]))
    return ["--env-file", "packages.txt"]


def test_an_environment_is_built_listed_used_and_removed(cli: Run, packages: list[str]) -> None:
    assert cli("env")[1] == "No environments.\n"
    code, out, err = cli("env", "build", *packages)
    digest = out.strip()
    assert code == codes.DONE and re.fullmatch("[0-9a-f]{16}", digest), err
    assert f"built environment {digest}" in err
    again = json.loads(cli("env", "build", *packages, "--json")[1])
    assert (again["digest"], again["reused"], again["image"]) == (digest, True, None)
    Environment.from_pip_requirements("known", "packages.txt").register(Workspace.from_config())
    assert cli("env", "build", "known")[1].strip() == cli("env", "build", "known:1")[1].strip() == digest
    (listed,) = json.loads(cli("env", "list", "--json")[1])
    assert (listed["digest"], listed["name"], listed["kind"], listed["runs"]) == (digest, "packages", "venv", [])
    assert listed["bytes"] > 1000 and listed["used"] <= time.time()
    line = cli("env")[1].splitlines()[1].split()
    assert line[:4] == [digest, "packages", "venv", "-"]
    shown = cli("env", "show", digest[:6])[1]
    assert "of pip packages" in shown and "lite" in shown
    assert json.loads(cli("env", "show", "packages", "--json")[1])["path"].endswith(f"envs/{digest}")

    Path("train.py").write_text("import lite, os, time\nwhile not os.path.exists('../go'): time.sleep(0.02)\n")
    run = json.loads(cli("submit", "train.py", *packages, "--json")[1])
    directory = Path(run["directory"])
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (directory / "environment.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert json.loads(cli("env", "--json")[1])[0]["runs"] == [run["id"]]
    code, out, _ = cli("env", "prune", digest)
    assert code == codes.USAGE and f"{digest} stays: the run {run['id']} uses it" in out
    assert cli("env", "prune", "--older-than", "0d")[1].startswith("Removed 0 environment(s).\n")
    (directory / "go").touch()
    assert cli("wait", run["id"])[0] == codes.DONE

    assert cli("env", "prune", "--older-than", "1d")[1] == "Removed 0 environment(s).\n"
    record = next(Path(".trainkit/envs").glob("*/ready.json"))
    os.utime(record, (1, 1))
    assert cli("env", "prune", "--older-than", "1d", "--dry-run")[1] == f"Would remove 1 environment(s): {digest}.\n"
    assert cli("env", "build", *packages)[1].strip() == digest  # which counts as a use
    assert cli("env", "prune", "--older-than", "1d")[1] == "Removed 0 environment(s).\n"
    half = record.parent.with_name("0123456789abcdef")
    half.mkdir()
    os.utime(half, (1, 1))
    assert cli("env", "prune", "--older-than", "1d")[0] == codes.DONE and not half.exists()
    assert cli("env", "prune", "packages")[1] == f"Removed 1 environment(s): {digest}.\n"
    assert cli("env", "show", digest)[0] == codes.NOT_FOUND and not record.parent.exists()


def test_what_cannot_be_is_said(cli: Run, packages: list[str]) -> None:
    for words, said in [
        (["env", "build"], "Say what to build"),
        (["env", "build", "some", *packages], "leave the other options out"),
        (["env", "prune"], "--older-than 30d"),
        (["env", "prune", "--older-than", "soon"], "a number with d, h, m or s"),
        (["env", "build", "--engine", "docker", "--pip", "x"], "--engine is for"),
    ]:
        code, _, err = cli(*words)
        assert code == codes.USAGE and said in err, (words, err)
    code, _, err = cli("env", "prune", "abc")
    assert code == codes.NOT_FOUND and err.endswith(".trainkit: there are none.\n")
    cli("env", "build", *packages)
    code, _, err = cli("env", "show", "some:thing")
    assert code == codes.NOT_FOUND and "no environment 'some:thing' in" in err and "there are packages;" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_interrupted_leaves_nothing(workspace: Any, tmp_path: Path, number: signal.Signals) -> None:
    shelf, begun, temporary = Shelf(tmp_path / "shelf"), tmp_path / "begun", tmp_path / "temporary"
    waits = f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)"
    shelf.source("slow", "1.0", waits)
    Path("packages.txt").write_text("\n".join([*shelf.options, "slow"]))
    temporary.mkdir()
    command = [sys.executable, "-m", "trainkit.cli", "env", "build", "--env-file", "packages.txt"]
    build = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: begun.exists() or build.poll() is not None, DEADLINE_SECONDS, "the build's beginning")
    assert list(temporary.glob("trainkit-build-*"))
    build.send_signal(number)
    _, said = build.communicate(timeout=DEADLINE_SECONDS)
    assert build.returncode == (codes.INTERRUPTED if number == signal.SIGINT else -number), said
    assert list(temporary.iterdir()) == [] and not list(Path(".trainkit/envs").glob("[!.]*"))


@pytest.mark.engine
@pytest.mark.parametrize("name", ["docker", "podman"])
def test_an_image_goes_with_the_names_that_trainkit_gave_it(cli: Run, name: str, request: Any) -> None:
    engine: Engine = request.getfixturevalue(name)
    Path("Dockerfile").write_text(f"FROM {engine.small}\nRUN echo {time.time()} > /made\n")
    words = ["--dockerfile", "Dockerfile", "--engine", name]
    built = json.loads(cli("env", "build", *words, "--json")[1])
    cli("env", "build", "--image", engine.small, "--engine", name)
    listed = {entry["kind"]: entry for entry in json.loads(cli("env", "--json")[1])}
    assert (listed["dockerfile"]["digest"], listed["image"]["name"]) == (built["digest"], engine.small)
    assert listed["dockerfile"]["bytes"] > 10_000_000 and listed["image"]["engine"] == name
    assert engine.has(built["image"])
    shown = json.loads(cli("env", "show", engine.small, "--json")[1])
    assert (shown["digest"], shown["name"]) == (listed["image"]["digest"], engine.small)
    assert len(json.loads(cli("env", "prune", "--older-than", "0s", "--json")[1])["removed"]) == 2
    assert engine.has(engine.small) and not engine.has(built["image"])
    tags = engine.run("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout
    assert f"localhost/trainkit:{built['digest']}" not in tags
