"""The options that say what a job's Python is to have, and the environment that they describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.environment import Environment

OPTIONS = [
    click.option("--pip", "packages", multiple=True, metavar="REQUIREMENT",
                 help="A package that the job needs beside what is installed; may be given more than once."),
    click.option("--env-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
                 help="A requirements file, or a conda file (.yml), that describes the job's packages."),
    click.option("--isolated", is_flag=True, help="Only the packages named, nothing of what is installed."),
    click.option("--image", metavar="NAME",
                 help="Run in a container of this image; packages named beside it are installed into one built on it."),
    click.option("--dockerfile", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
                 help="Run in a container of the image that this file makes."),
    click.option("--engine", metavar="NAME", help="What runs containers: docker, podman, or another that is installed."
                 "  [default: the one that is there]"),
]  # fmt: skip


F = TypeVar("F", bound=Callable[..., Any])


def options(function: F) -> F:
    """Adds the options to a command."""
    for one in reversed(OPTIONS):
        function = one(function)
    return function


def environment_of(options: dict[str, Any], name: str = "command-line") -> Environment:
    """The environment; `name` is its own where no file gives it one. Raises UserErrorException."""
    from trainkit.environment import Environment

    file, packages = options["env_file"], options["packages"]
    if file is not None and packages:
        raise UserErrorException("--pip and --env-file exclude each other; write the packages into the file.")
    inherit = not options["isolated"]
    if file is None:
        environment = Environment(name, pip_packages=packages, inherit=inherit)
    elif file.suffix in (".yml", ".yaml"):
        environment = Environment.from_conda_specification(file.stem, file, inherit=inherit)
    else:
        environment = Environment.from_pip_requirements(file.stem, file, inherit=inherit)
    docker, image, dockerfile = environment.docker, options["image"], options["dockerfile"]
    if image is not None and dockerfile is not None:
        raise UserErrorException(
            "--image and --dockerfile exclude each other; the file's FROM names what it stands on."
        )
    if (image or dockerfile) is None and options["engine"] is not None:
        raise UserErrorException("--engine is for --image or --dockerfile: without them no container is used.")
    docker.base_image, docker.base_dockerfile, docker.engine = image, dockerfile, options["engine"]
    return environment
