"""Fills an environment: Python, conda's packages, pip's packages, the base's below them; and says what it installed.

Where an earlier environment of the same name left its locks, these are followed: first from what the installer has in
its cache, without the network, then from the packages' source; only where neither works is anything decided anew.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from trainkit.environment import EnvironmentSpec
from trainkit.prepare import elsewhere, locks
from trainkit.prepare.base import Base
from trainkit.prepare.conda import make_conda
from trainkit.prepare.installer import Installer, uv
from trainkit.prepare.layer import interpreter_in, make_venv, python_of, stand_on, view
from trainkit.prepare.locks import Locks
from trainkit.prepare.packages import Packages


def fill(spec: EnvironmentSpec, base: Base, environment: Path, installer: Installer, known: Locks) -> Locks:
    """Make the environment in its folder, which is not there yet; `known` are the locks of an earlier one."""
    with tempfile.TemporaryDirectory(prefix="trainkit-") as work, ThreadPoolExecutor(1) as beside:
        packages = Packages(installer, spec.pip_packages, _looked_at(spec, base, environment), Path(work))
        plan: Callable[[], list[str]] | None = None
        if spec.inherit and spec.pip_packages and not known.pip:  # what it needs depends on the base alone
            uv()  # found here and kept: Python's own configuration is not to be read by two threads for the first time
            plan = beside.submit(packages.plan, view(base, environment.parent)).result
        conda = ""
        if spec.conda_packages:
            conda = make_conda(installer, environment, spec, base, known.conda)
        else:
            make_venv(installer, environment, spec.python_version or base.interpreter)
        text = _header(spec, base, environment)
        if spec.pip_packages and not (known.pip and _installed_again(packages, environment, known.pip)):
            if spec.inherit and plan is None:
                plan = partial(packages.plan, view(base, environment.parent))
            text += _installed(packages, environment, plan, beside)
        elif known.pip:
            text = known.pip
    if spec.inherit:
        stand_on(environment, base)
    elif not spec.conda_packages:
        elsewhere.write(environment, text)
    return Locks(text, conda)


def _looked_at(spec: EnvironmentSpec, base: Base, environment: Path) -> str:
    """The interpreter for which packages are looked for."""
    return base.interpreter if spec.inherit else str(interpreter_in(environment))


def _header(spec: EnvironmentSpec, base: Base, environment: Path) -> str:
    machine = f"{platform.system()} {platform.machine()}"
    beneath = locks.beneath(base.packages) if spec.inherit else []
    return locks.header(environment.name, python_of(environment) or base.version, machine, base.interpreter, beneath)


def _installed(
    packages: Packages, environment: Path, plan: Callable[[], list[str]] | None, beside: ThreadPoolExecutor
) -> str:
    """Install the pip packages, those of a plan where there is one; returns their lock."""
    interpreter = str(interpreter_in(environment))
    if plan is None:
        return packages.locked(packages.install(interpreter))
    exact = plan()
    lock = beside.submit(packages.locked, exact)
    packages.install(interpreter, exact)
    return lock.result()


def _installed_again(packages: Packages, environment: Path, known: str) -> bool:
    interpreter = str(interpreter_in(environment))
    packages.installer.say("installing what the lock of an earlier build names, from uv's cache")
    if packages.install_lock(interpreter, known, offline=True):
        return True
    packages.installer.say("the cache does not have all of it; installing what the lock names")
    if packages.install_lock(interpreter, known, offline=False):
        return True
    packages.installer.say("what the lock names can be had no longer; deciding anew which packages are needed")
    return False
