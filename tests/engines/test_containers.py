"""The tests' own container engines: both run the shared image, pull by the names of Docker Hub, and build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.containers import Engine
from tests.engines.rootless import Rootless

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_an_engine_runs_pulls_and_builds(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engine: Engine = request.getfixturevalue(name)
    told = engine.run("run", "--rm", "--network=host", engine.small, "python", "-c", "import ssl; print('here')")
    assert told.stdout == "here\n"
    engine.run("pull", "python:3.11-slim")
    (tmp_path / "Dockerfile").write_text("FROM python:3.11-slim\nRUN python -c 'print(6 * 7)' >/answer\n")
    tag = f"localhost/trainkit-tests-{name}:1"
    engine.run("build", "-q", "-t", tag, str(tmp_path))
    assert engine.run("run", "--rm", "--network=host", tag, "cat", "/answer").stdout == "42\n"
    engine.run("rmi", tag)
    assert engine.run("run", "--rm", "--network=host", engine.small, "sh", "-c", "exit 7", code=7)


def test_a_user_who_is_not_root_runs_containers_under_the_own_id(rootless: Rootless) -> None:
    words = ["run", "--rm", "--network=host", "--userns=keep-id", f"--volume={rootless.home}:{rootless.home}"]
    script = f"import os; open('{rootless.home}/made', 'w').close(); print(os.getuid())"
    assert rootless.run("podman", *words, rootless.small, "python", "-c", script).stdout == f"{rootless.uid}\n"
    assert (rootless.home / "made").stat().st_uid == rootless.uid
