"""Environments with conda packages, made by micromamba, mamba or conda: whichever is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError, UnsupportedJob
from trainkit.prepare.base import Base
from trainkit.prepare.installer import Installer, conda

DEFAULT_CHANNELS = ("conda-forge",)


def refuse_without_conda(packages: Sequence[str]) -> None:
    """Raises UnsupportedJob where conda packages are asked for and nothing here can install them."""
    if packages and conda() is None:
        raise UnsupportedJob(
            f"conda_packages asks for {', '.join(packages)}, but this machine has neither micromamba, mamba nor conda. "
            "Install one of them so that it is on the PATH, or ask for the packages with pip_packages."
        )


def create_command(program: str, spec: EnvironmentSpec, python: str, environment: Path) -> list[str]:
    """The command that makes the environment."""
    argv = [program, "create", "--yes", "--prefix", str(environment), "--override-channels"]
    for channel in spec.conda_channels or DEFAULT_CHANNELS:
        argv += ["--channel", channel]
    return [*argv, f"python={python}", "pip", *spec.conda_packages]


def make_conda(installer: Installer, environment: Path, spec: EnvironmentSpec, base: Base) -> str:
    """An environment with the conda packages, and the base's Python where it stands on the base."""
    refuse_without_conda(spec.conda_packages)
    program = conda()
    assert program is not None
    result = installer.run(
        create_command(program, spec, spec.python_version or base.minor, environment), environment.parent
    )
    if result.code:
        lines = [line for line in result.output.splitlines() if line.strip()]
        raise EnvironmentBuildError(
            f"{Path(program).name} could not make the environment: {' '.join(lines[-3:])}", "\n".join(lines[-60:])
        )
    return ""
