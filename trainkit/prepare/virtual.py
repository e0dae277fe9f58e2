"""Fills an environment: Python, conda's packages, pip's packages, the base's below them; and says what it installed.

Where an earlier environment of the same name left its locks, these are followed: first from what the installer has in
its cache, without the network, then from the packages' source; only where neither works is anything decided anew.
"""

from __future__ import annotations

import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from trainkit.environment import EnvironmentSpec
from trainkit.prepare import elsewhere, locks
from trainkit.prepare.base import Base
from trainkit.prepare.conda import make_conda
from trainkit.prepare.installer import Installer
from trainkit.prepare.layer import interpreter_in, make_venv, python_of, seen, stand_on, take
from trainkit.prepare.locks import Locks
from trainkit.prepare.packages import Packages


def fill(spec: EnvironmentSpec, base: Base, environment: Path, installer: Installer, known: Locks) -> Locks:
    """Make the environment in its folder, which is not there yet; `known` are the locks of an earlier one."""
    with ThreadPoolExecutor(1) as beside:
        wanted = spec.inherit and spec.pip_packages and not known.pip
        taken = beside.submit(take, environment, base) if wanted else None
        conda = ""
        if spec.conda_packages:
            conda = make_conda(installer, environment, spec, base, known.conda)
        else:
            make_venv(installer, environment, spec.python_version or base.interpreter)
    text = _header(spec, base, environment)
    if spec.pip_packages:
        text = _install(spec, base, environment, installer, known.pip, text, taken.result() if taken else None)
    if spec.inherit:
        stand_on(environment, base)
    elif not spec.conda_packages:
        elsewhere.write(environment, text)
    return Locks(text, conda)


def _header(spec: EnvironmentSpec, base: Base, environment: Path) -> str:
    machine = f"{platform.system()} {platform.machine()}"
    beneath = locks.beneath(base.packages) if spec.inherit else []
    return locks.header(environment.name, python_of(environment) or base.version, machine, base.interpreter, beneath)


def _install(
    spec: EnvironmentSpec, base: Base, environment: Path, installer: Installer, known: str, header: str,
    taken: Path | None,
) -> str:  # fmt: skip
    """Install the pip packages; returns their lock. `taken` are the base's records, where they are at hand."""
    with tempfile.TemporaryDirectory(prefix="trainkit-") as work:
        packages = Packages(installer, spec.pip_packages, str(interpreter_in(environment)), Path(work))
        if known and _installed_again(packages, known):
            return known
        with seen(environment, base, taken or take(environment, base)) if spec.inherit else nullcontext():
            exact = packages.install()
        return header + packages.locked(exact)


def _installed_again(packages: Packages, known: str) -> bool:
    packages.installer.say("installing what the lock of an earlier build names, from uv's cache")
    if packages.install_lock(known, offline=True):
        return True
    packages.installer.say("the cache does not have all of it; installing what the lock names")
    if packages.install_lock(known, offline=False):
        return True
    packages.installer.say("what the lock names can be had no longer; deciding anew which packages are needed")
    return False
