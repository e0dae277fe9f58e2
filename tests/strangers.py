"""Launchers of other distributions, as files on the path: what pip would have installed, without pip."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MOON = '''
"""The moon, for tests: this machine under another name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

from trainkit_launchers.local import Local

from trainkit.errors import UserErrorException


@dataclass(frozen=True)
class Rover:
    name: str
    wheels: int = 4
    token: str = ""


@dataclass(frozen=True)
class Moon:
    """Runs jobs on the moon, which is this machine.

    More words.
    """

    crater: str
    hosts: tuple[str, ...] = ()
    crew: int = 2
    speed: float = 1.5
    dark: bool = False
    side: Literal["near", "far"] = "near"
    key_file: Optional[Path] = None
    password: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    rover: Rover = Rover("first")
    rovers: tuple[Rover, ...] = ()

    def __post_init__(self) -> None:
        if self.crew < 0:
            raise UserErrorException("crew is at least 0.")
        if self.crew > 100:
            raise ValueError("too many")

    def start(self, job):
        return Local().start(job)

    def poll(self, handle):
        return Local().poll(handle)

    def cancel(self, handle):
        Local().cancel(handle)

    def dry_run(self, job):
        return f"to {self.crater}: {job.nodes} nodes, {job.run_id}"

    def shell(self, handle, node):
        return ("env", f"CRATER={self.crater}", f"NODE={node}")


@dataclass(frozen=True)
class Stone:
    weight: int = 1


class Unknown(Moon):
    pass
'''
POINTS = "[trainkit.launchers]\nmoon = moonbase:Moon\nstone = moonbase:Stone\nbroken = brokenbase:Broken\n"


def install(folder: Path, name: str, files: dict[str, str], points: str) -> None:
    """Write a distribution into `folder`."""
    for file, text in files.items():
        (folder / file).write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def moon(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution with the launcher `moon`, one that is none, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("moonbase")
    files = {"moonbase.py": MOON, "brokenbase.py": "import a_package_that_nobody_has\n"}
    install(folder, "moonbase", files, POINTS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
    yield folder
    sys.modules.pop("moonbase", None)
