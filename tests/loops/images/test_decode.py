"""Decoded pixels are those of `read_picture`, whatever the file is; so are refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.loops.images.drawn import drawn
from trainkit import UserErrorException
from trainkit.export.preprocessing import read_picture
from trainkit.loops.images.decode import _bytes, _plain_jpeg, decoded

JPEGS: dict[str, dict[str, Any]] = {
    "usual": {"quality": 90},
    "full colours": {"subsampling": 0},
    "half colours": {"subsampling": 1},
    "progressive": {"progressive": True},
    "RGB inside": {"keep_rgb": True},
    "restart markers": {"restart_marker_rows": 1},
    "comment and profile": {"comment": b"hello", "icc_profile": bytes(70_000)},
}


def outcome(read: Any, file: Path) -> Any:
    """The pixels [h, w, 3], or the message of the refusal."""
    try:
        pixels = read(file)
    except UserErrorException as e:
        return e.message
    return pixels.permute(1, 2, 0).numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)


def agree(file: Path) -> Any:
    """Check that both ways have the same outcome; returns it."""
    ours, theirs = outcome(decoded, file), outcome(read_picture, file)
    assert np.array_equal(ours, theirs)
    return ours


@pytest.mark.parametrize("name", JPEGS)
def test_plain_jpeg_files_take_the_short_way_to_the_same_pixels(name: str, tmp_path: Path) -> None:
    for size in ((83, 61), (16, 16), (1, 1), (257, 90)):
        drawn(*size).save(tmp_path / "a.jpg", **JPEGS[name])
        assert _plain_jpeg(_bytes(tmp_path / "a.jpg")) == size
        assert agree(tmp_path / "a.jpg").shape == (size[1], size[0], 3)


def test_grey_jpeg_files_do_too(tmp_path: Path) -> None:
    drawn(40, 30).convert("L").save(tmp_path / "a.jpg")
    assert _plain_jpeg(_bytes(tmp_path / "a.jpg")) == (40, 30)
    assert agree(tmp_path / "a.jpg").shape == (30, 40, 3)


def test_turned_pictures_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn(40, 30).save(tmp_path / "a.jpg", exif=exif)
    assert agree(tmp_path / "a.jpg").shape == (40, 30, 3)


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "RGBA", "1"])
def test_other_kinds_of_pictures(mode: str, tmp_path: Path) -> None:
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    drawn(40, 30).convert(mode).save(file)
    assert agree(file).shape == (30, 40, 3)


def test_sixteen_bits_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    for name in ("deep.png", "missing.jpg", "text.jpg", "empty.jpg", "."):
        assert str(tmp_path / name) in agree(tmp_path / name)


@pytest.mark.parametrize("name", ["usual", "progressive", "restart markers"])
def test_a_file_cut_anywhere_is_refused_in_the_same_words(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    drawn(83, 61).save(file, **JPEGS[name])
    whole = file.read_bytes()
    for length in [*range(0, 40), *range(40, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert str(file) in agree(file)


def test_damage_inside_changes_both_alike(tmp_path: Path) -> None:
    file, rng = tmp_path / "a.jpg", np.random.default_rng(0)
    drawn(83, 61).save(file, quality=80)
    whole = file.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(0, 256)
        file.write_bytes(damaged)
        refused += isinstance(agree(file), str)
    assert 0 < refused < 300


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    drawn(83, 61).save(tmp_path / "a.jpg")
    assert "exceeds limit" in agree(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("least", "expected"), [(201, 400), (200, 200), (101, 200), (100, 100), (51, 100), (50, 50), (1, 50)]
)
def test_large_jpeg_files_are_decoded_smaller(least: int, expected: int, tmp_path: Path) -> None:
    picture = drawn(600, 400)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", quality=95)
    picture.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    small = decoded(tmp_path / "a.jpg", least)
    assert small.shape == (3, expected, expected * 3 // 2)
    assert decoded(tmp_path / "turned.jpg", least).shape == (3, expected * 3 // 2, expected)
    mean = np.asarray(picture.resize((expected * 3 // 2, expected), Image.Resampling.BOX), dtype=float)
    assert np.abs(small.permute(1, 2, 0).numpy() - mean).mean() < 9


def test_the_same_holds_for_photographs(photographs: Path) -> None:
    found = sorted(photographs.rglob("*.jpg"))[::20]
    assert len(found) > 50
    for file in found:
        assert isinstance(agree(file), np.ndarray)
