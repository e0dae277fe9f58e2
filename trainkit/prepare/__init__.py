"""From an EnvironmentSpec to an interpreter, cached by the digest of everything that decides its packages.

An environment is built in its final place, `envs/<digest>/`, under a lock, and counts only once its `ready.json` is
written, as the last step: one that was left half built is never used, and of builders at the same time one builds and
the others wait for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import site
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import make_private, publish, read_json
from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError, TrainkitError
from trainkit.imagespec import ImageSpec
from trainkit.job import Container
from trainkit.prepare import locks
from trainkit.prepare.base import Base, ask, base_of
from trainkit.prepare.digest import digest_of, inputs
from trainkit.prepare.installer import POLL_SECONDS, Installer
from trainkit.prepare.layer import interpreter_in
from trainkit.prepare.virtual import fill

__all__ = ["Prepared", "digest", "prepare"]

READY = "ready.json"
_VERSION = "import trainkit; print(trainkit.__version__)"


@dataclass(frozen=True)
class Prepared:
    """An interpreter for a job, or an image. `needs_boot` says that it has no trainkit of this version.

    With a `container`, `interpreter` is this machine's own: it starts the container. `lock` and `conda_lock` are files
    with the exact packages, where some were installed.
    """

    interpreter: str
    needs_boot: bool
    digest: str
    reused: bool
    words: str
    container: Container | None = None
    lock: str = ""
    conda_lock: str = ""


def digest(spec: EnvironmentSpec) -> str:
    """The environment's digest now; "" for an interpreter used as it is, and for an image, which is looked up later.

    Takes about 50 ms where not plain.
    """
    return "" if spec.is_plain or spec.image is not None else digest_of(spec, base_of(spec.interpreter))


def prepare(
    spec: EnvironmentSpec,
    envs: Path,
    log: Path,
    cancelled: Callable[[], bool] | None = None,
    password: str = "",
    share: bool = False,
) -> Prepared:
    """The interpreter or image that `spec` describes, built in `envs` unless it is there; progress goes to `log`.

    `password` is that of the image's registry, where it was given by value; `share` says that other machines need the
    image. Raises EnvironmentBuildError with a verdict and the installer's output; `cancelled` is asked while it waits.
    """
    if spec.image is not None and not spec.image.engine:
        return _by_cluster(spec, spec.image)
    if spec.image is not None:
        from trainkit.prepare.images import prepare_image

        return prepare_image(spec, envs, log, cancelled, password, share)
    begun = time.monotonic()
    if spec.is_plain:
        return Prepared(spec.interpreter, _needs_boot(spec.interpreter), "", True, f"uses {spec.interpreter} as it is")
    base = base_of(spec.interpreter)
    name = digest_of(spec, base)
    environment = make_private(envs) / name
    ready = _ready(environment)
    built = False
    if ready is None:
        with Installer(log, cancelled) as installer, _locked(envs / f".{name}.lock", installer):
            ready = _ready(environment)
            if ready is None:
                ready, built = _build(spec, base, environment, installer), True
    words = f"{'built' if built else 'reused'} environment {name} ({time.monotonic() - begun:.1f} s)"
    lock, conda_lock = (str(path) if path.exists() else "" for path in locks.paths(environment))
    return Prepared(ready["interpreter"], ready["needs_boot"], name, not built, words, None, lock, conda_lock)


def _by_cluster(spec: EnvironmentSpec, image: ImageSpec) -> Prepared:
    """An image that the cluster itself fetches and runs: nothing of it is looked at here."""
    python = "python3" if spec.interpreter == "python" else spec.interpreter
    container = Container("", image.base, image.base, python, image.arguments, image.shm_size)
    return Prepared(sys.executable, True, "", True, f"the cluster runs the image {image.base}", container)


def _ready(environment: Path) -> dict[str, Any] | None:
    """The record of a finished environment whose interpreter is still there, or None."""
    ready = read_json(environment / READY)
    if isinstance(ready, dict) and os.access(ready["interpreter"], os.X_OK):
        return ready
    return None


@contextmanager
def _locked(path: Path, installer: Installer) -> Iterator[None]:
    """Hold the environment's lock, which the installer's programs hold as well while they live."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    installer.say("waits for another process, which is building this environment")
                    told = True
                installer.check_cancelled()
                time.sleep(POLL_SECONDS)
        installer.lock = handle
        yield
    finally:
        installer.lock = None
        os.close(handle)


def _build(spec: EnvironmentSpec, base: Base, environment: Path, installer: Installer) -> dict[str, Any]:
    """Make the environment and its record, or leave nothing."""
    begun = time.monotonic()
    installer.say(f"building environment {environment.name} for {spec.name}: {_why(spec, base, environment.parent)}")
    shutil.rmtree(environment, ignore_errors=True)
    try:
        made = fill(spec, base, environment, installer, locks.Locks.read(locks.kept(environment)))
        for folder in (environment, locks.kept(environment)):
            made.write(folder)
        interpreter = str(interpreter_in(environment))
        ready = {
            "name": spec.name,
            "interpreter": interpreter,
            "needs_boot": _needs_boot(interpreter),
            "built": time.time(),
            "inputs": inputs(spec, base),
        }
        os.sync()  # the record must not reach the disk before what it speaks of
        publish(environment / READY, ready)
    except BaseException as e:
        shutil.rmtree(environment, ignore_errors=True)
        if isinstance(e, EnvironmentBuildError):
            tail = "\n".join(e.output.splitlines()[-60:])
            installer.say(e.message)
            raise EnvironmentBuildError(e.message, tail) from e
        if isinstance(e, (OSError, TrainkitError)):
            raise EnvironmentBuildError(f"The environment could not be built in {environment}: {e}") from e
        raise
    installer.say(f"environment {environment.name} is ready ({time.monotonic() - begun:.1f} s)")
    return ready


def _why(spec: EnvironmentSpec, base: Base, envs: Path) -> str:
    """Why nothing that is there could be reused."""
    wanted = inputs(spec, base)
    for path in sorted(envs.glob(f"*/{READY}")):
        there = (read_json(path) or {}).get("inputs", {})
        if there.get("pip_packages") == wanted["pip_packages"] and there.get("inherit") == wanted["inherit"]:
            changed = [key.replace("_", " ") for key, value in wanted.items() if there.get(key) != value]
            return f"{path.parent.name} has the same packages, but changed since: {', '.join(changed)}"
    return "none with these packages is there"


def _needs_boot(interpreter: str) -> bool:
    """Whether the interpreter, on its own, has no trainkit of this version."""
    from trainkit import __version__

    if interpreter == sys.executable:
        found = distributions(name="trainkit", path=site.getsitepackages())
        return not any(d.version == __version__ for d in found)
    try:
        return ask(interpreter, _VERSION).strip() != __version__
    except EnvironmentBuildError:
        return True
