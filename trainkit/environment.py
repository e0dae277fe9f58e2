"""What a job's Python is to have: `Environment`, which users change step by step, and `EnvironmentSpec`, which is
what it is frozen into at submit and what `trainkit.prepare` makes an interpreter of.

Without packages a job runs in the interpreter that submits it, at once. Packages go into a cached virtual environment
that stands on that interpreter's packages, or on nothing with `inherit=False`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.boot.ranks import without_ranks
from trainkit.condafile import CondaDependencies
from trainkit.deprecation import warn_deprecated
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.imagespec import ImageSpec
from trainkit.requirements import check, normalised, parse, read_file

__all__ = ["CondaDependencies", "ContainerRegistry", "DockerSection", "Environment", "EnvironmentSpec", "PythonSection"]

CONTAINERS = (
    "jobs run without containers in this version, in the target's own interpreter. Ask for what the image would bring "
    "with pip_packages or conda_packages"
)
_RETIRED = re.compile(r"^azureml-")


@dataclass(frozen=True)
class EnvironmentSpec:
    """A job's Python, decided: stored in the run's job.json."""

    name: str
    interpreter: str
    inherit: bool = True
    pip_packages: tuple[str, ...] = ()
    conda_packages: tuple[str, ...] = ()
    conda_channels: tuple[str, ...] = ()
    python_version: str = ""
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    user_managed: bool = False
    image: ImageSpec | None = None  # then `interpreter` is a name or path in the image

    @property
    def is_plain(self) -> bool:
        """Whether the interpreter itself is meant, with nothing to build."""
        return (
            self.image is None
            and self.inherit
            and not (self.pip_packages or self.conda_packages or self.python_version)
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EnvironmentSpec:
        """The inverse of `to_json`; unknown keys are passed over."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        for name in ("pip_packages", "conda_packages", "conda_channels"):
            known[name] = tuple(known.get(name, ()))
        if known.get("image") is not None:
            known["image"] = ImageSpec.from_json(known["image"])
        return cls(**known)


@dataclass(slots=True)
class ContainerRegistry:
    """Where an image would come from. The password lives in memory only."""

    address: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class DockerSection:
    """Container settings; anything set here is refused at submit, since containers come in a later version."""

    enabled: bool = False
    base_image: str | None = None
    base_dockerfile: object = None
    base_image_registry: ContainerRegistry = field(default_factory=ContainerRegistry)
    build_context: object = None
    arguments: list[str] = field(default_factory=list)
    shm_size: str | None = None
    shared_volumes: bool = True
    gpu_support: bool | None = None

    def asked(self) -> list[str]:
        """The settings that ask for a container, as users wrote them; never a password."""
        words = [f"docker.enabled={self.enabled!r}"] if self.enabled else []
        if self.base_image is not None:
            words.append(f"docker.base_image={self.base_image!r}")
        for name in ("base_dockerfile", "build_context", "arguments"):
            if getattr(self, name):
                words.append(f"docker.{name}")
        if self.base_image_registry.address:
            words.append("docker.base_image_registry")
        return words


