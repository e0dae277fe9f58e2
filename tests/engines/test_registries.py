"""Jobs in images of a private registry with TLS and a password, which one engine has pushed and the other fetches.

The password is given by value, and looked for, while the engine waits for the registry's answer and afterwards, in the
command line and environment of every process and in every file that anything here may have written.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import registries
from tests.engines.containers import Engine
from tests.engines.registries import Registry
from trainkit import ActivityFailedException, Environment, Experiment, ScriptRunConfig
from trainkit.boot.rundir import RunDir
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
PASSWORD = "kept-where-nobody-looks-77"  # of no other test: their processes are looked at, too
SCRIPT = """
import os
from trainkit import Run
Run.get_context().log("edition", os.environ["EDITION"])
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A running registry that the engines trust; temporary files are where they can be looked through."""
    if registries.missing():
        pytest.skip(registries.missing())
    for name in ("registry", "home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with Registry(tmp_path / "registry", PASSWORD) as running:
        running.trusted_by(tmp_path / "home")
        yield running


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Engine]:
    """Each engine; images of the registry are removed from it at the end."""
    found: Engine = request.getfixturevalue(request.param)
    yield found
    _forget(found, registry)


@pytest.fixture
def other(request: pytest.FixtureRequest, engine: Engine, registry: Registry) -> Iterator[Engine]:
    """The other engine, in the same way."""
    found: Engine = request.getfixturevalue("podman" if engine.program == "docker" else "docker")
    yield found
    _forget(found, registry)


def _forget(engine: Engine, registry: Registry) -> None:
    lines = engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    names = [line for line in lines if registry.address in line or "localhost/pushed-by" in line]
    if names:
        engine.run("rmi", "--force", *names)


def environment(registry: Registry, engine: Engine, image: str, password: str = PASSWORD) -> Environment:
    """The environment of a job that runs an image of the registry."""
    made = Environment("private")
    made.docker.engine = engine.program
    made.docker.base_image = image
    made.docker.base_image_registry.address = registry.address
    made.docker.base_image_registry.username = registry.username
    made.docker.base_image_registry.password = password
    made.python.user_managed_dependencies = True
    return made


def leaks(folder: Path) -> list[str]:
    """Where the password stands: files of `folder`, and of /proc those that say what processes were told."""
    secrets = PASSWORD.encode(), base64.b64encode(f"{Registry.username}:{PASSWORD}".encode())
    told = [path for name in ("cmdline", "environ") for path in Path("/proc").glob(f"[0-9]*/{name}")]
    found = []
    for path in (*folder.rglob("*"), *told):
        try:
            text = path.read_bytes() if path.is_file() else b""
        except OSError:
            continue  # it has just gone
        if any(secret in text for secret in secrets):
            found.append(str(path))
    return found


def asks(program: str, image: str) -> bool:
    """Whether a client of the engine is fetching an image."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().split(b"\0"))
        except OSError:
            pass
    return any(program.encode() in line[0] and b"pull" in line and image.encode() in line for line in lines)


def test_a_job_runs_a_private_image_and_its_password_stays_in_memory(
    workspace: Any, engine: Engine, other: Engine, registry: Registry, tmp_path: Path
) -> None:
    registry.serve("lab/pets:base")  # so that the push has only what is on top of it to send
    (tmp_path / "Dockerfile").write_text(f"FROM {other.small}\nENV EDITION=pushed\n")
    other.run("build", "--quiet", "--tag", f"localhost/pushed-by-{other.program}:1", str(tmp_path))
    image = registry.push(other, f"localhost/pushed-by-{other.program}:1", "lab/pets:latest")
    Path("train.py").write_text(SCRIPT)
    registry.hold()
    config = ScriptRunConfig(".", "train.py", environment=environment(registry, engine, image))
    run = Experiment(workspace, "private").submit(config)
    try:
        wait_until(lambda: asks(engine.program, image), 60, "the fetching of the image")
        assert leaks(tmp_path) == []
    finally:
        registry.release()
    run.wait_for_completion()
    assert run.get_metrics() == {"edition": "pushed"}
    prepared_as = json.loads(RunDir(run.directory).environment.read_text())["digest"]
    entry = json.loads((workspace.root / "envs" / prepared_as / "ready.json").read_text())
    assert re.fullmatch(rf"{registry.name('lab/pets')}@sha256:[0-9a-f]{{64}}", entry["bases"][0]["digest"])
    assert leaks(tmp_path) == []


def test_a_wrong_password_fails_the_job_in_preparing_and_says_so(
    workspace: Any, docker: Engine, registry: Registry, tmp_path: Path
) -> None:
    registry.serve("lab/pets:latest")
    wanted = environment(registry, docker, registry.name("lab/pets:latest"), "a-wrong-password")
    Path("train.py").write_text(SCRIPT)
    run = Experiment(workspace, "private").submit(ScriptRunConfig(".", "train.py", environment=wanted))
    with pytest.raises(ActivityFailedException, match="to the user 'somebody': the password is wrong") as failed:
        run.wait_for_completion(show_output=True)
    assert failed.value.verdict["stage"] == "Preparing"
    assert not any(b"a-wrong-password" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
