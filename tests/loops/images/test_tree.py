"""Folders of pictures, by class or by file name, and what is kept to validate with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loops.images.drawn import drawn
from trainkit import UserErrorException
from trainkit.loops.images import read_folder, read_tree, split


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def species(file: Path) -> str:
    return "cat" if file.name[0].isupper() else "dog"


def test_a_tree_of_classes(tmp_path: Path) -> None:
    wanted = [tmp_path / name for name in ("train/a/1.jpg", "train/b/deep/2.PNG", "val/a/3.webp", "val/b/4.jpeg")]
    touch(*wanted, tmp_path / "train/a/notes.txt", tmp_path / "train/.hidden/x.jpg", tmp_path / "train/x.jpg")
    tree = read_tree(tmp_path)
    assert tree.classes == ("a", "b")
    assert tree.train == ((wanted[0], 0), (wanted[1], 1)) and tree.val == ((wanted[2], 0), (wanted[3], 1))


def test_trees_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="There is no folder .*train; the data must be train/CLASS"):
        read_tree(tmp_path)
    touch(tmp_path / "train/a/1.jpg", tmp_path / "val/a/1.jpg")
    with pytest.raises(UserErrorException, match="has 1 folders of pictures"):
        read_tree(tmp_path)
    touch(tmp_path / "train/b/1.jpg")
    with pytest.raises(UserErrorException, match="only one of them has: b"):
        read_tree(tmp_path)
    touch(tmp_path / "val/b/1.txt")
    with pytest.raises(UserErrorException, match=r"val/b has no pictures"):
        read_tree(tmp_path)


def test_pixels_are_the_usual_shorter_side(tmp_path: Path) -> None:
    touch(*(tmp_path / side / name / "1.jpg" for side in ("train", "val") for name in "ab"))
    drawn(50, 40).save(tmp_path / "train/a/1.jpg")
    drawn(60, 60).save(tmp_path / "train/b/1.jpg")
    assert read_tree(tmp_path).pixels() == 50


def test_a_folder_whose_file_names_tell_the_class(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}_{n}.jpg" for name in ("Abyssinian", "beagle") for n in range(20)]
    touch(*files, tmp_path / "list.txt")
    tree = read_folder(tmp_path, species, val=0.2, seed=3)
    assert tree.classes == ("cat", "dog") and len(tree.val) == 8
    assert sorted(tree.train + tree.val) == sorted((file, int(species(file) == "dog")) for file in files)
    assert read_folder(tmp_path, species, val=0.2, seed=3) == tree != read_folder(tmp_path, species, val=0.2, seed=4)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="There is no folder"):
        read_folder(tmp_path / "none", species)
    with pytest.raises(UserErrorException, match="0 pictures .* 0 classes \\(none\\)"):
        read_folder(tmp_path, species)
    touch(*(tmp_path / name for name in ("A1.jpg", "A2.jpg", "b1.jpg")))
    with pytest.raises(UserErrorException, match="must name the class of .*A1.jpg as a text, not 7"):
        read_folder(tmp_path, lambda file: 7)  # type: ignore[arg-type, return-value]
    for val in (0, 1, 1.5, -0.1):
        with pytest.raises(UserErrorException, match="between 0 and 1"):
            read_folder(tmp_path, species, val=val)
    with pytest.raises(UserErrorException, match="All pictures of dog are to validate with"):
        for seed in range(50):
            read_folder(tmp_path, species, val=0.34, seed=seed)


def test_a_split_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="1 pictures cannot be split"):
        split([(tmp_path / "a.jpg", 0)])
    assert tuple(map(len, split([(tmp_path / "a.jpg", 0)] * 2))) == (1, 1)


def test_pets_by_breed(photographs: Path) -> None:
    folder = photographs / "pets"
    tree = read_folder(folder, lambda file: file.stem.rpartition("_")[0])
    count = len(list(folder.rglob("*.jpg")))
    assert len(tree.classes) == 37 and len(tree.val) == count // 5 and len(tree.train) == count - count // 5
    assert sum(map(str.istitle, (name[0] for name in tree.classes))) == 12  # the cats
