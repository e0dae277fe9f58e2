"""`DockerSection`, what an environment says of its image, and `DockerConfiguration`, what a run says of its containers.

Both are only noted: nothing is built, and no file but one that is open is read before `trainkit.containers` freezes
them at submit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainkit.deprecation import warn_deprecated
from trainkit.errors import UserErrorException
from trainkit.registries import ContainerRegistry

if TYPE_CHECKING:
    from trainkit.workspace import Workspace

__all__ = ["ContainerRegistry", "DockerBuildContext", "DockerConfiguration", "DockerSection"]

SHM_SIZE = "2g"  # where nothing else is said
_SOURCES = ("base_image", "base_dockerfile", "build_context")


@dataclass(slots=True)
class DockerConfiguration:
    """How a run uses containers. What is set here counts more than the environment's own `docker` section.

    `use_docker` is None (a container where an image is named), True or False; `engine` is the name of an installed
    one ("docker", "podman"), None leaves the choice to what is there.
    """

    use_docker: bool | None = None
    shared_volumes: bool = True
    arguments: Sequence[str] = ()
    shm_size: str | None = None
    engine: str | None = None


@dataclass(frozen=True)
class DockerBuildContext:
    """A folder with a Dockerfile and the files that it copies; `path` is absolute, `dockerfile_path` relative to it."""

    path: str
    dockerfile_path: str = "Dockerfile"

    @staticmethod
    def from_local_directory(
        workspace: Workspace | None, path: str | os.PathLike[str], dockerfile_path: str = "Dockerfile"
    ) -> DockerBuildContext:
        """The context that a folder of this machine is. It is read when a job is submitted, and is not copied.

        Raises UserErrorException where there is no such folder, or no such Dockerfile in it.
        """
        context = DockerBuildContext(os.path.abspath(os.path.expanduser(path)), dockerfile_path)
        context.dockerfile()
        return context

    def dockerfile(self) -> str:
        """The absolute path of the Dockerfile. Raises UserErrorException where it is not there."""
        if not isinstance(self.path, str) or not os.path.isdir(self.path):
            raise UserErrorException(f"The build context is a folder, but there is none at {self.path}.")
        name = self.dockerfile_path
        if not isinstance(name, str) or os.path.isabs(name) or ".." in name.split("/"):
            raise UserErrorException(
                f"The Dockerfile of a build context lies in it: give dockerfile_path relative to {self.path}, not "
                f"{name!r}."
            )
        file = os.path.join(self.path, name)
        if not os.path.isfile(file):
            raise UserErrorException(f"The build context {self.path} has no Dockerfile {file}.")
        return file


class DockerSection:
    """An environment's image and how containers of it are run.

    `base_image` names an image; `base_dockerfile` is a Dockerfile's text, its path (found from the current directory
    at submit) or an open file, which is read at once; `build_context` is a folder to build. The one set last counts,
    and a line on standard error says which one it took the place of. `enabled` is None (a container where one of them
    is set), True or False. `arguments` are words for the engine's `run`, `shm_size` the shared memory that data
    loaders need, `engine` the engine's name. `gpu_support` has no effect: GPUs are shown where the job has them.
    """

    __slots__ = (
        "_base_dockerfile",
        "_base_image",
        "_build_context",
        "_gpu_support",
        "arguments",
        "base_image_registry",
        "enabled",
        "engine",
        "shared_volumes",
        "shm_size",
    )

    def __init__(self) -> None:
        self.enabled: bool | None = None
        self._base_image: str | None = None
        self._base_dockerfile: str | os.PathLike[str] | None = None
        self._build_context: DockerBuildContext | None = None
        self._gpu_support: bool | None = None
        self.base_image_registry = ContainerRegistry()
        self.arguments: list[str] = []
        self.shm_size: str = SHM_SIZE
        self.shared_volumes = True
        self.engine: str | None = None

    @property
    def base_image(self) -> str | None:
        """The image's name, as in "fastdotai/fastai2:latest"."""
        return self._base_image

    @base_image.setter
    def base_image(self, value: str | None) -> None:
        self._take("base_image", value)

    @property
    def base_dockerfile(self) -> str | os.PathLike[str] | None:
        """The Dockerfile's text or path."""
        return self._base_dockerfile

    @base_dockerfile.setter
    def base_dockerfile(self, value: Any) -> None:
        self._take("base_dockerfile", _read(value) if hasattr(value, "read") else value)

    @property
    def build_context(self) -> DockerBuildContext | None:
        """The folder that the image is built from."""
        return self._build_context

    @build_context.setter
    def build_context(self, value: DockerBuildContext | None) -> None:
        self._take("build_context", value)

    @property
    def gpu_support(self) -> bool | None:
        """Without effect."""
        return self._gpu_support

    @gpu_support.setter
    def gpu_support(self, value: bool | None) -> None:
        if value is not None:
            warn_deprecated("docker.gpu_support has no effect: a container is shown the GPUs that the job has.")
        self._gpu_support = value

    def source(self) -> tuple[str, Any]:
        """Which of base_image, base_dockerfile and build_context is set, and to what; ("", None) for none."""
        return next(((name, value) for name in _SOURCES if (value := getattr(self, name)) is not None), ("", None))

    @property
    def asks_for_image(self) -> bool:
        """Whether a job in this environment is to run in a container, as far as the environment says."""
        return bool(self.enabled) or bool(self.source()[0])

    def registry(self) -> ContainerRegistry:
        """The registry; raises UserErrorException where something else was put in its place."""
        if isinstance(self.base_image_registry, ContainerRegistry):
            return self.base_image_registry
        raise UserErrorException(
            "docker.base_image_registry is a ContainerRegistry: set its address, username and password, not the whole "
            f"to {self.base_image_registry!r}."
        )

    def _take(self, name: str, value: Any) -> None:
        """Set one way to name the image; another that was set before gives way."""
        before, _ = self.source()
        setattr(self, "_" + name, value)
        if value is not None and before not in ("", name):
            setattr(self, "_" + before, None)
            print(f"trainkit: docker.{name} takes the place of docker.{before}, set before.", file=sys.stderr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DockerSection) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        values = ", ".join(f"{name.lstrip('_')}={getattr(self, name)!r}" for name in self.__slots__)
        return f"DockerSection({values})"


def _read(file: Any) -> str:
    """An open Dockerfile's text, which ends with a newline: so it is never taken for a path."""
    text = file.read()
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return str(text).rstrip("\n") + "\n"
