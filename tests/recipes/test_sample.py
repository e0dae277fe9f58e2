"""The embedded data set: the same for ever, splits that share nothing, and not to be had by looking at colours."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainkit_recipes.birds import sample
from trainkit_recipes.birds.scenery import BACKGROUNDS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole data set, drawn by two processes that want it at once."""
    cache = tmp_path_factory.mktemp("cache")
    context = multiprocessing.get_context("fork")
    other = context.Process(target=sample.sample_data, args=(cache,))
    other.start()
    folder = sample.sample_data(cache)
    other.join(60)
    assert other.exitcode == 0
    assert sorted(p.name for p in cache.iterdir() if p.is_dir()) == [folder.name], "nothing half made is left"
    return folder


def test_every_split_has_its_pictures(data: Path) -> None:
    for split, count in sample.PICTURES.items():
        for kind in sample.CLASSES:
            files = sorted((data / split / kind).iterdir())
            assert len(files) == count
            with Image.open(files[0]) as image:
                assert image.size == (128, 128) and image.mode == "RGB"


def test_a_second_call_draws_nothing(data: Path) -> None:
    before = data.stat().st_mtime_ns
    assert sample.sample_data(data.parent) == data
    assert data.stat().st_mtime_ns == before


def test_pictures_follow_from_their_number_alone() -> None:
    first, again = sample.picture("train", "turkey", 3), sample.picture("train", "turkey", 3)
    assert first.tobytes() == again.tobytes()
    digests = {
        hashlib.sha256(sample.picture(split, kind, n).tobytes()).digest()
        for split in ("train", "val")
        for kind in sample.CLASSES
        for n in range(3)
    }
    assert len(digests) == 12


def test_training_and_validation_share_no_pose_and_no_background() -> None:
    assert not set(sample.POSES["train"]) & set(sample.POSES["val"])
    assert not set(BACKGROUNDS["train"]) & set(BACKGROUNDS["val"])


def test_a_sample_picture_is_a_fresh_one(data: Path, tmp_path: Path) -> None:
    path = sample.sample_picture(tmp_path / "bird.png", "chicken")
    with Image.open(path) as image:
        shown = image.resize((128, 128), Image.Resampling.BOX).convert("RGB")
    near = np.asarray(shown, dtype=np.float64)
    for file in sorted((data / "val" / "chicken").iterdir()):
        with Image.open(file) as other:
            assert np.abs(np.asarray(other, dtype=np.float64) - near).mean() > 8, file


def colours(image: Image.Image) -> np.ndarray:
    """A histogram of 8 x 8 x 8 colours."""
    cells = np.asarray(image).reshape(-1, 3) // 32 @ np.array([64, 8, 1])
    return np.bincount(cells, minlength=512) / len(cells)


def grey(image: Image.Image) -> np.ndarray:
    """16 x 16 grey pixels."""
    return np.asarray(image.convert("L").resize((16, 16)), dtype=np.float64).ravel() / 255


def gradients(image: Image.Image) -> np.ndarray:
    """Histograms of oriented gradients."""
    from skimage.feature import hog

    return np.asarray(hog(np.asarray(image.convert("L")), pixels_per_cell=(16, 16), cells_per_block=(2, 2)))


@pytest.mark.parametrize("features", [colours, grey, gradients])
def test_no_linear_model_of_simple_features_is_enough(
    data: Path, features: Callable[[Image.Image], np.ndarray]
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    tables, labels = {}, {}
    for split in sample.PICTURES:
        files = sorted((data / split).glob("*/*.jpg"))
        tables[split] = np.stack([features(Image.open(file).convert("RGB")) for file in files])
        labels[split] = np.array([sample.CLASSES.index(file.parent.name) for file in files])
    for strength in (1e-3, 1e-2, 0.1, 1.0):
        for scaled in (False, True):
            linear = LogisticRegression(C=strength, max_iter=2000, random_state=0)
            model = make_pipeline(StandardScaler(), linear) if scaled else linear
            model.fit(tables["train"], labels["train"])
            assert model.score(tables["val"], labels["val"]) < 0.80, (features.__name__, strength, scaled)
