"""Images are really fetched, built and looked into, by both engines, from real registries."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import registries
from tests.engines.containers import Engine
from tests.engines.registries import Registry
from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError
from trainkit.imagespec import ImageSpec, RegistrySpec
from trainkit.prepare import Prepared, inventory, prepare
from trainkit.prepare.tags import name_of

pytestmark = pytest.mark.engine
DEADLINE_SECONDS = 90.0
PASSWORD = "s3cr3t-of-the-tests-" + uuid.uuid4().hex[:8]
ENGINES = ["docker", "podman"]
WITH_PIP = """
ARG BASE=trainkit-small
FROM localhost/${BASE}:1 AS files
FROM localhost/trainkit-small:1
COPY --from=files /etc/debian_version /copied
COPY *.whl /opt/wheels/
RUN ["python", "-c", "import glob, sys; w = glob.glob('/opt/wheels/*')[0]; sys.path.insert(0, w); \\
from pip._internal.cli.main import main; sys.exit(main(['install', '--no-index', '--break-system-packages', w]))"]
"""
RUNS_CODE = "sys.argv = ['-c', *sys.argv[4:]]\nexec(code)\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with TLS and a password."""
    reason = registries.missing()
    if reason:
        pytest.skip(reason)
    with Registry(tmp_path_factory.mktemp("registry"), PASSWORD) as registry:
        yield registry


class Preparing:
    """Prepares images in a store of its own, by one engine."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.envs, self.log = folder / "envs", folder / "prepare.log"
        self.made: set[str] = set()

    def __call__(
        self,
        base: str = "",
        *,
        registry: RegistrySpec | None = None,
        password: str = "",
        dockerfile: str = "",
        context: Path | str = "",
        share: bool = False,
        cancelled: Callable[[], bool] | None = None,
        **values: Any,
    ) -> Prepared:
        image = ImageSpec(self.engine.program, base, dockerfile, str(context), registry)
        spec = EnvironmentSpec("tests", values.pop("interpreter", "python"), image=image, **values)
        return prepare(spec, self.envs, self.log, cancelled, password, share)

    def told(self) -> str:
        """What the log has since the last call."""
        text = self.log.read_text()
        self.log.write_text("")
        return text

    def clear(self) -> None:
        """Take from the engine what was made for these tests."""
        for path in self.envs.glob("*/ready.json"):
            for tag in json.loads(path.read_text()).get("tags", []):
                self.engine.run("image", "rm", tag, code=None)


@pytest.fixture(params=ENGINES)
def preparing(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Preparing]:
    engine = request.getfixturevalue(str(request.param))
    monkeypatch.setenv("HOME", str(tmp_path))
    one = Preparing(engine, tmp_path)
    yield one
    one.clear()


@pytest.fixture
def docker_preparing(docker: Engine, tmp_path: Path) -> Iterator[Preparing]:
    one = Preparing(docker, tmp_path)
    yield one
    one.clear()


@pytest.fixture
def podman_preparing(podman: Engine, tmp_path: Path) -> Iterator[Preparing]:
    one = Preparing(podman, tmp_path)
    yield one
    one.clear()


def refused(preparing: Preparing, *words: Any, **values: Any) -> str:
    """The verdict; nothing of the environment is left."""
    with pytest.raises(EnvironmentBuildError) as caught:
        preparing(*words, **values)
    return caught.value.message


def test_an_image_of_a_private_registry_from_its_first_fetch_to_the_registrys_end(
    preparing: Preparing, registry: Registry
) -> None:
    registry.trusted_by(preparing.folder)
    path = f"lab/{uuid.uuid4().hex[:8]}"
    name, user = registry.name(f"{path}:latest"), RegistrySpec(registry.address, registry.username)
    assert "has no image" in refused(preparing, name, registry=user, password=PASSWORD)
    first = registry.serve(f"{path}:latest", "first")
    wrong = refused(preparing, name, registry=user, password="wrong")
    assert f"refuses the image {name} to the user 'somebody': the password is wrong" in wrong
    assert "given by value" in refused(preparing, name, registry=user)

    prepared = preparing(f"{path}:latest", registry=user, password=PASSWORD)
    container = prepared.container
    assert container is not None and not prepared.reused and prepared.needs_boot
    assert (container.name, container.interpreter, prepared.interpreter) == (
        f"{path}:latest", "/usr/bin/python", sys.executable
    )  # fmt: skip
    assert f"({registry.name(path)}@{first})" in preparing.told()
    assert [base["digest"] for base in prepared.bases] == [f"{registry.name(path)}@{first}"]
    again = preparing(name, registry=user, password=PASSWORD)
    assert again.reused and again.digest == prepared.digest and "reused image" in again.words
    assert "is unchanged in its registry" in preparing.told()

    second = registry.serve(f"{path}:latest", "second")
    moved = preparing(name, registry=user, password=PASSWORD)
    assert moved.container is not None and moved.container.image != container.image
    log = preparing.told()
    assert "has moved in its registry, from" in log and second in log

    registry.stop()
    try:
        local = preparing(name, registry=user, password=PASSWORD)
        assert local.container == moved.container and local.reused
        log = preparing.told()
        assert "is as it was fetched before" in log and "cannot be reached now" in log and second in log
        assert "cannot be reached" in refused(preparing, registry.name("lab/other:1"), registry=user, password=PASSWORD)
    finally:
        registry.start()
    assert "the password is wrong" in refused(preparing, name, registry=user, password="wrong")
    preparing.engine.run("image", "rm", "--force", moved.container.image, container.image, code=None)


def test_a_password_is_in_no_file_command_or_variable_while_it_is_used(
    preparing: Preparing, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.trusted_by(preparing.folder)
    monkeypatch.setenv("TMPDIR", str(preparing.folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    image = f"lab/{uuid.uuid4().hex[:8]}:1"
    registry.serve(image)
    user = RegistrySpec(registry.address, registry.username)
    found: list[Prepared] = []
    registry.hold()
    thread = threading.Thread(target=lambda: found.append(preparing(image, registry=user, password=PASSWORD)))
    thread.start()
    try:
        pulls = _waited(lambda: [pid for pid in _pids() if "pull" in (words := _words(pid)) and image in words[-1]])
        seen = [Path(f"/proc/{pid}/{name}") for pid in _pids() for name in ("cmdline", "environ")]
        seen += [path for path in preparing.folder.rglob("*") if path.is_file()]
        assert Path(f"/proc/{pulls[0]}/cmdline") in seen and preparing.log in seen
        assert [path for path in seen if PASSWORD.encode() in _bytes(path)] == []
    finally:
        registry.release()
        thread.join(DEADLINE_SECONDS)
    assert found and found[0].container is not None
    assert PASSWORD not in repr(found) + preparing.told()
    assert not glob.glob(f"{preparing.folder}/trainkit-docker-*")
    preparing.engine.run("image", "rm", "--force", found[0].container.image, code=None)


def test_a_registry_that_says_nothing_is_waited_for_a_moment_only(
    podman_preparing: Preparing, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(podman_preparing.folder))
    registry.trusted_by(podman_preparing.folder)
    image, user = f"lab/{uuid.uuid4().hex[:8]}:1", RegistrySpec(registry.address, registry.username)
    registry.serve(image)
    container = podman_preparing(image, registry=user, password=PASSWORD).container
    assert container is not None
    registry.hold()
    try:
        assert podman_preparing(image, registry=user, password=PASSWORD).container == container
    finally:
        registry.release()
    assert "cannot be reached now (it did not answer within" in podman_preparing.told()
    podman_preparing.engine.run("image", "rm", "--force", container.image, code=None)


def test_a_password_by_reference_comes_from_where_it_is(
    docker_preparing: Preparing, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = f"lab/{uuid.uuid4().hex[:8]}:1"
    registry.serve(image)
    user = RegistrySpec(registry.address, registry.username, "env:LAB_PASSWORD")
    assert "LAB_PASSWORD, which is not set" in refused(docker_preparing, image, registry=user)
    monkeypatch.setenv("LAB_PASSWORD", PASSWORD)
    container = docker_preparing(image, registry=user).container
    assert container is not None
    keyring = RegistrySpec(registry.address, registry.username, "keyring:lab")
    assert "keyring's service 'lab'" in refused(docker_preparing, image, registry=keyring)
    docker_preparing.engine.run("image", "rm", "--force", container.image, code=None)


def test_packages_are_installed_by_the_images_own_pip_and_the_image_goes_into_a_file(
    preparing: Preparing, shelf: Any, pip_wheel: Path
) -> None:
    shelf.build("lite", "1.0")
    context = preparing.folder / "context"
    context.mkdir()
    (context / pip_wheel.name).write_bytes(pip_wheel.read_bytes())
    asked: dict[str, Any] = {"dockerfile": WITH_PIP, "context": context}
    packages = (*shelf.options, "lite==1.0")
    one = preparing(pip_packages=packages, share=True, **asked)
    assert one.container is not None and not one.reused and one.words.startswith("built image ")
    version = "import lite; print(lite.version)"
    run = ["run", "--rm", "--pull=never", "--network=none", one.container.image, one.container.interpreter]
    assert preparing.engine.run(*run, "-c", version).stdout == "1.0\n"
    archive = Path(one.container.archive)
    assert archive.stat().st_size > 1_000_000 and archive.stat().st_mode & 0o777 == 0o600
    again = preparing(pip_packages=packages, share=True, **asked)
    assert again.reused and again.container == one.container and again.words.startswith("reused image ")
    assert "building image" in preparing.told()
    preparing.engine.run("image", "rm", "--force", one.container.image)
    (archive.parent / ".saving").mkdir()
    (archive.parent / ".saving" / "of-a-killed-driver").touch()
    loaded = preparing(pip_packages=packages, share=True, **asked)  # other runs still read the file
    assert loaded.reused and loaded.container == one.container and preparing.engine.has(one.container.image)
    assert "loading image" in preparing.told()
    archive.unlink()
    saved = preparing(pip_packages=packages, share=True, **asked)
    assert saved.container == one.container and archive.exists() and not (archive.parent / ".saving").exists()
    assert preparing.told().count("building image") == 0
    bad = refused(preparing, pip_packages=(*shelf.options, "lite==3.0"), **asked)
    assert "pip could not install the packages" in bad and "No matching distribution found for lite==3.0" in bad
    assert f"{one.digest} was built for the same, but changed since: pip packages" in preparing.told()
    both = sorted(inventory.entries(preparing.folder), key=lambda entry: entry.kind)
    assert [entry.kind for entry in both] == ["dockerfile", "packages"]
    for entry in both if preparing.engine.program == "docker" else reversed(both):  # in either order
        assert inventory.remove(preparing.folder, entry) == ""
    assert named(preparing) == [] and preparing.engine.has(preparing.engine.small)


def test_what_a_builder_sees_decides_whether_it_builds_again(preparing: Preparing) -> None:
    context = preparing.folder / "context"
    context.mkdir()
    (context / "seen").write_text("one")
    (context / ".dockerignore").write_text("# notes\nnotes\n")
    asked: dict[str, Any] = {"dockerfile": f"FROM {preparing.engine.small}\nCOPY . /all\n", "context": context}
    one = preparing(**asked)
    (context / "notes").write_text("not seen by the builder")
    assert preparing(**asked).container == one.container
    (context / "seen").write_text("two")
    two = preparing(**asked)
    assert two.container is not None and two.container != one.container
    assert f"{one.digest} was built for the same, but changed since: build context" in preparing.told()
    run = ["run", "--rm", "--pull=never", "--network=none", two.container.image, "sh", "-c", "cat /all/seen; ls /all"]
    assert preparing.engine.run(*run).stdout == "twoseen\n"
    preparing.engine.run("image", "rm", "--force", two.container.image)
    assert not preparing(**asked).reused  # its image is gone
    assert f"has the image {two.digest} no longer" in preparing.told()


def named(preparing: Preparing) -> list[str]:
    """The names that trainkit has given to images of a store."""
    place = name_of(preparing.envs / "x").removeprefix("localhost/trainkit:x")
    images = preparing.engine.run("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    return [image for image in images if image.startswith("localhost/trainkit:") and place in image]


def test_what_an_image_lacks_is_said_in_a_sentence(preparing: Preparing) -> None:
    small = preparing.engine.small
    assert "has no Python 3.8 or later that runs as nowhere" in refused(preparing, small, interpreter="nowhere")
    assert "has no pip" in refused(preparing, small, pip_packages=("lite",))
    assert "is not conda's" in refused(preparing, small, conda_packages=("numpy",))
    assert "Python 3.7 was asked for" in refused(preparing, small, python_version="3.7")
    assert preparing(small, python_version="3.11").container is not None
    (preparing.folder / "old").mkdir()
    old = preparing.folder / "old" / "oldpython"
    old.write_text("#!/usr/bin/python\nimport sys\nsys.version_info, code = (3, 7, 16), sys.argv[3]\n" + RUNS_CODE)
    old.chmod(0o755)
    aged: dict[str, Any] = {"dockerfile": f"FROM {small}\nCOPY oldpython /usr/bin/\n", "context": old.parent}
    verdict = refused(preparing, interpreter="oldpython", **aged)
    assert "has Python 3.7.16 as oldpython, but a job needs Python 3.8 or later" in verdict
    nameless = f"trainkit-nowhere-{uuid.uuid4().hex[:8]}"
    assert "There is no image" in refused(preparing, f"localhost/{nameless}:1")
    assert f"the image {nameless}:1" in refused(preparing, f"{nameless}:1").replace("has no", "the")
    assert "is no name of an image" in refused(preparing, "No Name")
    # podman without its own isolation loses, now and then, what a step prints in its last moment
    failing = f"FROM {small}\nRUN echo one\nRUN echo two; sleep 0.3; echo 'no such thing' >&2; sleep 0.3; exit 3\n"
    verdict = refused(preparing, dockerfile=failing)
    assert "step 3 of 3" in verdict and verdict.endswith("failed with exit status 3: two | no such thing.")
    assert "There is no build context" in refused(preparing, dockerfile=f"FROM {small}\nCOPY a /b\n")
    assert "has no value there" in refused(preparing, dockerfile="FROM $IMAGE\n")
    assert list(preparing.envs.glob("*/ready.json"))
    assert named(preparing) == []


def test_an_image_of_docker_hub_has_the_same_short_name_for_every_engine(preparing: Preparing) -> None:
    prepared = preparing("python:3.11-slim")
    assert prepared.container is not None and prepared.container.interpreter == "/usr/bin/python"
    assert "python@sha256:" in preparing.told()


def test_builders_at_the_same_time_build_once(docker_preparing: Preparing) -> None:
    text = f"FROM {docker_preparing.engine.small}\nRUN sleep 1; echo {uuid.uuid4()} > /made\n"
    found: list[Prepared] = []
    threads = [threading.Thread(target=lambda: found.append(docker_preparing(dockerfile=text))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert sorted(one.reused for one in found) == [False, True, True]
    assert len({one.container for one in found}) == 1
    assert "waits for another process" in docker_preparing.told()


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_a_build_that_ends_early_leaves_nothing(podman_preparing: Preparing, how: str, tmp_path: Path) -> None:
    seconds = str(4_000_000 + int(uuid.uuid4().hex[:5], 16))
    text = f"FROM {podman_preparing.engine.small}\nRUN sleep {seconds}; echo done\nRUN sleep {seconds}\n"
    external = ["ps", "--all", "--external", "--format", "{{.ID}}"]
    before = set(podman_preparing.engine.run(*external).stdout.split())
    script = (
        "import sys; from pathlib import Path; from trainkit.environment import EnvironmentSpec;"
        "from trainkit.imagespec import ImageSpec; from trainkit.prepare import prepare;"
        "text, folder = sys.argv[1], Path(sys.argv[2]);"
        "spec = EnvironmentSpec('x', 'python', image=ImageSpec('podman', dockerfile=text));"
        "prepare(spec, folder / 'envs', folder / 'log', (folder / 'cancel').exists)"
    )
    builder = subprocess.Popen(
        [sys.executable, "-c", script, text, str(tmp_path)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    sleeping = _waited(lambda: [pid for pid in _pids() if _words(pid) == ["sleep", seconds]])
    if how == "killed":
        builder.send_signal(signal.SIGKILL)
    else:
        (tmp_path / "cancel").touch()
    _, said = builder.communicate(timeout=DEADLINE_SECONDS)
    assert how == "killed" or "Building the environment was cancelled" in said
    _waited(lambda: not any(_words(pid) == ["sleep", seconds] for pid in [*sleeping, *_pids()]))
    _waited(lambda: set(podman_preparing.engine.run(*external).stdout.split()) <= before)
    assert not list(tmp_path.glob("envs/*/ready.json"))
    if how == "killed":
        assert named(podman_preparing)
        _waited(lambda: _forgotten(podman_preparing, tmp_path))  # what clears up after the builder has its lock a while
    assert named(podman_preparing) == [] and not list(tmp_path.glob("envs/[!.]*"))
    assert podman_preparing.engine.has(podman_preparing.engine.small)


def _forgotten(preparing: Preparing, root: Path) -> bool:
    inventory.remove_unfinished(root, time.time())
    return not named(preparing)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _words(pid: int) -> list[str]:
    return _bytes(Path(f"/proc/{pid}/cmdline")).decode(errors="replace").split("\0")[:-1]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is another's
        return b""


def _waited(condition: Callable[[], Any]) -> Any:
    """What a condition comes to, once it holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)
    return value
