"""`PythonSection`: which Python a job has and with which packages, as users set it and as it is checked at submit."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainkit.condafile import CondaDependencies
from trainkit.deprecation import warn_deprecated
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.requirements import check, normalised, parse

__all__ = ["PythonSection"]

PYTHON = "python"  # the interpreter that submits the job; in an image, the first one on its path
_RETIRED = re.compile(r"^azureml-")


@dataclass(slots=True)
class PythonSection:
    """Which Python, with which packages. With `user_managed_dependencies` nothing is installed.

    `interpreter_path` is a program of this machine, or, where the environment names an image, one in that image.
    """

    user_managed_dependencies: bool = False
    interpreter_path: str = PYTHON
    conda_dependencies: CondaDependencies = field(default_factory=CondaDependencies)
    conda_dependencies_file: str | os.PathLike[str] | None = None
    base_conda_environment: str | None = None

    def dependencies(self) -> CondaDependencies:
        """The packages wanted, read from the file where one is named. Raises UserErrorException or UnsupportedJob."""
        if self.base_conda_environment is not None:
            raise UnsupportedJob(
                "python.base_conda_environment is not possible; use Environment.from_existing_conda_environment, or "
                "set python.interpreter_path to its Python."
            )
        found = self._dependencies()
        if self.user_managed_dependencies and not found.is_empty:
            raise UserErrorException(
                "If user_managed_dependencies is True, nothing is installed: take the packages out, or set it to False."
            )
        return found

    def _dependencies(self) -> CondaDependencies:
        given = self.conda_dependencies
        if self.conda_dependencies_file is not None:
            if given is not None and not given.is_empty:
                raise UserErrorException("Set python.conda_dependencies or python.conda_dependencies_file, not both.")
            return CondaDependencies(self.conda_dependencies_file)
        if not isinstance(given, CondaDependencies):
            raise UserErrorException(f"python.conda_dependencies is a CondaDependencies, not {given!r}.")
        return given


def pip_lines(dependencies: CondaDependencies) -> tuple[str, ...]:
    """The lines for pip, checked, without the retired SDK's own packages."""
    return check((*dependencies.pip_options, *_without_retired(dependencies.pip_packages)))


def interpreter_here(path: object) -> str:
    """The absolute path of the interpreter meant on this machine; "python" is the one that runs this."""
    if path == PYTHON:
        return sys.executable
    if not isinstance(path, (str, os.PathLike)):
        raise UserErrorException(f"python.interpreter_path is a path, not {path!r}.")
    absolute = os.path.abspath(os.path.expanduser(path))
    if not (os.path.isfile(absolute) and os.access(absolute, os.X_OK)):
        raise UserErrorException(
            f"python.interpreter_path: there is no program {absolute}. Give the path of a Python program, or leave "
            "it out for the one in use."
        )
    return absolute


def interpreter_in_image(path: object) -> str:
    """The name, or the absolute path, of the interpreter meant in an image; nothing is looked up."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not re.fullmatch(r"/[^\0\n]+|[A-Za-z0-9._+\-]+", text) or text.startswith("-"):
        raise UserErrorException(
            f"python.interpreter_path is a program in the image, such as 'python3' or '/opt/conda/bin/python', not "
            f"{path!r}."
        )
    return text


def version_here(version: str | None, interpreter: str, inherit: bool) -> str:
    """The version to make, or "" where it is the interpreter's own; a layer cannot have another than its base."""
    if not version:
        return ""
    own = ".".join(map(str, sys.version_info[:3]))
    if interpreter == sys.executable and (own + ".").startswith(version.rstrip(".*") + "."):
        return ""
    if inherit:
        raise UnsupportedJob(
            f"Python {version} was asked for, but the environment stands on the packages of {interpreter}"
            + (f", which is Python {own}" if interpreter == sys.executable else "")
            + ". Leave python_version out, or set inherit=False to build it from nothing with that Python."
        )
    return version


def _without_retired(lines: Iterable[str]) -> list[str]:
    """The requirements less the retired SDK's own, which trainkit replaces and whose runs would not reach this one."""
    kept: list[str] = []
    dropped: list[str] = []
    for line in lines:
        (dropped if _RETIRED.match(normalised(parse(line).name)) else kept).append(line)
    if dropped:
        warn_deprecated(f"{', '.join(dropped)} will not be installed: trainkit takes its place and is there already.")
    return kept
