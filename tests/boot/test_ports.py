"""Ports are taken in a folder that is this user's alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from trainkit.boot.ports import reserve_port
from trainkit.errors import LaunchError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"trainkit-ports-{os.getuid()}"


def test_a_port_is_held_as_long_as_its_handle(folder: Path) -> None:
    port, handle = reserve_port("127.0.0.1")
    assert [lock.name for lock in folder.iterdir()] == [str(port)]
    assert folder.stat().st_mode & 0o777 == 0o700
    os.close(handle)


def test_a_folder_in_which_others_may_write_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(LaunchError, match=r"only user \d+ may write to it"):
        reserve_port("127.0.0.1")
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LaunchError, match="removed"):
        reserve_port("127.0.0.1")
    assert not list((tmp_path / "elsewhere").iterdir())
