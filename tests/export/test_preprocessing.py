"""Pictures become the same numbers as with torchvision's transforms; unusable files are named."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainkit.errors import ExportError, UserErrorException
from trainkit.export.preprocessing import Preprocessing, read_picture

IMAGENET = Preprocessing(resize=256, size=224)
LITE = Preprocessing(resize=256, size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def as_torchvision(image: Image.Image, asked: Preprocessing) -> np.ndarray:
    from torchvision import transforms

    interpolation = transforms.InterpolationMode(asked.interpolation)
    steps = [
        transforms.Resize(asked.resize, interpolation=interpolation),
        transforms.CenterCrop(asked.size),
        transforms.ToTensor(),
        transforms.Normalize(asked.mean, asked.std),
    ]
    return np.asarray(transforms.Compose(steps)(image))


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (256, 256), (64, 64), (224, 257), (31, 200), (1001, 997)])
@pytest.mark.parametrize("asked", [IMAGENET, LITE, dataclasses.replace(IMAGENET, interpolation="bicubic")])
def test_the_same_as_torchvision(size: tuple[int, int], asked: Preprocessing) -> None:
    image = noise(*size)
    found = asked.apply(image)
    assert found.shape == (3, 224, 224) and found.dtype == np.float32 and found.flags.c_contiguous
    assert np.abs(found - as_torchvision(image, asked)).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(0, 20), st.sampled_from(["box", "lanczos"])
)
def test_the_same_as_torchvision_at_any_size(width: int, height: int, size: int, more: int, interpolation: str) -> None:
    asked = Preprocessing(size + more, size, interpolation=interpolation)
    image = noise(width, height)
    assert np.abs(asked.apply(image) - as_torchvision(image, asked)).max() < 1e-5


def test_real_photographs_are_the_same_as_with_torchvision(photographs: Path) -> None:
    paths = sorted((photographs / "hymenoptera" / "val").rglob("*.jpg"))
    for path in random.Random(0).sample(paths, 20):
        with Image.open(path) as image:
            expected = as_torchvision(image.convert("RGB"), LITE)
        assert np.abs(LITE.read(path) - expected).max() < 1e-5


def test_json_and_back() -> None:
    for asked in (IMAGENET, LITE):
        assert Preprocessing.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    values = {key: value for key, value in IMAGENET.to_json().items() if key != "interpolation"}
    assert Preprocessing.from_json(values) == IMAGENET


@pytest.mark.parametrize(
    "change",
    [
        {"resize": 0},
        {"resize": 10**9},
        {"size": 2.5},
        {"size": True},
        {"resize": 100, "size": 101},
        {"mean": [0.5]},
        {"mean": "abc"},
        {"mean": None},
        {"std": [0.1, 0.2, 0]},
        {"std": [0.1, 0.2, float("nan")]},
        {"interpolation": "nicest"},
        {"more": 1},
    ],
)
def test_nonsense_is_refused(change: dict[str, object]) -> None:
    values = {**IMAGENET.to_json(), **change}
    with pytest.raises(ExportError, match="Preprocessing"):
        Preprocessing.from_json(values)


def test_missing_values_are_refused() -> None:
    for values in ({}, [], None, {"size": 224}):
        with pytest.raises(ExportError, match="Preprocessing has the values"):
            Preprocessing.from_json(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_put_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (60, 40))
    upright.paste((255, 0, 0), (0, 0, 30, 20))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.png"
    stored.save(path, exif=exif)
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(upright))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_every_usual_kind_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = noise(40, 30).convert(mode)
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    image.save(path)
    found = read_picture(path)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = noise(20, 20).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    assert np.array_equal(np.asarray(read_picture(tmp_path / "p.png")), np.asarray(image.convert("RGB")))


def test_an_animation_is_its_first_picture(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    def refused(name: str, words: str) -> None:
        with pytest.raises(UserErrorException, match=words) as caught:
            IMAGENET.read(tmp_path / name)
        assert name in caught.value.message

    refused("missing.jpg", "There is no picture")
    (tmp_path / "folder.jpg").mkdir()
    refused("folder.jpg", "is a folder")
    for name, data in (("empty.jpg", b""), ("text.png", b"not a picture"), ("e.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n")):
        (tmp_path / name).write_bytes(data)
        refused(name, "is not a picture")
    for name in ("cut.jpg", "cut.png"):
        noise(100, 100).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        refused(name, "is damaged")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    refused("deep.png", "more than 8 bits")
    noise(1, 9000).save(tmp_path / "narrow.png")
    refused("narrow.png", "too narrow")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserErrorException, match="bomb.png cannot be read as a picture"):
        read_picture(tmp_path / "bomb.png")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM"]))
def test_any_bytes_are_a_picture_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(head + data)
    try:
        IMAGENET.read(path)
    except UserErrorException as e:
        assert "any.bin" in e.message
