"""A recipe's validation pictures and a prediction's pictures are the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainkit.export.preprocessing import Preprocessing


@pytest.mark.parametrize("model", ["efficientnet_lite0", "resnet18"])
def test_birds(tmp_path: Path, model: str) -> None:
    data = pytest.importorskip("trainkit_recipes.birds.data")
    models = pytest.importorskip("trainkit_recipes.birds.models")
    shape = models.preprocessing(model, 128)
    again = Preprocessing.from_json(shape.to_json())
    random = np.random.default_rng(0)
    for i, (width, height) in enumerate([(128, 128), (301, 200), (199, 333), (100, 177), (640, 427), (57, 190)]):
        path = tmp_path / f"{i}.png"
        exif = Image.Exif()
        exif[0x0112] = 1 + i
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, exif=exif)
        ((images, labels),) = data.pictures([(path, 1)], shape, changed=False).batches([np.zeros(1, dtype=int)], 0, 0)
        assert labels.tolist() == [1] and images.shape == (1, 3, again.size, again.size)
        assert np.array_equal(again.read(path), images[0].numpy()), "to the last bit"
