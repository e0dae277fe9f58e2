"""From a picture's file to its pixels: the same pixels as Pillow's, by the shortest way that gives them.

Plain JPEG files, nearly all there are, go through torchvision's decoder, which holds no lock while it works. Whatever
else a file is or holds (EXIF, CMYK, PNG, damage) goes through `read_picture`, whose pixels and errors count.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainkit.export.preprocessing import read_picture

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, Huffman coded
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_APP1 = 0xE1  # EXIF or XMP: the picture may have to be turned
_RGB = 3  # torchvision's number for it


def _quick_decoder() -> Callable[[Tensor, int], Tensor] | None:
    """torchvision's operator, if it has one: its Python function is to be removed some day, and warns at each call."""
    try:
        import torchvision.io  # noqa: F401  loads the operator

        operator: Callable[[Tensor, int], Tensor] = torch.ops.image.decode_jpeg.default
        return operator
    except (ImportError, AttributeError):
        return None  # Pillow then decodes everything: slower, to the same pixels


_decode_jpeg = _quick_decoder()


def decoded(file: Path, least: int | None = None) -> Tensor:
    """The pixels in a file, uint8 [3, height, width] (channels last in memory), upright and in RGB.

    A JPEG whose shorter side is at least twice, four or eight times `least` is decoded at a half, quarter or eighth of
    its size, which its coding makes cheap. Raises UserErrorException, which names the file, as `read_picture` does.
    """
    try:
        data = _bytes(file)
    except OSError:
        return from_pillow(read_picture(file))  # which has the words for it
    size = _plain_jpeg(data)
    if _decode_jpeg is None or size is None or (least is not None and min(size) >= 2 * least):
        return from_pillow(read_picture(file, least))
    try:
        return _decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), _RGB)
    except RuntimeError:
        return from_pillow(read_picture(file))  # to be refused, in one sentence, or to be taken all the same


def from_pillow(image: Image.Image) -> Tensor:
    """An RGB picture's pixels, uint8 [3, height, width], channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _bytes(file: Path) -> bytearray:
    number = os.open(file, os.O_RDONLY)
    try:
        data = bytearray(os.fstat(number).st_size)
        filled = os.readv(number, [data])
        return data if filled == len(data) else data[:filled]
    finally:
        os.close(number)


def _plain_jpeg(data: bytearray) -> tuple[int, int] | None:
    """(width, height) of a JPEG in grey or three colours of 8 bits, with nothing about how to show it; else None."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            usual = data[at + 4] == 8 and data[at + 9] in (1, 3) and 0 < width * height <= _most_pixels()
            return (width, height) if usual else None
        if kind == _APP1 or kind in _OTHER_FRAMES or not 0xC0 <= kind <= 0xFE or 0xD0 <= kind <= 0xDA:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _most_pixels() -> int:
    """Above this Pillow warns or refuses: a small file may unpack to more than the memory holds."""
    return Image.MAX_IMAGE_PIXELS or 1 << 62
