"""Where the recipe's pictures come from, and that training changes them and validation does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainkit import UserErrorException
from trainkit.export.preprocessing import Preprocessing
from trainkit.loops.images import read_tree
from trainkit_recipes.birds.data import cache_folder, find_data, pictures

Fill = Callable[..., Path]
SHAPE = Preprocessing(64, 64)


def test_missing_data_says_what_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        UserErrorException, match="does not exist; ask for 'sample', 'fowl', 'hymenoptera', or a folder"
    ):
        find_data(str(tmp_path / "none"), tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserErrorException, match="is not a folder"):
        find_data(str(tmp_path / "file"), tmp_path)
    assert find_data(str(tmp_path), tmp_path / "cache") == tmp_path


def test_the_cache_is_outside_the_checkout() -> None:
    assert cache_folder({}) == Path.home() / ".cache" / "trainkit"
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/trainkit")
    assert cache_folder({"XDG_CACHE_HOME": "/x", "TRAINKIT_CACHE": "/y"}) == Path("/y")


def test_training_changes_pictures_and_validation_shows_what_a_prediction_sees(fill: Fill, tmp_path: Path) -> None:
    pairs = read_tree(fill(tmp_path, side=80)).train
    share = [np.arange(len(pairs))]

    def batch(changed: bool, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = next(pictures(pairs, SHAPE, changed).batches(share, epoch, 5))
        assert found is not None
        return found

    images, labels = batch(True, 0)
    assert images.shape == (3, 3, 48, 48) and labels.tolist() == [0, 0, 1]  # 7/8 of the side, in steps of 16
    assert torch.equal(images, batch(True, 0)[0])
    assert not torch.equal(images, batch(True, 1)[0])
    same = batch(False, 0)[0]
    assert torch.equal(same, batch(False, 1)[0])
    assert torch.equal(same[1], torch.from_numpy(SHAPE.read(pairs[1][0])))
