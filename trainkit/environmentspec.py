"""What an `Environment` is frozen into at submit: `EnvironmentSpec`, plain values of which `trainkit.prepare` makes an
interpreter or an image. Nothing is read, resolved or asked here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainkit.boot.ranks import without_ranks
from trainkit.errors import UserErrorException
from trainkit.imagespec import ImageSpec

__all__ = ["EnvironmentSpec", "variables_checked"]


@dataclass(frozen=True)
class EnvironmentSpec:
    """A job's Python, decided: stored in the run's job.json.

    Without `image`, `interpreter` is a program of this machine, absolute. With one it is the name or path of a program
    in that image ("python"), `inherit` is True, and packages are for an image derived from it.
    """

    name: str
    interpreter: str
    inherit: bool = True
    pip_packages: tuple[str, ...] = ()
    conda_packages: tuple[str, ...] = ()
    conda_channels: tuple[str, ...] = ()
    python_version: str = ""
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    user_managed: bool = False
    image: ImageSpec | None = None

    @property
    def is_plain(self) -> bool:
        """Whether an interpreter of this machine itself is meant, with nothing to build or fetch."""
        return self.image is None and self.inherit and not self.has_packages

    @property
    def has_packages(self) -> bool:
        """Whether something is to be installed."""
        return bool(self.pip_packages or self.conda_packages or self.python_version)

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
