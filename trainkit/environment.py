"""`Environment`: what a job's Python is to have and which image it runs in; users change it step by step.

Without packages and without an image a job runs in the interpreter that submits it, at once. Packages go into a cached
virtual environment that stands on that interpreter's packages, or on nothing with `inherit=False`; with an image, into
an image derived from it. `spec` freezes all of it at submit into an EnvironmentSpec.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainkit.condafile import CondaDependencies
from trainkit.containers import image_of
from trainkit.docker import ContainerRegistry, DockerBuildContext, DockerConfiguration, DockerSection
from trainkit.environmentspec import EnvironmentSpec, variables_checked
from trainkit.errors import UserErrorException
from trainkit.imagespec import ImageSpec
from trainkit.pythonsection import PythonSection, interpreter_here, interpreter_in_image, pip_lines, version_here
from trainkit.requirements import read_file

__all__ = [
    "CondaDependencies",
    "ContainerRegistry",
    "DockerBuildContext",
    "DockerSection",
    "Environment",
    "EnvironmentSpec",
    "PythonSection",
]

Text = str | os.PathLike[str]


@dataclass(slots=True, init=False)
class Environment:
    """A named description of a job's Python environment.

    `Environment("lite", pip_packages=["timm==1.0.31"])` is enough; `docker` and `python` have the Azure ML SDK's
    sections. Raises TypeError where `name` is no string, AttributeError where an attribute does not exist.
    """

    name: str
    python: PythonSection
    docker: DockerSection
    environment_variables: dict[str, str]
    inherit: bool
    version: str | None

    def __init__(
        self,
        name: str,
        *,
        pip_packages: Iterable[str] = (),
        conda_packages: Iterable[str] = (),
        python_version: str | None = None,
        environment_variables: Mapping[str, str] | None = None,
        inherit: bool = True,
    ) -> None:
        self.name = _checked_name(name)
        self.docker = DockerSection()
        self.python = PythonSection()
        self.python.conda_dependencies = CondaDependencies.create(
            pip_packages=pip_packages, conda_packages=conda_packages, python_version=python_version
        )
        self.environment_variables = dict(environment_variables or {})
        self.inherit = inherit
        self.version = None

    @staticmethod
    def from_pip_requirements(
        name: str, file_path: Text, pip_version: str | None = None, *, inherit: bool = True
    ) -> Environment:
        """An environment with the packages of a requirements file, which is read now. Raises UserErrorException."""
        if pip_version is not None:
            raise UserErrorException("pip_version is not possible: packages are installed with uv. Leave it out.")
        path = Path(file_path)
        if not path.is_file():
            raise UserErrorException(f"{path.absolute()} path doesn't exist: a pip requirements file is needed there.")
        return Environment(name, pip_packages=read_file(path), inherit=inherit)

    @staticmethod
    def from_conda_specification(name: str, file_path: Text, *, inherit: bool = True) -> Environment:
        """An environment with the packages of a conda file (environment.yml), read now. Raises UserErrorException."""
        environment = Environment(name, inherit=inherit)
        environment.python.conda_dependencies = CondaDependencies(file_path)
        return environment

    def clone(self, new_name: str) -> Environment:
        """An independent copy under another name, of no registered version."""
        other = copy.deepcopy(self)
        other.name = _checked_name(new_name)
        other.version = None
        return other

    def spec(self, run: DockerConfiguration | None = None, default_image: str = "") -> EnvironmentSpec:
        """The environment, checked and frozen. Raises UserErrorException or UnsupportedJob; nothing is built.

        `run` is what the run says of containers, `default_image` the image of config.json for environments that want a
        container and name no image. With an image, `image.engine` is the one asked for by name, else "".
        """
        if not isinstance(self.inherit, bool):
            raise UserErrorException(f"inherit is True or False, not {self.inherit!r}.")
        variables = variables_checked(self.environment_variables)
        image = image_of(self.docker, run, default_image)
        dependencies = self.python.dependencies()
        managed = bool(self.python.user_managed_dependencies)
        interpreter, version = self._interpreter(image, dependencies.python_version)
        if managed:
            return EnvironmentSpec(
                self.name, interpreter, environment_variables=variables, user_managed=True, image=image
            )
        conda = tuple(dependencies.conda_packages)
        return EnvironmentSpec(
            self.name,
            interpreter,
            self.inherit,
            pip_lines(dependencies),
            conda,
            tuple(dependencies.conda_channels) if conda else (),
            version,
            variables,
            image=image,
        )

    def password(self) -> str:
        """The registry's password where it was given by value, else "". It is kept in memory alone, never in a spec."""
        registry = self.docker.base_image_registry
        return registry.secret if isinstance(registry, ContainerRegistry) else ""

    def _interpreter(self, image: ImageSpec | None, version: str | None) -> tuple[str, str]:
        """The interpreter, and the version of Python that is to be made; in an image, the one that it must have."""
        if image is None:
            interpreter = interpreter_here(self.python.interpreter_path)
            managed = self.python.user_managed_dependencies
            return interpreter, "" if managed else version_here(version, interpreter, self.inherit)
        if not self.inherit:
            raise UserErrorException(
                "inherit=False has no meaning in an image: its packages are those that the image brings. Leave it out."
            )
        return interpreter_in_image(self.python.interpreter_path), version or ""


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"Environment name expected str, {type(name)} found")
    return name
