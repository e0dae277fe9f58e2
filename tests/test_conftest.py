"""The suite's own guards: nothing outlives it, no launcher around it leaks in, no engine is skipped in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")
LEAVES = """
import subprocess

def test_leaves():
    subprocess.run(["sh", "-c", "sleep 61 >/dev/null 2>&1 & until grep -q sleep /proc/$!/comm; do sleep 0.01; done"])
"""
CLEAN = """
import os

def test_clean():
    assert "RANK" not in os.environ and "OMPI_COMM_WORLD_SIZE" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["TRAINKIT_TEST_DATA"] == "/data"
"""
SKIPS = """
import pytest

@pytest.mark.engine
def test_engine():
    pytest.skip("no mpirun")

def test_other():
    pytest.skip("no photographs")
"""


def _session(folder: Path, test: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A session of its own with our conftest, which waits less long for stragglers."""
    text = CONFTEST.read_text(encoding="utf-8").replace("GRACE_SECONDS = 20.0", "GRACE_SECONDS = 0.3")
    (folder / "conftest.py").write_text(text, encoding="utf-8")
    (folder / "test_it.py").write_text(test, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    engine: x\n", encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name not in ("TESTS_OF_TRAINKIT", "CI")}
    words = [sys.executable, "-m", "pytest", "-q", "-s", "-ra", "-p", "no:cacheprovider", "."]
    shared = {"PYTHONPATH": str(CONFTEST.parents[1])}  # conftest.py takes fixtures from the tests' own modules
    return subprocess.run(words, cwd=folder, env={**kept, **shared, **environment}, capture_output=True, text=True)


def test_a_process_that_is_left_fails_the_session_and_is_ended(tmp_path: Path) -> None:
    done = _session(tmp_path, LEAVES)
    assert done.returncode == 1
    assert "processes left behind" in done.stdout
    pid, _, command = (
        done.stdout.partition("left behind by the tests")[2].strip("= \n").partition("\n")[0].partition(":")
    )
    assert command.strip() == "sleep 61"
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_an_outer_launchers_variables_do_not_reach_tests(tmp_path: Path) -> None:
    done = _session(tmp_path, CLEAN, RANK="3", OMPI_COMM_WORLD_SIZE="4", TRAINKIT_TEST_DATA="/data")
    assert done.returncode == 0, done.stdout


def test_an_engine_is_skipped_only_outside_continuous_integration(tmp_path: Path) -> None:
    assert _session(tmp_path, SKIPS).returncode == 0
    done = _session(tmp_path, SKIPS, CI="true")
    assert done.returncode == 1
    assert "1 failed, 1 skipped" in done.stdout
    assert "no mpirun" in done.stdout
