"""An `Environment` as plain values and back, in the names that the Azure ML SDK v1 gives them in its JSON files.

What is written down stands for itself: files that the environment names are read, and a password by value is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainkit.checks import flag_of
from trainkit.condafile import CondaDependencies
from trainkit.containers import arguments_of, dockerfile_text, engine_of, size_of
from trainkit.docker import SHM_SIZE, DockerBuildContext, DockerSection
from trainkit.environment import Environment
from trainkit.environmentspec import variables_checked
from trainkit.errors import UserErrorException
from trainkit.pythonsection import PYTHON, PythonSection
from trainkit.registries import ContainerRegistry

Definition = dict[str, Any]
_INHERIT = "inherit"  # a key that only trainkit writes


def definition_of(environment: Environment) -> Definition:
    """The environment, without its version. Raises UserErrorException where it cannot be written down."""
    return {
        "name": environment.name,
        "environmentVariables": variables_checked(environment.environment_variables),
        _INHERIT: environment.inherit,
        "python": _python(environment.python),
        "docker": _docker(environment.docker),
    }


def environment_of(values: Mapping[str, Any], where: str) -> Environment:
    """The inverse of `definition_of`; also of what that SDK wrote. `where` names it in the UserErrorException."""
    try:
        environment = Environment(values["name"])
        environment.environment_variables = dict(values.get("environmentVariables") or {})
        environment.inherit = values.get(_INHERIT, True)
        environment.python = _python_section(values.get("python") or {})
        environment.docker = _docker_section(values.get("docker") or {}, ours=_INHERIT in values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserErrorException(f"{where} describes no environment ({type(error).__name__}: {error}).") from error
    return environment


def _python(section: PythonSection) -> Definition:
    return {
        "userManagedDependencies": bool(section.user_managed_dependencies),
        "interpreterPath": str(section.interpreter_path),
        "condaDependencies": _conda(section.dependencies()),
    }


def _conda(dependencies: CondaDependencies) -> Definition:
    """As conda's own files have it."""
    python = f"python={dependencies.python_version}" if dependencies.python_version else "python"
    pip = [*dependencies.pip_options, *dependencies.pip_packages]
    return {
        "channels": list(dependencies.conda_channels),
        "dependencies": [python, *dependencies.conda_packages, *(["pip", {"pip": pip}] if pip else [])],
    }


def _docker(section: DockerSection) -> Definition:
    name, value = section.source()
    context = value if isinstance(value, DockerBuildContext) else None
    registry = section.registry()
    return {
        "enabled": None if section.enabled is None else flag_of("docker.enabled", section.enabled),
        "baseImage": section.base_image,
        "baseDockerfile": dockerfile_text(value) if name == "base_dockerfile" else None,
        "buildContext": {"path": context.path, "dockerfilePath": context.dockerfile_path} if context else None,
        "baseImageRegistry": {
            "address": registry.address,
            "username": registry.username,
            "password": registry.reference or None,
        },
        "arguments": list(arguments_of(section.arguments)),
        "shmSize": size_of(section.shm_size),
        "sharedVolumes": flag_of("docker.shared_volumes", section.shared_volumes),
        "engine": engine_of(section.engine) or None,
    }


def _python_section(values: Mapping[str, Any]) -> PythonSection:
    section = PythonSection(
        user_managed_dependencies=bool(values.get("userManagedDependencies", False)),
        interpreter_path=values.get("interpreterPath") or PYTHON,
        base_conda_environment=values.get("baseCondaEnvironment"),
    )
    conda = values.get("condaDependencies") or {}
    for channel in conda.get("channels") or ():
        section.conda_dependencies.add_channel(channel)
    for one in conda.get("dependencies") or ():
        if isinstance(one, Mapping):
            _add_pip(section.conda_dependencies, one.get("pip") or ())
        else:
            section.conda_dependencies.add_conda_package(one)
    return section


def _add_pip(dependencies: CondaDependencies, lines: Sequence[str]) -> None:
    for line in lines:
        dependencies.add_pip_package(line)


def _docker_section(values: Mapping[str, Any], ours: bool) -> DockerSection:
    """`enabled` is False in that SDK's files where nobody set it; it was not asked where machines were rented."""
    section = DockerSection()
    section.enabled = values.get("enabled") if ours else values.get("enabled") or None
    context = values.get("buildContext")
    section.base_image = values.get("baseImage")
    section.base_dockerfile = values.get("baseDockerfile")
    section.build_context = DockerBuildContext(context["path"], context["dockerfilePath"]) if context else None
    registry = values.get("baseImageRegistry") or {}
    section.base_image_registry = ContainerRegistry(
        registry.get("address"), registry.get("username"), registry.get("password")
    )
    section.arguments = list(values.get("arguments") or ())
    section.shm_size = values.get("shmSize") or SHM_SIZE
    section.shared_volumes = values.get("sharedVolumes", True)
    section.engine = values.get("engine")
    return section
