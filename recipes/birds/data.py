"""Pictures in folders: which there are, how they become tensors, and which rank sees which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.random import Generator, default_rng
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainkit import UserErrorException
from trainkit.export.preprocessing import Preprocessing, read_picture
from trainkit_recipes.birds.fetch import ARCHIVES, unpacked
from trainkit_recipes.birds.sample import sample_data
from trainkit_recipes.birds.world import Here

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
Pair = tuple[Path, int]  # a picture's file and the number of its class


@dataclass(frozen=True)
class Tree:
    """A folder of pictures: (train|val)/CLASS/*.jpg."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]

    def pixels(self) -> int:
        """The usual length of a picture's shorter side."""
        sides = []
        for file, _ in self.train[:: max(1, len(self.train) // 20)]:
            sides.append(min(read_picture(file).size))
        return int(median(sides))


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where downloads and drawn pictures are kept, for all checkouts and jobs of this user on this machine."""
    named = env.get("TRAINKIT_CACHE", "")
    base = env.get("XDG_CACHE_HOME", "")
    return Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "trainkit"


def find_data(name: str, cache: Path) -> Path:
    """The folder of a data set: "sample", "fowl", "hymenoptera" (fetched or drawn on first use), or any path."""
    if name == "sample":
        return sample_data(cache)
    if name in ARCHIVES:
        return unpacked(name, cache)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserErrorException(
            f"The data {str(folder.absolute())!r} {what}; ask for 'sample', {', '.join(map(repr, ARCHIVES))}, or a "
            "folder with train/CLASS/*.jpg and val/CLASS/*.jpg."
        )
    return folder.absolute()


def read_tree(root: Path) -> Tree:
    """The pictures below `root`. Raises UserErrorException where it is no such tree, or a class has no pictures."""
    names = {split: _folders(root / split) for split in ("train", "val")}
    if names["train"] != names["val"]:
        odd = sorted(set(names["train"]) ^ set(names["val"]))
        raise UserErrorException(
            f"{root}/train and {root}/val must have the same classes, but only one of them has: {', '.join(odd)}."
        )
    classes = names["train"]
    if len(classes) < 2:
        raise UserErrorException(
            f"{root}/train has {len(classes)} folders of pictures; a classifier needs at least two, one a class."
        )
    pairs = {split: tuple(_pictures(root / split, classes)) for split in names}
    return Tree(root, classes, pairs["train"], pairs["val"])


def _folders(split: Path) -> tuple[str, ...]:
    if not split.is_dir():
        raise UserErrorException(
            f"There is no folder {split}; the data must be train/CLASS/*.jpg and val/CLASS/*.jpg below {split.parent}."
        )
    return tuple(sorted(p.name for p in split.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _pictures(split: Path, classes: tuple[str, ...]) -> Iterator[Pair]:
    for number, name in enumerate(classes):
        files = sorted(p for p in (split / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise UserErrorException(f"{split / name} has no pictures ({', '.join(SUFFIXES)}); each class needs some.")
        yield from ((file, number) for file in files)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Tensors of pictures: changed at random where `seed` is given, else only resized and cut to the centre.

    What happens to a picture follows from (seed, epoch, its number), so it does not depend on ranks or workers.
    Changed pictures are 7/8 as large: a random part fills the frame more than the whole does, and things should look
    as large in training as later (Touvron et al., "Fixing the train-test resolution discrepancy", 2019). It also saves
    a quarter of the time.
    """

    def __init__(self, pairs: tuple[Pair, ...], shape: Preprocessing, seed: int | None) -> None:
        self.pairs, self.seed, self.epoch = pairs, seed, 0
        part = max(32, shape.size * 7 // 8 // 16 * 16)
        self.shape = shape if seed is None else replace(shape, size=part, resize=part)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        file, label = self.pairs[number]
        image = read_picture(file)
        if self.seed is not None:
            image = varied(image, self.shape.size, default_rng([self.seed, self.epoch, number]))
        return torch.from_numpy(self.shape.apply(image)), label


def varied(image: Image.Image, size: int, rng: Generator) -> Image.Image:
    """A random part of a picture at random brightness and contrast, perhaps mirrored."""
    area = image.width * image.height * rng.uniform(0.4, 1.0)
    ratio = np.exp(rng.uniform(-0.25, 0.25))
    width = min(image.width, np.sqrt(area * ratio))
    height = min(image.height, np.sqrt(area / ratio))
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    part = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    pixels = np.asarray(part, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = (pixels - pixels.mean()) * rng.uniform(0.8, 1.2) + pixels.mean() * rng.uniform(0.8, 1.2)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


class Shares:
    """This rank's share of each batch of an epoch, as pictures' numbers.

    In training (with a seed) all ranks draw the same order, and a batch is the same `batch` pictures however many ranks
    share it; what is left at the end for an incomplete batch waits for another epoch. In validation every picture is
    seen once, by one rank.
    """

    def __init__(self, count: int, batch: int, here: Here, seed: int | None) -> None:
        self.count, self.batch, self.here, self.seed, self.epoch = count, min(batch, count), here, seed, 0
        if seed is not None and self.batch < here.size:
            raise UserErrorException(
                f"{here.size} ranks cannot share batches of {self.batch} pictures ({count} to train with): each rank "
                "needs one at least. Ask for fewer ranks or for a larger --batch_size."
            )

    def __len__(self) -> int:
        if self.seed is not None:
            return self.count // self.batch
        return -(-len(range(self.here.rank, self.count, self.here.size)) // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        rank, size, batch = self.here.rank, self.here.size, self.batch
        if self.seed is None:
            mine = list(range(rank, self.count, size))
            yield from (mine[step * batch : (step + 1) * batch] for step in range(len(self)))
        else:
            order = default_rng([self.seed, self.epoch]).permutation(self.count)
            yield from (order[step * batch : (step + 1) * batch][rank::size].tolist() for step in range(len(self)))


class Loader:
    """A split's batches of this rank; `epoch(n)` starts the n-th pass over them."""

    def __init__(self, pairs: tuple[Pair, ...], shape: Preprocessing, batch: int, here: Here, seed: int | None) -> None:
        self.pictures = Pictures(pairs, shape, seed)
        self.shares = Shares(len(pairs), batch, here, seed)
        self._batches = DataLoader(self.pictures, batch_sampler=self.shares, num_workers=here.workers)

        self.batch = self.shares.batch  # pictures a step, over all ranks

    def __len__(self) -> int:
        return len(self.shares)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures (n, 3, size, size) and labels (n,), batch by batch."""
        self.pictures.epoch = self.shares.epoch = number
        return iter(self._batches)
