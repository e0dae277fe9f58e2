"""Environments with conda packages, made by micromamba, mamba or conda where one is installed, else by py-rattler.

Python itself comes from the channels too, as in every conda environment. What was installed is read from the
environment's own records, whichever tool wrote them, as a list of addresses that each of the tools can install again.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError, UnsupportedJob
from trainkit.prepare import locks
from trainkit.prepare.base import Base
from trainkit.prepare.installer import Installer, conda

DEFAULT_CHANNELS = ("conda-forge",)
_RECORDS = "conda-meta"
_NO_PYTHON = re.compile(r"(?:No candidates were found for|nothing provides(?: requested)?|[-─] ) *python[ =]")
_UNREACHABLE = re.compile(
    r"error sending request|CondaHTTPError|ConnectionError|Could(?: not|n't) (?:resolve|connect)|Download error"
)
_SECRETS = (re.compile(r"(?<=://)[^/@]+@"), re.compile(r"(?<=/)t/[^/]+/"))  # in addresses: a password, a token


@dataclass(frozen=True)
class Tool:
    """What makes conda environments here: a program of the conda family, or py-rattler where `program` is ""."""

    program: str

    @property
    def name(self) -> str:
        """As users know it."""
        return Path(self.program).name or "py-rattler"

    def create(self, channels: Sequence[str], packages: Sequence[str], environment: Path) -> list[str]:
        """The command that makes an environment of packages from channels."""
        if not self.program:
            return _rattling(channels, packages, environment, offline=False)
        argv = [self.program, "create", "--yes", "--prefix", str(environment), "--override-channels"]
        for channel in channels:
            argv += ["--channel", channel]
        return [*argv, *packages]

    def create_again(self, lock: Path, channels: Sequence[str], environment: Path, offline: bool) -> list[str]:
        """The command that makes an environment of what a lock names, with or without the network."""
        if not self.program:
            return _rattling(channels, exact(lock.read_text(encoding="utf-8")), environment, offline)
        words = ["--offline"] if offline else []
        return [self.program, "create", "--yes", "--prefix", str(environment), *words, "--file", str(lock)]


def tool() -> Tool | None:
    """The tool to use, or None where nothing here can install conda packages."""
    program = conda()
    if program is not None:
        return Tool(program)
    return Tool("") if importlib.util.find_spec("rattler") is not None else None


def refuse_without_conda(packages: Sequence[str]) -> None:
    """Raises UnsupportedJob where conda packages are asked for and nothing here can install them."""
    if packages and tool() is None:
        raise UnsupportedJob(
            f"conda_packages asks for {', '.join(packages)}, but this machine has neither micromamba, mamba nor conda, "
            "and py-rattler is not installed. Run pip install 'trainkit[conda]', or put one of those programs on the "
            "PATH, or ask for the packages with pip_packages."
        )


def channels_of(spec: EnvironmentSpec) -> tuple[str, ...]:
    """Where its packages come from; "nodefaults", as files have it, is what holds in any case."""
    return tuple(c for c in spec.conda_channels if c != "nodefaults") or DEFAULT_CHANNELS


def make_conda(installer: Installer, environment: Path, spec: EnvironmentSpec, base: Base, known: str = "") -> str:
    """An environment with the conda packages, and the base's Python where it stands on the base; returns its lock.

    `known` is the lock of an earlier environment of the same name. Raises EnvironmentBuildError.
    """
    refuse_without_conda(spec.conda_packages)
    maker, channels = tool(), channels_of(spec)
    assert maker is not None
    if known and _made_again(installer, maker, channels, environment):
        return known
    packages = [f"python={spec.python_version or base.minor}", "pip", *spec.conda_packages]
    result = installer.run(maker.create(channels, packages, environment), environment.parent)
    if result.code:
        raise EnvironmentBuildError(
            f"{maker.name} could not make the environment: {explain(result.output, packages[0], channels)}",
            "\n".join(result.output.splitlines()[-60:]),
        )
    return lock_of(environment)


def _made_again(installer: Installer, maker: Tool, channels: Sequence[str], environment: Path) -> bool:
    lock = locks.kept(environment) / locks.CONDA
    for offline in (True, False):
        installer.say(f"making what the lock of an earlier build names, {'from the cache' if offline else 'again'}")
        if installer.run(maker.create_again(lock, channels, environment, offline), environment.parent).code == 0:
            return True
    installer.say("what the lock names can be had no longer; deciding anew which packages are needed")
    return False


def _rattling(channels: Sequence[str], packages: Sequence[str], environment: Path, offline: bool) -> list[str]:
    asked = {"channels": channels, "packages": packages, "prefix": str(environment), "offline": offline}
    return [sys.executable, "-m", "trainkit.prepare.rattling", json.dumps(asked)]


def explain(output: str, python: str, channels: Sequence[str]) -> str:
    """The tool's own words, and what to do where it is known."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    words = " ".join(lines[-3:]) or "it says nothing"
    if _UNREACHABLE.search(output):
        return f"{words} See that the channels can be reached: {', '.join(channels)}."
    if _NO_PYTHON.search(output):
        return (
            f"{words} The environment's Python comes from its channels, and {', '.join(channels)} has no {python} that "
            "fits: add a channel that has it (conda-forge), or ask for another python_version with inherit=False."
        )
    return words


def lock_of(environment: Path) -> str:
    """The explicit list of what is installed in an environment, by its records: addresses with their MD5 sums."""
    records = [json.loads(path.read_bytes()) for path in sorted((environment / _RECORDS).glob("*.json"))]
    if not records:
        return ""
    lines = [
        f"# The conda packages of environment {environment.name}.",
        "# conda create --prefix DIR --file conda.lock",
    ]
    return "\n".join([*lines, "@EXPLICIT", *map(_line, records)]) + "\n"


def _line(record: Any) -> str:
    address = str(record["url"])
    for secret in _SECRETS:
        address = secret.sub("", address)
    return f"{address}#{record['md5']}" if record.get("md5") else address


def exact(lock: str) -> list[str]:
    """The packages of a lock as requirements that only they meet."""
    found = []
    for line in lock.splitlines():
        address, _, md5 = line.partition("#")
        name = re.search(r"/([^/]+)-([^/-]+)-([^/-]+)\.(?:tar\.bz2|conda)$", address)
        if name:
            found.append(f"{name[1]} =={name[2]} {name[3]}" + (f"[md5={md5}]" if md5 else ""))
    return found
