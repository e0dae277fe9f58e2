"""Images of a private registry with TLS and a password: pushed, fetched, moved, refused, out of reach, by each engine.

The password is given by value, and looked for, while the engine waits for the registry's answer and afterwards, in the
command line and environment of every process and in every file that anything here may have written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import registries
from tests.engines.containers import Engine
from tests.engines.registries import Registry
from trainkit import Environment, Experiment, ScriptRunConfig
from trainkit.boot.rundir import RunDir
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare import Prepared, prepare
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
    names = found.run("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").stdout.splitlines()
    images = {line.split()[1] for line in names if registry.address in line}
    if images:
        found.run("rmi", "--force", *images)


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


def prepared(wanted: Environment, folder: Path) -> Prepared:
    """What the driver of a job would prepare; the log is `folder`/log."""
    return prepare(wanted.spec(), folder / "envs", folder / "log", password=wanted.password())


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
    workspace: Any, engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    digest = registry.serve("lab/pets:1", edition="first")
    image = registry.name("lab/pets:1")
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
    assert run.get_metrics() == {"edition": "first"}
    prepared_as = json.loads(RunDir(run.directory).environment.read_text())["digest"]
    entry = json.loads((workspace.root / "envs" / prepared_as / "ready.json").read_text())
    assert entry["bases"][0]["digest"] == image.replace(":1", f"@{digest}")
    assert leaks(tmp_path) == []


def test_what_becomes_of_a_tag_and_of_its_registry(
    engine: Engine, registry: Registry, workspace: Any, tmp_path: Path
) -> None:
    image = registry.name("lab/pets:1")
    wanted, log = environment(registry, engine, image), tmp_path / "log"
    with pytest.raises(EnvironmentBuildError, match="has no image .*lab/pets:1: check the name and its tag"):
        prepared(wanted, tmp_path)
    registry.serve("lab/pets:1", edition="first")
    with pytest.raises(EnvironmentBuildError, match="to the user 'somebody': the password is wrong") as refused:
        prepared(environment(registry, engine, image, "a-wrong-password"), tmp_path)
    assert "a-wrong-password" not in str(refused.value) + log.read_text()
    first = prepared(wanted, tmp_path)
    again = prepared(wanted, tmp_path)
    assert again.reused and again.container == first.container and "is unchanged" in log.read_text()
    registry.serve("lab/pets:1", edition="second")
    moved = prepared(wanted, tmp_path)
    assert first.container and moved.container and first.container.image != moved.container.image
    assert "has moved in its registry" in log.read_text()
    registry.stop()
    assert prepared(wanted, tmp_path).container == moved.container
    assert "is as it was fetched before" in log.read_text()
    with pytest.raises(EnvironmentBuildError, match=rf"registry {registry.address} .* cannot be reached .* not here"):
        prepared(environment(registry, engine, registry.name("lab/other:1")), tmp_path)
    assert leaks(tmp_path) == []


def test_an_image_that_one_engine_has_pushed_is_there_for_the_other(
    docker: Engine, podman: Engine, registry: Registry, tmp_path: Path
) -> None:
    registry.serve("lab/pushed:base")  # so that the push has only what is on top of it to send
    (tmp_path / "Dockerfile").write_text(f"FROM {docker.small}\nENV EDITION=pushed\n")
    for one, other in ((docker, podman), (podman, docker)):
        one.run("build", "--quiet", "--tag", f"localhost/pushed-by-{one.program}:1", str(tmp_path))
        name = registry.push(one, f"localhost/pushed-by-{one.program}:1", f"lab/pushed:{one.program}")
        made = prepared(environment(registry, other, name), tmp_path).container
        assert made is not None
        told = other.run("run", "--rm", "--network=none", made.image, "sh", "-c", "echo $EDITION").stdout
        assert told == "pushed\n"
        one.run("rmi", "--force", f"localhost/pushed-by-{one.program}:1", name)
        other.run("rmi", "--force", name)
    assert leaks(tmp_path / "home") == []
