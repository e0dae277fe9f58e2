"""Small folders of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = "train/a/1 train/a/2 train/b/1 val/a/1 val/b/1"


def _fill(root: Path, names: str = SMALL, side: int = 40) -> Path:
    for number, name in enumerate(names.split()):
        file = root / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (side, side + 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return root


@pytest.fixture(scope="session")
def fill() -> Callable[..., Path]:
    """fill(root, names="train/a/1 ...", side=40) makes a tree of pictures, each of its own noise."""
    return _fill
