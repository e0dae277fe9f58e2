"""`Environment`: what a job's Python is to have and which image it runs in; users change it step by step.

Without packages and without an image a job runs in the interpreter that submits it, at once. Packages go into a cached
virtual environment that stands on that interpreter's packages, or on nothing with `inherit=False`; with an image, into
an image derived from it. `spec` freezes all of it at submit into an EnvironmentSpec.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.checks import flag_of
from trainkit.condafile import CondaDependencies
from trainkit.containers import image_of
from trainkit.docker import ContainerRegistry, DockerBuildContext, DockerConfiguration, DockerSection
from trainkit.environmentspec import EnvironmentSpec, variables_checked
from trainkit.errors import UserErrorException
from trainkit.imagespec import ImageSpec
from trainkit.pythonsection import PythonSection, interpreter_here, interpreter_in_image, pip_lines, version_here
from trainkit.requirements import read_file

if TYPE_CHECKING:
    from trainkit.environments.build import ImageBuildDetails
    from trainkit.workspace import Workspace

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

    @staticmethod
    def from_docker_image(
        name: str,
        image: str,
        container_registry: ContainerRegistry | None = None,
        conda_specification: Text | None = None,
        pip_requirements: Text | None = None,
    ) -> Environment:
        """An environment of an image, with the packages of one of the files, read now. Raises UserErrorException."""
        environment = _with_packages(name, conda_specification, pip_requirements)
        environment.docker.base_image = _given("image", image)
        if container_registry is not None:
            environment.docker.base_image_registry = container_registry
        return environment

    @staticmethod
    def from_dockerfile(
        name: str,
        dockerfile: Text,
        conda_specification: Text | None = None,
        pip_requirements: Text | None = None,
    ) -> Environment:
        """An environment of the image that a Dockerfile makes: its text, or its path, read at submit."""
        environment = _with_packages(name, conda_specification, pip_requirements)
        environment.docker.base_dockerfile = _given("dockerfile", dockerfile)
        return environment

    @staticmethod
    def from_docker_build_context(name: str, docker_build_context: DockerBuildContext) -> Environment:
        """An environment of the image that a folder with a Dockerfile makes."""
        environment = Environment(name)
        environment.docker.build_context = _given("docker_build_context", docker_build_context)
        return environment

    @staticmethod
    def from_existing_conda_environment(name: str, conda_environment_name: str) -> Environment:
        """An environment that stands on one of conda's, as it is when a job runs. Raises UserErrorException."""
        from trainkit.environments.conda import python_of

        environment = Environment(name)
        environment.python.interpreter_path = python_of(conda_environment_name)
        return environment

    @staticmethod
    def get(workspace: Workspace, name: str, version: str | int | None = None, label: str | None = None) -> Environment:
        """A registered environment: the version of this number or label, else the latest. Raises UserErrorException."""
        from trainkit.environments.store import EnvironmentStore

        return EnvironmentStore.of(workspace).get(name, version, label)

    @staticmethod
    def list(workspace: Workspace) -> dict[str, Environment]:
        """The latest version of every registered environment, by name."""
        from trainkit.environments.store import EnvironmentStore

        store = EnvironmentStore.of(workspace)
        return {name: store.get(name) for name in store.names()}

    @staticmethod
    def label(workspace: Workspace, name: str, version: str | int, labels: Sequence[str]) -> None:
        """Put labels on a registered version, by which `get` finds it; each is on one version at a time."""
        from trainkit.environments.store import EnvironmentStore

        EnvironmentStore.of(workspace).label(name, version, labels)

    @staticmethod
    def load_from_directory(path: Text) -> Environment:
        """The environment that `save_to_directory`, or the Azure ML SDK, wrote. Raises UserErrorException."""
        from trainkit.environments.folder import load

        return load(path)

    def save_to_directory(self, path: Text, overwrite: bool = False) -> None:
        """Write the environment as files that people edit. A registry's password by value is left out."""
        from trainkit.environments.folder import save

        save(self, path, overwrite)

    def register(self, workspace: Workspace) -> Environment:
        """The environment as a registered version: a new one, or the latest where nothing has changed since.

        A Dockerfile or conda file that it names is read now; a build context stays where it is; a registry's password
        by value is left out. Raises UserErrorException.
        """
        from trainkit.environments.store import EnvironmentStore

        store = EnvironmentStore.of(workspace)
        workspace.prepare_root()
        return store.register(self)

    def build(self, workspace: Workspace, image_build_compute: object = None) -> ImageBuildDetails:
        """Begin to build what a job on this machine would use, in this process; `wait_for_completion` of it waits.

        `image_build_compute` has no effect. Raises what submitting such a job would raise.
        """
        from trainkit.environments.build import build

        return build(workspace, self, None)

    def build_local(
        self, workspace: Workspace, platform: object = None, useDocker: bool | None = None
    ) -> ImageBuildDetails:
        """As `build`; `useDocker` asks for an image, or for none. `platform` has no effect."""
        from trainkit.environments.build import build

        return build(workspace, self, DockerConfiguration(use_docker=useDocker))

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
        flag_of("inherit", self.inherit)
        variables = variables_checked(self.environment_variables)
        image = image_of(self.docker, run, default_image)
        managed = flag_of("python.user_managed_dependencies", self.python.user_managed_dependencies)
        dependencies = self.python.dependencies()
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


def _with_packages(name: str, conda_specification: Text | None, pip_requirements: Text | None) -> Environment:
    """An environment with the packages of one file at most."""
    if conda_specification is not None and pip_requirements is not None:
        raise UserErrorException(
            "conda_specification and pip_requirements exclude each other: write the latter's lines into the former, "
            "under '- pip:'."
        )
    if conda_specification is not None:
        return Environment.from_conda_specification(name, conda_specification)
    return Environment(name) if pip_requirements is None else Environment.from_pip_requirements(name, pip_requirements)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"Environment name expected str, {type(name)} found")
    return name


def _given(name: str, value: Any) -> Any:
    """The value; raises UserErrorException for None, with which a job would run on this machine's own Python."""
    if value is None:
        raise UserErrorException(f"{name} is None: name the image that jobs are to run in, or use Environment(name).")
    return value
