"""Which image a job's environment stands on, decided at submit: plain values, stored in job.json, never a password."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ImageSpec", "RegistrySpec"]


@dataclass(frozen=True)
class RegistrySpec:
    """A private registry, and where the password for it is: `reference` is "env:NAME" or "keyring:SERVICE".

    An empty `reference` with a `username` says that the password was given by value: it lives in memory only.
    """

    address: str
    username: str = ""
    reference: str = ""


@dataclass(frozen=True)
class ImageSpec:
    """An image by name, or the Dockerfile that makes it, and how containers of it are run."""

    engine: str = ""  # "docker", "podman" or "apptainer"; empty where the cluster itself runs images
    base: str = ""  # the image's name as the user wrote it; empty where `dockerfile` makes it
    dockerfile: str = ""  # its text
    context: str = ""  # the absolute folder that the Dockerfile copies from; empty: there is none
    registry: RegistrySpec | None = None
    arguments: tuple[str, ...] = ()  # the user's own, for the engine's `run`
    shm_size: str = "2g"
    shared_volumes: bool = True

    @property
    def words(self) -> str:
        """For people: the name, or that a Dockerfile makes it."""
        return self.base or ("an image built from " + (self.context or "a Dockerfile"))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageSpec:
        """The inverse of `to_json`; unknown keys are passed over."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        known["arguments"] = tuple(known.get("arguments", ()))
        if known.get("registry") is not None:
            known["registry"] = RegistrySpec(**known["registry"])
        return cls(**known)
