"""Pictures for the tests: smooth noise, in files of many kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def drawn(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with something at every size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
    return Image.fromarray(
        np.clip(np.asarray(coarse) + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    )  # fmt: skip


def files(folder: Path, count: int = 23) -> list[Path]:
    """JPEG files of several sizes, one PNG among them."""
    found = []
    for number in range(count):
        path = folder / (f"{number}.png" if number == 5 else f"{number}.jpg")
        drawn(50 + 7 * (number % 9), 90 - 8 * (number % 5), number).save(path)
        found.append(path)
    return found
