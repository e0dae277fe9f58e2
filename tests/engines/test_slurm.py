"""Slurm itself, on a testbed: the laws of a launcher, whole runs, and what happens when its parts fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.engines.testbed import Testbed

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parent.parent.parent


def inner(bed: Testbed, *arguments: str, timeout: float = 600) -> None:
    """Run tests of slurm_laws.py in ctl; fails with what they print."""
    folder = bed.shared / "laws"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={folder}"]
    done = bed.run("ctl", [*command, "tests/engines/slurm_laws.py", *arguments], cwd=ROOT, timeout=timeout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_the_laws(slurm: Testbed) -> None:
    inner(slurm)