@dataclass(slots=True)
class PythonSection:
    """Which Python, with which packages. With `user_managed_dependencies` nothing is installed."""

    user_managed_dependencies: bool = False
    interpreter_path: str = "python"
    conda_dependencies: CondaDependencies = field(default_factory=CondaDependencies)
    conda_dependencies_file: str | os.PathLike[str] | None = None
    base_conda_environment: str | None = None


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
        if not isinstance(name, str):
            raise TypeError(f"Environment name expected str, {type(name)} found")
        self.name = name
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
        name: str, file_path: str | os.PathLike[str], pip_version: str | None = None, *, inherit: bool = True
    ) -> Environment:
        """An environment with the packages of a requirements file, which is read now. Raises UserErrorException."""
        if pip_version is not None:
            raise UserErrorException("pip_version is not possible: packages are installed with uv. Leave it out.")
        path = Path(file_path)
        if not path.is_file():
            raise UserErrorException(f"{path.absolute()} path doesn't exist: a pip requirements file is needed there.")
        return Environment(name, pip_packages=read_file(path), inherit=inherit)

    @staticmethod
    def from_conda_specification(name: str, file_path: str | os.PathLike[str], *, inherit: bool = True) -> Environment:
        """An environment with the packages of a conda file (environment.yml), read now. Raises UserErrorException."""
        environment = Environment(name, inherit=inherit)
        environment.python.conda_dependencies = CondaDependencies(file_path)
        return environment

    def clone(self, new_name: str) -> Environment:
        """An independent copy under another name."""
        import copy

        other = copy.deepcopy(self)
        if not isinstance(new_name, str):
            raise TypeError(f"Environment name expected str, {type(new_name)} found")
        other.name = new_name
        return other

    def spec(self) -> EnvironmentSpec:
        """The environment, checked and frozen. Raises UserErrorException or UnsupportedJob; nothing is built."""
        asked = self.docker.asked()
        if asked:
            raise UnsupportedJob(f"The environment {self.name!r} sets {', '.join(asked)}, but {CONTAINERS}.")
        if self.python.base_conda_environment is not None:
            raise UnsupportedJob(
                "python.base_conda_environment is not possible; set python.interpreter_path to its Python."
            )
        if not isinstance(self.inherit, bool):
            raise UserErrorException(f"inherit is True or False, not {self.inherit!r}.")
        variables = variables_checked(self.environment_variables)
        dependencies = self._dependencies()
        interpreter = _interpreter(self.python.interpreter_path)
        if self.python.user_managed_dependencies:
            if not dependencies.is_empty:
                raise UserErrorException(
                    "If user_managed_dependencies is True, nothing is installed: take the packages out, "
                    "or set it to False."
                )
            return EnvironmentSpec(self.name, interpreter, environment_variables=variables, user_managed=True)
        conda = tuple(dependencies.conda_packages)
        return EnvironmentSpec(
            self.name,
            interpreter,
            self.inherit,
            check((*dependencies.pip_options, *_without_retired(dependencies.pip_packages))),
            conda,
            tuple(dependencies.conda_channels) if conda else (),
            _python_version(dependencies.python_version, interpreter, self.inherit),
            variables,
        )

    def _dependencies(self) -> CondaDependencies:
        dependencies = self.python.conda_dependencies
        if self.python.conda_dependencies_file is not None:
            if dependencies is not None and not dependencies.is_empty:
                raise UserErrorException("Set python.conda_dependencies or python.conda_dependencies_file, not both.")
            return CondaDependencies(self.python.conda_dependencies_file)
        if not isinstance(dependencies, CondaDependencies):
            raise UserErrorException(f"python.conda_dependencies is a CondaDependencies, not {dependencies!r}.")
        return dependencies


def _interpreter(path: object) -> str:
    """The absolute path of the interpreter meant; "python" is the one that runs this."""
    if path == "python":
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


def _python_version(version: str | None, interpreter: str, inherit: bool) -> str:
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


def variables_checked(values: object) -> dict[str, str]:
    """Environment variables as text; refuses names that no process can have, and those that tell ranks their place."""
    if not isinstance(values, Mapping):
        raise UserErrorException(f"environment_variables is a dictionary of names and texts, not {values!r}.")
    result = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name or any(c in name for c in "=\0") or not name.isprintable():
            raise UserErrorException(f"{name!r} is no name for an environment variable.")
        if not isinstance(value, (str, int, float, os.PathLike)) or "\0" in str(value):
            raise UserErrorException(f"The environment variable {name} is text without NUL, not {value!r}.")
        if not without_ranks({name: ""}):
            raise UserErrorException(
                f"The environment variable {name} tells a rank its place in the job: trainkit sets it. Leave it out."
            )
        if name == "CUDA_VISIBLE_DEVICES":
            raise UserErrorException(
                "CUDA_VISIBLE_DEVICES is set for each node of a job. Say use_gpu=False to hide the GPUs; to leave some "
                "to others, set it where you submit: a job uses those that it leaves visible."
            )
        result[name] = str(value)
    return result
