"""trainkit's own command line, called on a testbed's ctl as a user would: targets, runs and what is told of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.engines.testbed import Testbed
from trainkit.testing import wait_until

PROGRAM = str(Path(sys.executable).parent / "trainkit")


def call(bed: Testbed, folder: Path, *words: str, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    """One command line on ctl, in a folder."""
    return bed.run("ctl", [PROGRAM, *words], cwd=folder, timeout=timeout)


class Client:
    """A user in a folder that all nodes see, with one target named `lab`."""

    def __init__(self, bed: Testbed, name: str, launcher: str, **options: object) -> None:
        self.bed, self.folder = bed, bed.shared / name
        self.folder.mkdir()
        self.call("init")
        words = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
        self.call("compute", "add", "lab", "--launcher", launcher, *words)

    def call(self, *words: str, code: int = 0, timeout: float = 150) -> str:
        """What a command prints. Asserts its exit code."""
        done = call(self.bed, self.folder, *words, timeout=timeout)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def submit(self, script: str, *words: str, nodes: int = 2, ranks: int = 1, spread: str = "fork") -> Path:
        """The directory of a new run of this script, on CPUs."""
        (self.folder / "train.py").write_text(script)
        shape = ("--nodes", str(nodes), "--ranks", str(ranks), "--spread", spread, "--gpu", "no")
        run_id = self.call("submit", "train.py", "--target", "lab", *shape, *words).strip()
        return next(iter(self.folder.glob(f".trainkit/runs/*/{run_id}")))

    def wait_for(self, run: Path, pattern: str, count: int = 1, seconds: float = 60) -> None:
        """Until so many files of the run have such a name."""
        wait_until(lambda: len(list(run.glob(pattern))) >= count, seconds, f"{count} x {pattern}")

    def ended(self, run: Path, code: int = 0) -> dict[str, Any]:
        """All that is told of the run, once it has ended."""
        self.call("wait", run.name, code=code)
        told: dict[str, Any] = json.loads(self.call("show", run.name, "--json"))
        return told

    def nothing_left(self, run: Path, seconds: float) -> None:
        """Until no node has a process of the run."""
        nodes = self.bed.names
        wait_until(lambda: not any(self.bed.processes(node, run.name) for node in nodes), seconds, "the end of all")
