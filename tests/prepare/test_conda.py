"""conda's part: found or refused; its command line; a stand-in program makes what conda would."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from trainkit.environment import Environment
from trainkit.errors import EnvironmentBuildError, UnsupportedJob
from trainkit.prepare import prepare
from trainkit.prepare.conda import create_command, refuse_without_conda

STAND_IN = """#!{python}
import subprocess, sys
if "tk-impossible" in sys.argv:
    sys.exit("PackagesNotFoundError: tk-impossible")
place = sys.argv[sys.argv.index("--prefix") + 1]
subprocess.run(["{python}", "-m", "venv", "--without-pip", place], check=True)
open(place + "/argv", "w").write("\\n".join(sys.argv[1:]))
"""


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds one folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_refused_where_none_is_installed(only_here: Path) -> None:
    with pytest.raises(UnsupportedJob, match="micromamba") as caught:
        refuse_without_conda(["ffmpeg"])
    assert "ffmpeg" in caught.value.message and "pip_packages" in caught.value.message
    refuse_without_conda([])


def test_the_command_line() -> None:
    spec = Environment("c", conda_packages=["ffmpeg=7", "bioconda::samtools"]).spec()
    argv = create_command("/opt/micromamba", spec, "3.11", Path("/envs/x"))
    assert argv == [
        "/opt/micromamba", "create", "--yes", "--prefix", "/envs/x", "--override-channels", "--channel", "conda-forge",
        "python=3.11", "pip", "ffmpeg=7", "bioconda::samtools",
    ]  # fmt: skip


def test_an_environment_is_made_and_layered(tmp_path: Path, only_here: Path) -> None:
    program = only_here / "micromamba"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    spec = Environment("c", conda_packages=["ffmpeg"]).spec()
    made = prepare(spec, tmp_path / "envs", tmp_path / "prepare.log")
    words = (Path(made.interpreter).parents[1] / "argv").read_text().split("\n")
    assert words[-3:] == [f"python={sys.version_info[0]}.{sys.version_info[1]}", "pip", "ffmpeg"]
    assert os.access(made.interpreter, os.X_OK)
    assert prepare(spec, tmp_path / "envs", tmp_path / "prepare.log").reused


def test_condas_own_words_are_passed_on(tmp_path: Path, only_here: Path) -> None:
    program = only_here / "conda"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    spec = Environment("c", conda_packages=["tk-impossible"]).spec()
    with pytest.raises(EnvironmentBuildError, match="PackagesNotFoundError"):
        prepare(spec, tmp_path / "envs", tmp_path / "prepare.log")
