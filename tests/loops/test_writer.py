"""Writing checkpoints: killed at any instant, on a disk that fills up, beside what killed writers left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from trainkit.errors import CheckpointError, TrainkitError
from trainkit.loops import writer
from trainkit.loops.checkpoints import Checkpoints, load
from trainkit.testing import wait_until


def save(checkpoints: Checkpoints, step: int, count: int = 10) -> None:
    checkpoints.save(step, {"model": {"weight": torch.full((count,), float(step))}}, {"step": step}, [{}], "")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_at_any_instant_there_is_a_newest_one_that_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainkit.testing.saves", str(tmp_path / "killed"), "--kills", "8", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["wrong"] == [], done.stderr
    assert result["saved"] > 0 and result["kills"] == 8


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (".step-00000007.123", ".gone-step-00000001.123", ".mine", "notes", "step-5", "step-00000003.txt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.newest() is None
    assert (tmp_path / ".step-00000007.123").exists()  # a reader sweeps nothing: it may be in the making
    save(checkpoints, 8)
    checkpoints.wait()
    left = {".mine", "notes", "step-5", "step-00000003.txt", "step-00000008"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_one_that_stepped_aside_for_its_successor_is_read_if_the_writer_died_then(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 4)
    checkpoints.wait()
    (tmp_path / "step-00000004").rename(tmp_path / "step-00000004.old")
    assert load(tmp_path).step == 4
    save(checkpoints, 4)
    checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        wait_until(lambda: subprocess.run(["umount", str(disk)]).returncode == 0, 20, "the disk's last user to go")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_fills_up_loses_nothing_and_is_told_once(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk)
    for step in (1, 2):
        save(checkpoints, step, 200_000)
    checkpoints.wait()
    before = everything(small_disk)
    save(checkpoints, 3, 2_000_000)
    with pytest.raises(TrainkitError, match="No space left on device.*step-00000002 and those before it"):
        checkpoints.wait()
    assert everything(small_disk) == before
    assert [path.name for path in small_disk.glob(".*")] == []
    checkpoints.wait()  # told once
    save(checkpoints, 4, 2_000_000)
    with pytest.raises(CheckpointError, match="could not be written"):
        save(checkpoints, 5)
    save(checkpoints, 6)
    checkpoints.wait()
    assert load(small_disk).step == 6


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_is_full_to_the_last_byte_loses_nothing(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk, keep=2)
    save(checkpoints, 1)
    checkpoints.wait()
    with open(small_disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    save(checkpoints, 2)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.wait()
    assert load(small_disk).step == 1
    assert {path.name for path in small_disk.iterdir()} == {"filler", "step-00000001"}


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    save(checkpoints, 1)
    with pytest.raises(CheckpointError, match="could not be written to .*file/checkpoints .*there is none before it"):
        checkpoints.wait()


def test_pieces_are_the_file_and_the_manifest_knows_their_hash(tmp_path: Path) -> None:
    large = np.arange(9_000_000, dtype=np.uint8)
    pieces: list[writer.Piece] = [b"head", np.empty(0, np.uint8), large, b"", b"tail"]
    path = writer.write(tmp_path, 1, {"a.json": pieces}, {"world_size": 1}, keep=1)
    assert (path / "a.json").read_bytes() == b"head" + large.tobytes() + b"tail"
    fact = writer.read_manifest(path)["files"]["a.json"]
    assert writer.read_file(path / "a.json", fact).tobytes() == (path / "a.json").read_bytes()


@pytest.mark.parametrize(
    "name", ["../a.json", "/a.json", "a/b.json", ".json", "a", "a.pkl", "manifest.json", "a.json\n"]
)
def test_names_of_files_stay_in_their_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="A checkpoint has no file named"):
        writer.write(tmp_path, 1, {name: [b"x"]}, {"world_size": 1}, keep=1)
    assert list(tmp_path.iterdir()) == []


ENDS = """
import sys, torch
from pathlib import Path
from trainkit.loops.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(1, {"model": {"weight": torch.ones(3_000_000)}}, {}, [{}], "")
sys.exit(75)
"""


def test_a_program_that_ends_while_it_saves_has_saved(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", ENDS, str(tmp_path)]).returncode == 75
    assert load(tmp_path).step == 1
