"""Real container engines for tests: a dockerd and a podman of the tests' own, with images and a registry.

A test takes the fixture `docker` or `podman` (both can be taken; tests/conftest.py has them for every folder):

    def test_it(docker: Engine) -> None:
        docker.run("run", "--rm", "--pull=never", docker.small, "python", "-c", "print(1)")

While the test runs, the engine's variables are in this process's environment, so that what trainkit starts finds it as
a user's would: `docker` or `podman` on the PATH with no flag of its own. The other engine does not answer then, unless
its fixture is taken too. `engine.small` is an image with Python 3.11 and nothing else; its name is there already.
`fastdotai/fastai2:latest` and `python:3.11-slim` come from `engine.mirror`, a registry on loopback that both engines
ask instead of Docker Hub: `engine.run("pull", ...)` and `FROM` find them. The first of them has torch and fastai.

All test processes of the machine share one dockerd and one podman store (container_keeper.py): give containers and
images names of their own, and remove what you make. The images are made by scripts/containers, once, and stay in the
engines' stores; all else that tests leave there goes when the last test session ends. `missing()` says what is not
here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines import container_keeper

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = "localhost/trainkit-small:1"
TRAINING = "fastdotai/fastai2:latest"  # as the registry on loopback has it
PROGRAMS = ("docker", "dockerd", "podman", "buildah", "runc", "docker-registry", "setpriv")
END_SECONDS = 60.0
_VARIABLES = (
    "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF",
    "BUILDAH_ISOLATION", "REGISTRY_AUTH_FILE",
)  # fmt: skip


def _cache() -> Path:
    """trainkit's folder of caches, as the scripts find it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TRAINKIT_CACHE") or Path(base) / "trainkit")


CACHE = _cache()  # whatever home a test sets later


def _release() -> str:
    found = re.search(r"^release=(\d+)", (CHECKOUT / "scripts/containers").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "scripts/containers has a release"
    return found[1]


def images() -> Path:
    """Where scripts/containers keeps its images."""
    return CACHE / f"images-{_release()}"


def services_folder() -> Path:
    """Where the tests' engines keep their images and locks."""
    folder = CACHE / f"containers-{_release()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def missing(image: str = "small") -> str:
    """Why no test can run containers of an image ("small" or "training") here; "" where they can."""
    if os.getuid() != 0:
        return "the tests' dockerd needs root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"containers need {', '.join(absent)}; scripts/containers installs them"
    if not (images() / f"{image}.done").exists():
        return f"the image {image!r} is not made; scripts/containers makes it"
    return ""


@dataclass(frozen=True)
class Engine:
    """One engine as tests use it; `variables` are what its client needs in the environment."""

    program: str
    variables: Mapping[str, str]
    mirror: str  # HOST:PORT of the registry that stands for Docker Hub
    small: str = SMALL

    def run(
        self, *words: str, code: int | None = 0, stdin: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """One command of the engine's; asserts its exit code, unless that is None."""
        done = subprocess.run(
            [self.program, *words],
            input=stdin, capture_output=True, text=True, timeout=timeout, env={**os.environ, **self.variables},
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def has(self, image: str) -> bool:
        """Whether the engine has an image of this name."""
        return self.run("image", "inspect", image, code=None).returncode == 0

    def containers(self) -> list[str]:
        """The names of all its containers, those that have ended too, of every test that runs now."""
        return self.run("ps", "-a", "--format", "{{.Names}}").stdout.split()


@contextmanager
def services() -> Iterator[dict[str, Engine]]:
    """The engines by name, started unless another test process has them, and kept at least until the end of this."""
    folder = services_folder()
    users = os.open(folder / "users", os.O_RDWR | os.O_CREAT)
    try:
        with (folder / "starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)  # waits for a keeper that is just ending
            known = _running(folder) or _start(folder)
            engines = {name: Engine(name, known[name], known["mirror"]) for name in ("docker", "podman")}
            for engine in engines.values():
                if not engine.has(SMALL):
                    engine.run("load", "-i", str(images() / "small.tar"))
        yield engines
    finally:
        os.close(users)
        _wait_for_the_end(folder)


def _wait_for_the_end(folder: Path) -> None:
    """Where nobody wants the engines any more, wait until their keeper has ended them."""
    known = _running(folder)
    deadline = time.monotonic() + END_SECONDS
    users = os.open(folder / "users", os.O_RDWR)
    try:
        while known and _is_keeper(known["keeper"]) and time.monotonic() < deadline:
            if _tried(users, fcntl.LOCK_SH) and not _tried(users, fcntl.LOCK_EX):
                return  # others want them
            time.sleep(0.02)  # the keeper is about to get the lock, or has it and ends all
    finally:
        os.close(users)


def _tried(users: int, kind: int) -> bool:
    """Whether this lock could be had now; it is given back."""
    try:
        fcntl.flock(users, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(users, fcntl.LOCK_UN)
    return True


def _running(folder: Path) -> dict[str, object] | None:
    """What a keeper has told, if it is alive."""
    try:
        known: dict[str, object] = json.loads((folder / "ready.json").read_text())
    except (OSError, ValueError):
        return None
    return known if _is_keeper(known["keeper"]) else None


def _is_keeper(pid: object) -> bool:
    try:
        return container_keeper.__file__ in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def _start(folder: Path) -> dict[str, object]:
    """Start a keeper and wait until it is ready. It belongs to no test session: others may come to need it."""
    for name in ("ready.json", "failed"):
        (folder / name).unlink(missing_ok=True)
    unwanted = (*_VARIABLES, "REGISTRY_", "TESTS_OF_TRAINKIT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-I", container_keeper.__file__, str(folder), str(images())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/", env=kept,
        )  # fmt: skip
    deadline = time.monotonic() + container_keeper.START_SECONDS + 10
    while not (folder / "ready.json").exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the tests' container engines do not start: {(folder / 'keeper.log').read_text()}")
        time.sleep(0.02)
    known = _running(folder)
    assert known is not None
    return known


@pytest.fixture(scope="session")
def container_engines() -> Iterator[dict[str, Engine]]:
    """The engines of the machine's tests by name, running."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with services() as engines:
        yield engines


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which no container engine answers, and none has settings or passwords of the user's."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-docker")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    (tmp_path / "podman-auth.json").write_text("{}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "podman-auth.json"))
    # podman needs no service: where its settings are wrong it answers with an error.
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "no-podman.conf"))


def _taken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, with its variables in this process's environment."""
    for name, value in engine.variables.items():
        monkeypatch.setenv(name, value)
    return engine


@pytest.fixture
def docker(container_engines: dict[str, Engine], no_engine: None, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A dockerd with the image `small`; its variables are in this process's environment."""
    return _taken(container_engines["docker"], monkeypatch)


@pytest.fixture
def podman(container_engines: dict[str, Engine], no_engine: None, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A podman with the image `small`; its variables are in this process's environment."""
    return _taken(container_engines["podman"], monkeypatch)
