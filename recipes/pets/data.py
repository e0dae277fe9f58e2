"""Where the pictures of pets come from, what their file names say, and how fastai and the loop read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainkit import UserErrorException
from trainkit.export.preprocessing import Preprocessing
from trainkit.loops.images import Augment, Pair, Pictures, Tree, read_folder
from trainkit_recipes.fetch import Archive, unpacked

_PUBLISHED = {
    "pets": Archive(
        (
            "https://thor.robots.ox.ac.uk/pets/images.tar.gz",
            "https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
        )
    )
}
_SPLIT_SEED = 42  # the same pictures are to validate with, whatever the seed of the training is
_VALID = 0.2
# The largest square at a random place: what fastai's Resize does to training pictures.
_CHANGES = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), mirror=0.0)


def cats(file: Path) -> str:
    """A cat or a dog: the names of cats' breeds begin with a capital letter."""
    return "cat" if file.name[0].isupper() else "dog"


def breeds(file: Path) -> str:
    """The breed, of 37: american_bulldog_203.jpg."""
    return file.stem.rpartition("_")[0]


TASKS = {"cats": cats, "breeds": breeds}


def find_pets(name: str, cache: Path) -> Path:
    """The folder of pictures: the given one (or images/ in it), or "" for the published ones, fetched on first use."""
    if not name:
        return unpacked("pets", cache, _PUBLISHED, _images)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserErrorException(f"The data {str(folder.absolute())!r} is no folder; name one of *.jpg, or none.")
    return _images(folder.absolute(), str(folder))


def _images(folder: Path, name: str) -> Path:
    """The folder that has the pictures themselves."""
    for place in (folder, folder / "images", *sorted(folder.glob("*/images"))):
        if any(place.glob("*.jpg")):
            return place
    raise UserErrorException(f"{name} has no pictures: *.jpg with names such as american_bulldog_203.jpg.")


def read_pets(folder: Path, task: str) -> Tree:
    """The pictures and their classes, a fixed random fifth of them to validate with."""
    if task not in TASKS:
        raise UserErrorException(f"task is one of {', '.join(TASKS)}, not {task!r}.")
    return read_folder(folder, TASKS[task], _VALID, _SPLIT_SEED)


def dataloaders(tree: Tree, task: str, shape: Preprocessing, batch: int) -> Any:
    """fastai's own: what the exported learner reads pictures with; the loop takes `pictures`, which are the same."""
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, Normalize, Resize

    files = [file for file, _ in (*tree.train, *tree.val)]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(tree.classes))),
        get_y=TASKS[task],
        splitter=IndexSplitter(range(len(tree.train), len(files))),
        item_tfms=Resize(shape.size),
        batch_tfms=Normalize.from_stats(shape.mean, shape.std),
    )
    return block.dataloaders(files, bs=batch, num_workers=0, path=tree.root)


def pictures(pairs: tuple[Pair, ...], shape: Preprocessing, changed: bool) -> Pictures:
    """Files and their classes as a source of the loop's."""
    files, labels = zip(*pairs, strict=True)
    augment, size = (_CHANGES, shape.size) if changed else (None, None)
    return Pictures(files, labels, preprocessing=shape, augment=augment, size=size, channels_last=True)
