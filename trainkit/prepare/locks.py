"""Locks of environments: what exactly was installed, kept beside the environment and beside each run that used it.

`requirements.lock` is a requirements file of exact versions, `conda.lock` an explicit list of conda packages; both with
the hashes that the packages' source tells. A copy outlives the environment, in `envs/.locks/DIGEST/`: while the same
packages are asked for, an environment that was removed is made again as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainkit.boot.rundir import make_private
from trainkit.hashing import file_sha256
from trainkit.requirements import Requirement, links_folder, normalised, parse

PIP, CONDA = "requirements.lock", "conda.lock"
_KEPT = ".locks"  # in envs/: a hidden name, which is no environment's


@dataclass(frozen=True)
class Locks:
    """The texts of an environment's locks; "" where there is none of this kind."""

    pip: str = ""
    conda: str = ""

    def write(self, folder: Path) -> None:
        """Put those that there are into a folder, each whole or not at all."""
        make_private(folder)
        for path, text in zip(paths(folder), (self.pip, self.conda), strict=True):
            if text:
                partial = path.with_name(f".{path.name}.{os.getpid()}")
                with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.write(text)
                os.replace(partial, path)

    @classmethod
    def read(cls, folder: Path) -> Locks:
        """Those that a folder holds."""
        return cls(*map(_text, paths(folder)))


def paths(folder: Path) -> tuple[Path, Path]:
    """Where the two locks lie in a folder."""
    return folder / PIP, folder / CONDA


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def kept(environment: Path) -> Path:
    """Where the locks of an environment are kept when it is gone."""
    return environment.parent / _KEPT / environment.name


def header(name: str, python: str, platform: str, base: str, beneath: Sequence[str]) -> str:
    """What the lock is of, as comments; `beneath` names the packages of the interpreter that it stands on."""
    lines = [f"The packages of environment {name}: Python {python}, {platform}.", f"uv pip install --no-deps -r {PIP}"]
    if beneath:
        lines += [f"They stand on those of {base}:", *(f"  {package}" for package in beneath)]
    return "".join(f"# {line}\n" for line in lines)


def beneath(records: Sequence[str]) -> list[str]:
    """Names and versions by the names of packages' records ("numpy-2.1.0.dist-info")."""
    found = set()
    for record in records:
        name, _, version = record.rpartition(".")[0].partition("-")
        if version:
            found.add(f"{normalised(name)}=={version.partition('-py')[0]}")
    return sorted(found)


def with_hashes(lines: Sequence[str], options: Sequence[str]) -> list[str]:
    """The lines of a resolver's output, with the hashes of files of local folders, which it leaves out."""
    return [
        line if "--hash=" in line or "\\" in line else " ".join((line, *_hashes(parse(line), options)))
        if _is_requirement(line) else line
        for line in lines
    ]  # fmt: skip


def _is_requirement(line: str) -> bool:
    return bool(line.strip()) and not line[0].isspace() and line[0] not in "#-"


def _hashes(requirement: Requirement, options: Sequence[str]) -> Iterator[str]:
    for path in files(requirement, options):
        yield f"--hash=sha256:{file_sha256(path)}"


def files(requirement: Requirement, options: Sequence[str]) -> list[Path]:
    """The files of local folders (`--find-links`) that this exact requirement means."""
    found = []
    for option in options:
        folder = links_folder(option)
        if folder and requirement.pin and os.path.isdir(folder):
            found += [path for path in sorted(Path(folder).iterdir()) if _is_of(path.name, requirement)]
    return found


def _is_of(file: str, requirement: Requirement) -> bool:
    """Whether a wheel, or an archive of sources, has this name and version."""
    wheel = re.match(r"^(.+?)-([^-]+)(?:-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl$", file)
    match = wheel or re.match(r"^(.+)-([^-]+)\.(?:tar\.gz|zip)$", file)
    return bool(match) and normalised(match[1]) == requirement.name and match[2] == requirement.pin  # type: ignore[index]
