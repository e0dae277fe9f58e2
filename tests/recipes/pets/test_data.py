"""Which pictures of pets there are, what their names say, and that fastai and the loop see the same of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainkit import UserErrorException
from trainkit.export.preprocessing import Preprocessing
from trainkit_recipes.fetch import unpack
from trainkit_recipes.pets.data import breeds, cats, dataloaders, find_pets, pictures, read_pets


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten pictures of two breeds of cats and one of dogs."""
    for number in range(10):
        breed = ("Abyssinian", "British_Shorthair", "american_bulldog")[number % 3]
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((90, 60)).save(tmp_path / "images" / f"{breed}_{number}.jpg")
    return tmp_path


def test_file_names_say_what_a_picture_shows() -> None:
    assert [cats(Path(name)) for name in ("Birman_1.jpg", "pug_12.jpg")] == ["cat", "dog"]
    assert breeds(Path("x/american_bulldog_203.jpg")) == "american_bulldog"


def test_a_fixed_fifth_is_to_validate_with(pets: Path) -> None:
    assert find_pets(str(pets), pets) == find_pets(str(pets / "images"), pets) == pets / "images"
    tree, again = (read_pets(pets / "images", "breeds") for _ in range(2))
    assert tree == again and len(tree.val) == 2 and len(tree.train) == 8
    assert tree.classes == ("Abyssinian", "British_Shorthair", "american_bulldog")
    assert read_pets(pets / "images", "cats").classes == ("cat", "dog")


def test_what_is_not_there_is_said(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="no folder"):
        find_pets(str(pets / "nowhere"), pets)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserErrorException, match="no pictures"):
        find_pets(str(tmp_path / "empty"), pets)
    with pytest.raises(UserErrorException, match="breeds, not 'birds'|cats, breeds"):
        read_pets(pets / "images", "birds")


def test_the_exported_learner_reads_pictures_as_the_loop_does(pets: Path) -> None:
    tree, shape = read_pets(pets / "images", "breeds"), Preprocessing(48, 48)
    dls = dataloaders(tree, "breeds", shape, 2)
    theirs, labels = dls.valid.one_batch()
    ((ours, mine),) = pictures(tree.val, shape, changed=False).batches([np.arange(2)], 0, 0)
    assert labels.tolist() == mine.tolist() and list(dls.vocab) == list(tree.classes)
    # fastai cuts the square before it resizes, the loop after: neighbouring pixels of noise differ a little
    assert (theirs.as_subclass(torch.Tensor) - ours).abs().mean() < 0.1


def test_training_pictures_are_the_largest_square_somewhere(pets: Path) -> None:
    tree, shape = read_pets(pets / "images", "breeds"), Preprocessing(60, 60, (0.0,) * 3, (1.0,) * 3)
    ((found, _),) = pictures(tree.train[:1], shape, changed=True).batches([np.array([0])], 3, 0)
    whole = torch.from_numpy(np.asarray(Image.open(tree.train[0][0]), dtype=np.float32) / 255).permute(2, 0, 1)
    places = [left for left in range(31) if torch.allclose(found[0], whole[:, :, left : left + 60], atol=2 / 255)]
    assert len(places) == 1


def _tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.size, member.linkname = kind, 3 * (kind == tarfile.REGTYPE), "/etc/passwd"
        archive.addfile(member, io.BytesIO(b"abc") if kind == tarfile.REGTYPE else None)
    return path


def test_a_tar_file_is_unpacked_below_its_folder_only(tmp_path: Path) -> None:
    unpack(_tar(tmp_path / "a.tar.gz", "images/pug_1.jpg"), tmp_path / "out")
    assert (tmp_path / "out" / "images" / "pug_1.jpg").read_bytes() == b"abc"
    for name, kind in (("../x", tarfile.REGTYPE), ("/x", tarfile.REGTYPE), ("x", tarfile.SYMTYPE)):
        with pytest.raises(UserErrorException, match="nothing was unpacked"):
            unpack(_tar(tmp_path / "b.tgz", name, kind), tmp_path / "bad")
    (tmp_path / "c.tar.gz").write_bytes(_tar(tmp_path / "a.tar.gz", "x").read_bytes()[:40])
    with pytest.raises(UserErrorException, match="cannot be unpacked"):
        unpack(tmp_path / "c.tar.gz", tmp_path / "bad")
    assert not (tmp_path / "bad").exists() and not (tmp_path / "x").exists()
