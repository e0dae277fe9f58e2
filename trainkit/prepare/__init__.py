"""From an EnvironmentSpec to an interpreter, cached by the digest of everything that decides its packages.

An environment is built in its final place, `envs/<digest>/`; when it counts, and who builds it, `entries.py` says.
"""

from __future__ import annotations

import os
import site
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError
from trainkit.imagespec import ImageSpec
from trainkit.job import Container
from trainkit.prepare import locks, settling
from trainkit.prepare.base import Base, ask, base_of
from trainkit.prepare.digests import digest_of, inputs
from trainkit.prepare.entries import Record, ready_or_built, reused, why
from trainkit.prepare.installer import Installer
from trainkit.prepare.layer import interpreter_in, lacks_trainkit
from trainkit.prepare.virtual import fill

__all__ = ["Prepared", "digest", "prepare"]

_VERSION = "import trainkit; print(trainkit.__version__)"


@dataclass(frozen=True)
class Prepared:
    """An interpreter for a job, or an image. `needs_boot` says that it has no trainkit of this version.

    With a `container`, `interpreter` is this machine's own: it starts the container; `bases` are the images that its
    own comes from, each with `name`, `id` and `digest` (the registry's, "" for one made here). `lock` and `conda_lock`
    are files with the exact packages, where some were installed.
    """

    interpreter: str
    needs_boot: bool
    digest: str
    reused: bool
    words: str
    container: Container | None = None
    lock: str = ""
    conda_lock: str = ""
    bases: tuple[Mapping[str, str], ...] = ()


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
    environment = settling.place_for(envs / name, _usable)
    ready, built = reused(environment, _usable), False
    if ready is None:
        with Installer(log, cancelled) as installer:
            ready, built = ready_or_built(
                environment,
                installer,
                _usable,
                lambda: _build(spec, base, environment, locks.kept(envs / name), installer),
            )
    if settling.is_due(environment, ready):
        settling.begin(environment, ready)
    words = f"{'built' if built else 'reused'} environment {environment.name} ({time.monotonic() - begun:.1f} s)"
    lock, conda_lock = (str(path) if path.exists() else "" for path in locks.paths(environment))
    return Prepared(
        ready["interpreter"], ready["needs_boot"], environment.name, not built, words, None, lock, conda_lock
    )


def _by_cluster(spec: EnvironmentSpec, image: ImageSpec) -> Prepared:
    """An image that the cluster itself fetches and runs: nothing of it is looked at here."""
    python = "python3" if spec.interpreter == "python" else spec.interpreter
    container = Container("", image.base, image.base, python, image.arguments, image.shm_size)
    return Prepared(sys.executable, True, "", True, f"the cluster runs the image {image.base}", container)


def _usable(ready: Record) -> bool:
    """Whether the environment's interpreter is still there, and all else that was."""
    interpreter = Path(ready["interpreter"])
    return os.access(interpreter, os.X_OK) and settling.is_whole(interpreter.parents[1], ready)


def _build(spec: EnvironmentSpec, base: Base, environment: Path, kept: Path, installer: Installer) -> Record:
    """Fill the environment, by the locks that are kept in `kept` where there are some; its record."""
    begun = time.monotonic()
    installer.say(f"building environment {environment.name} for {spec.name}: {_why(spec, base, environment.parent)}")
    made = fill(spec, base, environment, installer, locks.Locks.read(kept))
    for folder in (environment, kept):
        made.write(folder)
    interpreter = str(interpreter_in(environment))
    ready = {
        "kind": "venv" if not spec.conda_packages else "conda",
        "name": spec.name,
        "interpreter": interpreter,
        "needs_boot": lacks_trainkit(environment, base, spec.inherit),
        "built": time.time(),
        "host": settling.host(),
        "boot": settling.boot(),
        "inputs": inputs(spec, base),
    }
    installer.say(f"environment {environment.name} is built ({time.monotonic() - begun:.1f} s)")
    return ready


def _why(spec: EnvironmentSpec, base: Base, envs: Path) -> str:
    """Why nothing that is there could be reused."""
    wanted = inputs(spec, base)

    def related(there: Record) -> bool:
        before = there.get("inputs", {})
        return all(before.get(key) == wanted[key] for key in ("pip_packages", "inherit"))

    return why(envs, wanted, related, "none with these packages is there")


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
