"""Whether a job runs in a container, and of which image: from what users said to an `ImageSpec`.

A container is used where somebody asked for one: by `docker.enabled`, `use_docker=True`, an image, a Dockerfile or a
build context. Nothing is built here; a Dockerfile that is a path is read.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from trainkit.checks import flag_of
from trainkit.deprecation import warn_deprecated
from trainkit.docker import SHM_SIZE, DockerBuildContext, DockerConfiguration, DockerSection
from trainkit.environmentspec import EnvironmentSpec
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.imagespec import ImageSpec

__all__ = [
    "arguments_of",
    "dockerfile_text",
    "engine_of",
    "for_cluster",
    "image_of",
    "size_of",
    "with_engine",
]

_NAME = re.compile(r"[A-Za-z0-9/._][A-Za-z0-9._:/@+\-]*")
_FILE_OR_ADDRESS = re.compile(r"[./]|[a-z\-]+://")
_FROM = re.compile(r"^[ \t]*FROM[ \t]+\S", re.IGNORECASE | re.MULTILINE)
_OURS = ("--name", "--entrypoint", "-d", "--detach", "--rm", "-w", "--workdir", "-u", "--user")  # of `run`
_SHM_SIZE = re.compile(r"([1-9][0-9]*)([bkmg]?)(?:i?b)?", re.IGNORECASE)


def image_of(
    section: DockerSection, run: DockerConfiguration | None = None, default_image: str = ""
) -> ImageSpec | None:
    """The image that a job's containers are to run; None where it needs none.

    `run` is what the run itself says, which counts more than the environment's section; `default_image` that of
    config.json. `engine` is the one asked for by name, "" where it is left open. Raises UserErrorException or
    UnsupportedJob.
    """
    run = run if run is not None else DockerConfiguration()
    name, value = section.source()
    words, use = _use(section, run)
    if not name and not use:
        _refuse_arguments(section, run)
        return None
    if use is False:
        raise UnsupportedJob(
            f"{words} asks for no container, but docker.{name} asks for one. Take one of them out: without a container "
            "a job runs in the target's own Python."
        )
    if not name and not default_image:
        raise UnsupportedJob(
            f"{words} asks for a container, but nothing says of which image. Set docker.base_image, or "
            '"default_image" in config.json; without a container a job runs in the target\'s own Python.'
        )
    base, dockerfile, context = _source(name, value) if name else (_image_name(default_image, "default_image"), "", "")
    return ImageSpec(
        engine=engine_of(run.engine if run.engine is not None else section.engine),
        base=base,
        dockerfile=dockerfile,
        context=context,
        registry=section.registry().spec(),
        arguments=arguments_of(run.arguments or section.arguments),
        shm_size=size_of(run.shm_size if run.shm_size is not None else section.shm_size),
        shared_volumes=_shared(section, run),
    )


def with_engine(spec: EnvironmentSpec, default_engine: str = "") -> EnvironmentSpec:
    """The same with the engine that runs its image: by its name, config.json's, or what is installed here.

    Raises UnsupportedJob where there is none.
    """
    if spec.image is None:
        return spec
    from trainkit.prepare.engines import choose_engine

    engine = choose_engine(spec.image.engine or default_engine or None)
    return dataclasses.replace(spec, image=dataclasses.replace(spec.image, engine=engine))


def for_cluster(spec: EnvironmentSpec, target: str) -> EnvironmentSpec:
    """The same for a cluster that fetches and runs the image itself, by its name alone.

    Raises UnsupportedJob for what would have to be built first, or be said to an engine.
    """
    image = spec.image
    if image is None:
        return spec
    asked = {
        "a Dockerfile": bool(image.dockerfile),
        "packages": spec.has_packages,
        "docker.arguments": bool(image.arguments),
        "a container engine": bool(image.engine),
    }
    wanted = [words for words, given in asked.items() if given]
    if wanted:
        raise UnsupportedJob(
            f"{target} runs images itself and by their names alone, but the environment {spec.name!r} has "
            f"{' and '.join(wanted)}. Build the image with all it needs, push it to a registry that the cluster "
            "reaches, and name it as docker.base_image with python.user_managed_dependencies=True."
        )
    if image.registry is not None and image.registry.username:
        raise UnsupportedJob(
            f"{target} fetches images itself, with secrets of its own: leave docker.base_image_registry out, and name "
            "the cluster's secret for it in the launcher's option image_pull_secrets."
        )
    return spec


def _use(section: DockerSection, run: DockerConfiguration) -> tuple[str, bool | None]:
    """What was said of using containers, and as which setting; None where nothing was."""
    for words, value in (("use_docker", run.use_docker), ("docker.enabled", section.enabled)):
        if value is not None:
            return f"{words}={value}", flag_of(words, value)
    return "", None


def _refuse_arguments(section: DockerSection, run: DockerConfiguration) -> None:
    """Raises UnsupportedJob for words that no container would be given."""
    if section.arguments or run.arguments:
        raise UnsupportedJob(
            "docker.arguments are for a container's start, but the job runs in none: set docker.base_image, or leave "
            "them out."
        )


def _shared(section: DockerSection, run: DockerConfiguration) -> bool:
    values = [flag_of("shared_volumes", one.shared_volumes) for one in (section, run)]
    if not all(values):
        warn_deprecated("docker.shared_volumes=False has no effect: a container always sees the run's directory.")
    return all(values)


def _source(name: str, value: object) -> tuple[str, str, str]:
    """The image's name, the Dockerfile's text, the folder of the build context."""
    if name == "base_image":
        return _image_name(value, "docker.base_image"), "", ""
    if name == "base_dockerfile":
        return "", dockerfile_text(value), ""
    if not isinstance(value, DockerBuildContext):
        raise UserErrorException(
            f"docker.build_context is what DockerBuildContext.from_local_directory returns, not {value!r}."
        )
    return "", _read(value.dockerfile(), "the Dockerfile of the build context"), value.path


def _image_name(value: object, what: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserErrorException(
            f"{what} is the name of an image, such as 'python:3.11' or 'registry.example.org:5000/team/image:tag', "
            f"not {value!r}."
        )
    if _FILE_OR_ADDRESS.match(value):
        raise UserErrorException(
            f"{what} is {value!r}, a file or an address, but docker and podman take images by their names alone, such "
            "as 'python:3.11'."
        )
    from trainkit.prepare.imagenames import parse

    parse(value)
    return value


def dockerfile_text(value: object) -> str:
    """The text of a Dockerfile that is given as text or as a path; one line that is no FROM is taken for a path.

    Raises UserErrorException where there is no such file, naming its absolute path, or where the text is no Dockerfile.
    """
    if isinstance(value, str) and ("\n" in value or _FROM.match(value)):
        return _checked(value, "docker.base_dockerfile")
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise UserErrorException(
            f"docker.base_dockerfile is the text of a Dockerfile, its path or an open file, not {value!r}."
        )
    return _read(os.path.abspath(os.path.expanduser(value)), f"docker.base_dockerfile ({os.fspath(value)!r})")


def _read(path: str | bytes, what: str) -> str:
    file = Path(os.fsdecode(path))
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        raise UserErrorException(
            f"{what}: there is no file {file}. Give the path of a Dockerfile, from the directory in which the job is "
            "submitted, or its text."
        ) from e
    except (OSError, UnicodeDecodeError) as e:
        raise UserErrorException(f"{what}: {file} cannot be read: {getattr(e, 'strerror', None) or e}.") from e
    return _checked(text, f"{what}: {file}")


def _checked(text: str, what: str) -> str:
    if not _FROM.search(text) or "\0" in text:
        raise UserErrorException(f"{what} is no Dockerfile: it has no line such as 'FROM python:3.11'.")
    return text


def arguments_of(values: object) -> tuple[str, ...]:
    """Words for the engine's `run`."""
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise UserErrorException(
            f"docker.arguments is a list of texts, such as ['--cap-add=SYS_PTRACE'], not {values!r}."
        )
    for value in values:
        if not isinstance(value, str) or not value or "\0" in value:
            raise UserErrorException(f"docker.arguments holds texts, such as '--cap-add=SYS_PTRACE', not {value!r}.")
        if value.partition("=")[0] in _OURS:
            raise UserErrorException(
                f"docker.arguments has {value!r}, which is trainkit's own to say: a job's container has a name, user, "
                "directory and program, and ends with the job. Take it out."
            )
    return tuple(values)


def size_of(value: object) -> str:
    """A size as engines take it: whole numbers with b, k, m or g."""
    found = _SHM_SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise UserErrorException(f"shm_size is a size such as '2g' or '512m', not {value!r}; without it, {SHM_SIZE}.")
    return found[1] + found[2].lower()


def engine_of(value: object) -> str:
    """An engine's name, "" for none; whether it is known is found out when it is chosen."""
    if value is not None and (not isinstance(value, str) or not value):
        raise UserErrorException(f"docker.engine is the name of a container engine, such as 'podman', not {value!r}.")
    return value or ""
