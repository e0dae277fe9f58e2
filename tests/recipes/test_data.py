"""Folders of pictures: what is refused, which rank sees which picture, and that randomness follows the seed alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainkit import UserErrorException
from trainkit.export.preprocessing import Preprocessing
from trainkit_recipes.birds.data import Loader, Pictures, Shares, cache_folder, find_data, read_tree
from trainkit_recipes.birds.world import Here

Fill = Callable[..., Path]
SHAPE = Preprocessing(32, 32)


def here(rank: int = 0, size: int = 1) -> Here:
    return Here(rank, size, torch.device("cpu"), 0)


def test_a_tree_is_read_in_order(fill: Fill, tmp_path: Path) -> None:
    tree = read_tree(fill(tmp_path))
    assert tree.classes == ("a", "b")
    assert [(file.name, label) for file, label in tree.train] == [("1.png", 0), ("2.png", 0), ("1.png", 1)]
    assert len(tree.val) == 2
    assert tree.pixels() == 40


def test_hidden_folders_and_other_files_are_passed_over(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1 train/b/1 train/.cache/1 val/a/1 val/b/1")
    (tmp_path / "train/a/notes.txt").write_text("x")
    assert read_tree(tmp_path).classes == ("a", "b")


@pytest.mark.parametrize(
    "names, words",
    [
        ("train/a/1 train/b/1", "There is no folder .*val; the data must be train/CLASS"),
        ("train/a/1 val/a/1", "1 folders of pictures; a classifier needs at least two"),
        ("train/a/1 train/b/1 val/a/1 val/c/1", "only one of them has: b, c"),
    ],
)
def test_odd_trees_are_refused(fill: Fill, tmp_path: Path, names: str, words: str) -> None:
    fill(tmp_path, names)
    with pytest.raises(UserErrorException, match=words):
        read_tree(tmp_path)


def test_a_class_without_pictures_is_refused(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "val/b/1.png").rename(tmp_path / "val/b/1.txt")
    with pytest.raises(UserErrorException, match="val/b has no pictures"):
        read_tree(tmp_path)


def test_missing_data_says_what_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        UserErrorException, match="does not exist; ask for 'sample', 'fowl', 'hymenoptera', or a folder"
    ):
        find_data(str(tmp_path / "none"), tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserErrorException, match="is not a folder"):
        find_data(str(tmp_path / "file"), tmp_path)
    assert find_data(str(tmp_path), tmp_path / "cache") == tmp_path


def test_a_damaged_picture_is_named(fill: Fill, tmp_path: Path) -> None:
    tree = read_tree(fill(tmp_path))
    tree.train[1][0].write_bytes(b"no picture")
    with pytest.raises(UserErrorException, match=r"train/a/2\.png is not a picture"):
        Pictures(tree.train, SHAPE, None)[1]


def test_the_cache_is_outside_the_checkout() -> None:
    assert cache_folder({}) == Path.home() / ".cache" / "trainkit"
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/trainkit")
    assert cache_folder({"XDG_CACHE_HOME": "/x", "TRAINKIT_CACHE": "/y"}) == Path("/y")


@pytest.mark.parametrize("count, batch, size", [(10, 4, 1), (10, 4, 3), (37, 8, 4), (3, 8, 2), (5, 32, 7)])
def test_validation_sees_every_picture_once(count: int, batch: int, size: int) -> None:
    shares = [[list(b) for b in Shares(count, batch, here(rank, size), None)] for rank in range(size)]
    assert sorted(n for share in shares for b in share for n in b) == list(range(count))
    assert all(share == [b for b in share if b] for share in shares), "no empty batch"
    assert [len(share) for share in shares] == [len(Shares(count, batch, here(r, size), None)) for r in range(size)]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_training_batch_is_the_same_for_any_number_of_ranks(size: int) -> None:
    def batches(rank: int, ranks: int, epoch: int) -> list[list[int]]:
        shares = Shares(21, 6, here(rank, ranks), 5)
        shares.epoch = epoch
        return list(shares)

    alone = batches(0, 1, 2)
    parts = [batches(rank, size, 2) for rank in range(size)]
    assert len(alone) == 3
    assert [sorted(n for part in step for n in part) for step in zip(*parts, strict=True)] == [sorted(b) for b in alone]
    assert alone != batches(0, 1, 3)


def test_more_ranks_than_pictures_in_a_batch_is_refused() -> None:
    with pytest.raises(UserErrorException, match="4 ranks cannot share batches of 3 pictures"):
        Shares(100, 3, here(0, 4), 0)
    with pytest.raises(UserErrorException, match="batches of 2 pictures"):
        Shares(2, 8, here(0, 4), 0)


def test_changes_follow_from_seed_epoch_and_number(fill: Fill, tmp_path: Path) -> None:
    pairs = read_tree(fill(tmp_path)).train

    def tensor(seed: int | None, epoch: int) -> torch.Tensor:
        pictures = Pictures(pairs, SHAPE, seed)
        pictures.epoch = epoch
        torch.rand(3)  # nothing depends on the global generator
        return pictures[0][0]

    assert torch.equal(tensor(1, 0), tensor(1, 0))
    assert not torch.equal(tensor(1, 0), tensor(1, 1))
    assert not torch.equal(tensor(1, 0), tensor(2, 0))
    assert torch.equal(tensor(None, 0), tensor(None, 1)), "validation changes nothing at random"
    assert torch.equal(tensor(None, 0), torch.from_numpy(SHAPE.read(pairs[0][0]))), "and is what a prediction sees"


def test_a_loader_gives_batches(fill: Fill, tmp_path: Path) -> None:
    loader = Loader(read_tree(fill(tmp_path)).train, SHAPE, 2, here(), 0)
    pictures, labels = next(loader.epoch(0))
    assert pictures.shape == (2, 3, 32, 32) and pictures.dtype == torch.float32
    assert labels.shape == (2,) and len(loader) == 1 and loader.batch == 2
