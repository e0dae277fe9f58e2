"""conda's part: environments from a channel that the tests make, by py-rattler; a stand-in for conda's own programs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.prepare.channels import MINOR, SUBDIR, VERSION, Channel
from trainkit.environment import Environment, EnvironmentSpec
from trainkit.errors import EnvironmentBuildError, UserErrorException
from trainkit.prepare import Prepared, prepare
from trainkit.prepare.conda import Tool, channels_of, exact, explain, refuse_without_conda, tool
from trainkit.prepare.rattling import sources

STAND_IN = """#!{python}
import json, os, subprocess, sys
if "tk-impossible" in sys.argv:
    sys.exit("PackagesNotFoundError: tk-impossible")
place = sys.argv[sys.argv.index("--prefix") + 1]
subprocess.run(["{python}", "-m", "venv", "--without-pip", place], check=True)
open(place + "/argv", "w").write("\\n".join(sys.argv[1:]))
os.mkdir(place + "/conda-meta")
record = {{"url": "https://me:word@example.org/t/secret/noarch/ffmpeg-7-0.conda", "md5": "ab"}}
open(place + "/conda-meta/ffmpeg-7-0.json", "w").write(json.dumps(record))
"""


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds one folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def channel(tmp_path: Path, only_here: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    """A channel with Python, pip, a module and the data that it needs; rattler's cache is empty."""
    pytest.importorskip("rattler")
    monkeypatch.setenv("RATTLER_CACHE_DIR", str(tmp_path / "cache"))
    made = Channel(tmp_path / "channel")
    made.python()
    made.module("pip", "24.0")
    made.module("iniconfig", version("iniconfig"))  # as it is in use
    made.module("tk-conda", "1.2", "tk-data")
    made.package("tk-data", "7", {"share/tk.txt": "seven\n"}, noarch="generic")
    return made


def spec(channel: Channel, *packages: str, **options: Any) -> EnvironmentSpec:
    environment = Environment("c", conda_packages=packages, **options)
    environment.python.conda_dependencies.add_channel(channel.address)
    return environment.spec()


def make(tmp_path: Path, wanted: EnvironmentSpec) -> Prepared:
    return prepare(wanted, tmp_path / "envs", tmp_path / "prepare.log")


def run(made: Prepared, code: str) -> str:
    done = subprocess.run([made.interpreter, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    return done.stdout.strip()


# --- which tool ---


def test_a_program_goes_before_the_library_and_micromamba_first(only_here: Path) -> None:
    pytest.importorskip("rattler")
    assert tool() == Tool("")
    for name in ("conda", "micromamba"):
        (only_here / name).write_text("")
        (only_here / name).chmod(0o755)
        assert tool() == Tool(str(only_here / name))


def test_refused_where_neither_a_program_nor_the_library_is_there(tmp_path: Path) -> None:
    """A Python that has trainkit and nothing else."""
    root = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\nfrom trainkit.prepare.conda import refuse_without_conda\n"
        "refuse_without_conda([])\nrefuse_without_conda(['ffmpeg'])"
    )
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
    )
    assert "UnsupportedJob" in done.stderr
    for word in ("ffmpeg", "micromamba", "trainkit[conda]", "pip_packages"):
        assert word in done.stderr


def test_the_command_line() -> None:
    wanted = Environment("c", conda_packages=["ffmpeg=7", "bioconda::samtools"]).spec()
    packages = ["python=3.11", "pip", *wanted.conda_packages]
    argv = Tool("/opt/micromamba").create(channels_of(wanted), packages, Path("/envs/x"))
    assert argv == [
        "/opt/micromamba", "create", "--yes", "--prefix", "/envs/x", "--override-channels", "--channel", "conda-forge",
        "python=3.11", "pip", "ffmpeg=7", "bioconda::samtools",
    ]  # fmt: skip
    again = Tool("/opt/micromamba").create_again(Path("/l/conda.lock"), (), Path("/envs/x"), offline=True)
    assert again[1:] == ["create", "--yes", "--prefix", "/envs/x", "--offline", "--file", "/l/conda.lock"]


def test_channels_as_files_name_them() -> None:
    environment = Environment("c", conda_packages=["ffmpeg"])
    for name in ("nodefaults", "bioconda"):
        environment.python.conda_dependencies.add_channel(name)
    assert channels_of(environment.spec()) == ("bioconda",)
    assert sources(["defaults", "mine"], ["bioconda::samtools", "pip"]) == [
        "https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r", "mine", "bioconda",
    ]  # fmt: skip


# --- a channel of our own, by py-rattler ---


