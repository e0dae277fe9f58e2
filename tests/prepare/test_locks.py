"""Locks: what they say, and that an environment that is gone is made again from its lock, without the network."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainkit.environment import Environment
from trainkit.prepare import Prepared, prepare
from trainkit.prepare.elsewhere import WHEELS, travelling
from trainkit.prepare.locks import Locks, files
from trainkit.requirements import parse


@pytest.fixture
def index(tmp_path: Path, shelf: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """A package registry on loopback that serves the shelf with hashes, and its server; uv's cache is empty."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("tk_extra", "tk_needed"):
        shelf.build(name, "1.0", needs=["tk_needed"] if name == "tk_extra" else [])
        page = shelf.folder / "simple" / name.replace("_", "-")
        page.mkdir(parents=True)
        (page / "index.html").write_text(
            "".join(
                f'<a href="../../{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>\n'
                for path in shelf.folder.glob(f"{name}-*.whl")
            )
        )
    handler = functools.partial(_Quiet, directory=str(shelf.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple", server
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def make(tmp_path: Path, *packages: str, **options: Any) -> Prepared:
    spec = Environment("tests", pip_packages=packages, **options).spec()
    return prepare(spec, tmp_path / "envs", tmp_path / "prepare.log")


def version(made: Prepared, module: str = "tk_extra") -> str:
    code = f"import {module}; print({module}.version)"
    return subprocess.run([made.interpreter, "-c", code], capture_output=True, text=True, cwd="/").stdout.strip()


def prune(made: Prepared) -> None:
    shutil.rmtree(Path(made.interpreter).parents[1])


@pytest.mark.parametrize("inherit", [True, False])
def test_an_environment_is_made_again_from_its_lock_without_the_network(
    tmp_path: Path, shelf: Any, index: tuple[str, Any], inherit: bool
) -> None:
    asked = (f"--index-url {index[0]}", "tk_extra")
    first = make(tmp_path, *asked, inherit=inherit)
    lock = Path(first.lock).read_text()
    for name in ("tk_extra", "tk_needed"):
        digest = hashlib.sha256((shelf.folder / f"{name}-1.0-py3-none-any.whl").read_bytes()).hexdigest()
        assert re.search(rf"^{name.replace('_', '-')}==1.0 \\\n +--hash=sha256:{digest}$", lock, re.MULTILINE), lock
    assert ("#   pytest==" in lock) == inherit  # what a layer stands on is named, and is no part of it
    index[1].shutdown()
    prune(first)
    second = make(tmp_path, *asked, inherit=inherit)
    assert not second.reused and version(second) == "1.0"
    assert Path(second.lock).read_text() == lock
    assert "from uv's cache" in (tmp_path / "prepare.log").read_text()


def test_what_was_locked_is_installed_again_though_there_is_a_newer_version(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    first = make(tmp_path, *shelf.options, "tk_extra")
    shelf.build("tk_extra", "2.0")
    prune(first)
    assert version(make(tmp_path, *shelf.options, "tk_extra")) == "1.0"


def test_what_can_be_had_no_longer_is_decided_anew(tmp_path: Path, shelf: Any) -> None:
    old = shelf.build("tk_extra", "1.0")
    first = make(tmp_path, *shelf.options, "tk_extra")
    old.unlink()
    shelf.build("tk_extra", "2.0")
    prune(first)
    second = make(tmp_path, *shelf.options, "tk_extra")
    assert version(second) == "2.0"
    assert "tk-extra==2.0" in Path(second.lock).read_text()
    assert "can be had no longer" in (tmp_path / "prepare.log").read_text()


def test_a_file_that_is_not_the_locked_one_is_not_installed_for_it(
    tmp_path: Path, shelf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.build("tk_extra", "1.0")
    first = make(tmp_path, *shelf.options, "tk_extra")
    shelf.build("tk_extra", "1.0", text="version = 'another'\n")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    prune(first)
    assert version(make(tmp_path, *shelf.options, "tk_extra")) == "another"
    assert "can be had no longer" in (tmp_path / "prepare.log").read_text()


def test_sources_stay_sources(tmp_path: Path, shelf: Any) -> None:
    build = (
        "import pathlib\ndef build_wheel(where, *_):\n    import zipfile\n    name = 'tk_never-1.0-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(pathlib.Path(where) / name, 'w') as file:\n"
        "        file.writestr('tk_never.py', 'version = 1')\n        i = 'tk_never-1.0.dist-info/'\n"
        "        file.writestr(i + 'METADATA', 'Metadata-Version: 2.1\\nName: tk_never\\nVersion: 1.0\\n')\n"
        "        file.writestr(i + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        file.writestr(i + 'RECORD', '')\n    return name\n"
    )
    shelf.source("tk_never", "1.0", build)
    first = make(tmp_path, *shelf.options, "tk_never", inherit=False)
    assert "--no-binary tk-never" in Path(first.lock).read_text()
    prune(first)
    assert version(make(tmp_path, *shelf.options, "tk_never", inherit=False), "tk_never") == "1"
    assert "can be had no longer" not in (tmp_path / "prepare.log").read_text()


def test_files_of_local_folders_are_told_by_name_and_version(shelf: Any) -> None:
    wheel, archive = shelf.build("tk_extra", "1.0"), shelf.source("tk_extra", "1.0")
    shelf.build("tk_extra", "1.0.1")
    shelf.build("tk_extra_more", "1.0")
    assert files(parse("tk-extra==1.0"), shelf.options) == [wheel, archive]


def test_local_files_travel_and_folders_are_refused(shelf: Any) -> None:
    wheel = shelf.build("tk_extra", "1.0")
    lock = f"# of tests\n--no-index\n--find-links file://{shelf.folder}\ntk-extra==1.0 --hash=sha256:ab\n"
    text, found, refusal = travelling(lock)
    assert (text, found, refusal) == (
        f"--find-links {WHEELS}\n--no-index\ntk-extra==1.0 --hash=sha256:ab\n", [wheel], ""
    )  # fmt: skip
    text, found, _ = travelling(f"tk-extra @ file://{wheel} \\\n    --hash=sha256:ab\n")
    assert f"tk-extra @ file://{WHEELS}/{wheel.name} \\\n    --hash=sha256:ab\n" in text
    assert found == [wheel]
    assert "uv build --wheel" in travelling(f"tk-extra @ file://{shelf.folder}\n")[2]
    assert travelling("numpy==2.0 \\\n    --hash=sha256:ab\n") == ("numpy==2.0 \\\n    --hash=sha256:ab\n", [], "")


def test_locks_are_written_whole_and_private(tmp_path: Path) -> None:
    made = Locks("numpy==2.0\n")
    made.write(tmp_path / "kept")
    assert Locks.read(tmp_path / "kept") == made
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["requirements.lock"]
    assert (tmp_path / "kept/requirements.lock").stat().st_mode & 0o077 == 0