def test_an_environment_is_made_from_a_channel_and_locked(tmp_path: Path, channel: Channel) -> None:
    made = make(tmp_path, spec(channel, "tk-conda", inherit=False, python_version=MINOR))
    assert run(made, "import sys, tk_conda; print(tk_conda.version, open(sys.prefix + '/share/tk.txt').read())") == (
        "1.2 seven"
    )
    with pytest.raises(subprocess.CalledProcessError):
        run(made, "import pytest")
    lock = Path(made.conda_lock).read_text().splitlines()
    assert "@EXPLICIT" in lock
    path = channel.folder / "noarch/tk-conda-1.2-0.tar.bz2"
    assert f"{path.as_uri()}#{hashlib.md5(path.read_bytes()).hexdigest()}" in lock
    assert any(f"/{SUBDIR}/python-{VERSION}-0.tar.bz2#" in line for line in lock)
    assert make(tmp_path, spec(channel, "tk-conda", inherit=False, python_version=MINOR)).reused


def test_a_file_with_packages_of_both_kinds_over_the_ones_in_use(tmp_path: Path, channel: Channel, shelf: Any) -> None:
    shelf.build("tk_extra", "1.5")
    file = tmp_path / "environment.yml"
    file.write_text(
        f"name: both\nchannels:\n  - {channel.address}\n  - nodefaults\ndependencies:\n  - python={MINOR}\n"
        "  - tk-conda>=1\n  - iniconfig\n  - pip\n"
        f"  - pip:\n    - --no-index\n    - --find-links {shelf.folder}\n    - tk_extra\n"
    )
    made = make(tmp_path, Environment.from_conda_specification("both", file).spec())
    code = "import click, iniconfig, tk_conda, tk_extra; print(tk_conda.version, tk_extra.version, iniconfig.version)"
    assert run(made, code) == f"1.2 1.5 {version('iniconfig')}"
    assert "tk-extra==1.5 --hash=sha256:" in Path(made.lock).read_text()
    assert "tk-conda-1.2" in Path(made.conda_lock).read_text()


def test_it_is_made_again_from_its_lock_though_there_is_a_newer_version(tmp_path: Path, channel: Channel) -> None:
    wanted = spec(channel, "tk-conda", inherit=False, python_version=MINOR)
    first = make(tmp_path, wanted)
    lock = Path(first.conda_lock).read_text()
    channel.module("tk-conda", "1.3")
    shutil.rmtree(Path(first.interpreter).parents[1])
    second = make(tmp_path, wanted)
    assert run(second, "import tk_conda; print(tk_conda.version)") == "1.2"
    assert Path(second.conda_lock).read_text() == lock
    assert exact(lock)[0].startswith("pip ==24.0 0[md5=")


def test_a_package_or_a_python_that_no_channel_has(tmp_path: Path, channel: Channel) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"py-rattler could not .*tk-absent"):
        make(tmp_path, spec(channel, "tk-absent"))
    with pytest.raises(EnvironmentBuildError, match=r"has no python=3\.1 that fits: add a channel .*conda-forge"):
        make(tmp_path, spec(channel, "tk-conda", inherit=False, python_version="3.1"))
    assert [path for path in (tmp_path / "envs").iterdir() if not path.name.startswith(".")] == []
    unreachable = "error: error sending request for url (https://x/noarch/repodata.json)\n"
    assert "See that the channels can be reached: conda-forge." in explain(unreachable, "python=3.11", ["conda-forge"])


# --- a program of the conda family: a stand-in makes what it would ---


def program(folder: Path, name: str) -> None:
    (folder / name).write_text(STAND_IN.format(python=sys.executable))
    (folder / name).chmod(0o755)


def test_an_environment_is_made_and_layered(tmp_path: Path, only_here: Path) -> None:
    program(only_here, "micromamba")
    wanted = Environment("c", conda_packages=["ffmpeg"]).spec()
    made = make(tmp_path, wanted)
    words = (Path(made.interpreter).parents[1] / "argv").read_text().split("\n")
    assert words[-3:] == [f"python={MINOR}", "pip", "ffmpeg"]
    assert os.access(made.interpreter, os.X_OK)
    assert "https://example.org/noarch/ffmpeg-7-0.conda#ab\n" in Path(made.conda_lock).read_text()
    assert make(tmp_path, wanted).reused
    shutil.rmtree(Path(made.interpreter).parents[1])
    words = (Path(make(tmp_path, wanted).interpreter).parents[1] / "argv").read_text().split("\n")
    assert "--offline" in words and words[-2] == "--file"


def test_condas_own_words_are_passed_on(tmp_path: Path, only_here: Path) -> None:
    program(only_here, "conda")
    with pytest.raises(EnvironmentBuildError, match="PackagesNotFoundError"):
        make(tmp_path, Environment("c", conda_packages=["tk-impossible"]).spec())


def test_nothing_to_refuse_without_conda_packages(only_here: Path) -> None:
    refuse_without_conda([])
    with pytest.raises(UserErrorException, match="password or token"):
        Environment("c").python.conda_dependencies.add_channel("https://me:word@example.org/channel")
