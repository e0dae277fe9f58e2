"""Which pictures there are, and of which class: folders of classes, or one folder and a rule for its file names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from numpy.random import default_rng

from trainkit.errors import UserErrorException
from trainkit.export.preprocessing import read_picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
Pair = tuple[Path, int]  # a picture's file and the number of its class


@dataclass(frozen=True)
class Tree:
    """Pictures to train with and to validate with, and the names of their classes."""

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


def read_tree(root: Path) -> Tree:
    """The pictures in root/(train|val)/CLASS. Raises UserErrorException where a folder is missing or empty."""
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
    pairs = {split: tuple(_labelled(root / split, classes)) for split in names}
    return Tree(root, classes, pairs["train"], pairs["val"])


def read_folder(root: Path, label: Callable[[Path], str], val: float = 0.2, seed: int = 0) -> Tree:
    """The pictures below one folder, of the classes that `label` names for their files; a share `val` to validate with.

    Which pictures these are is drawn at random, and follows from `seed` and the files' names alone. Raises
    UserErrorException where there are fewer than two classes, or a class has no picture left to train with.
    """
    if not root.is_dir():
        raise UserErrorException(f"There is no folder {root}.")
    files = _pictures(root)
    labels = [label(file) for file in files]
    for file, name in zip(files, labels, strict=True):
        if not isinstance(name, str) or not name:
            raise UserErrorException(f"label must name the class of {file} as a text, not {name!r}.")
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise UserErrorException(
            f"The {len(files)} pictures below {root} are of {len(classes)} classes ({', '.join(classes) or 'none'}); "
            "a classifier needs at least two."
        )
    number = {name: position for position, name in enumerate(classes)}
    train, kept = split([(file, number[name]) for file, name in zip(files, labels, strict=True)], val, seed)
    bare = set(range(len(classes))) - {position for _, position in train}
    if bare:
        names = ", ".join(classes[position] for position in sorted(bare))
        raise UserErrorException(f"All pictures of {names} are to validate with; take another seed or a smaller val.")
    return Tree(root, classes, train, kept)


def split(pairs: Sequence[Pair], val: float = 0.2, seed: int = 0) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """`pairs` in two: to train with, and a random share `val` (rounded down, one at least) to validate with.

    Both keep the order of `pairs`, and follow from it and from `seed`.
    """
    if not 0 < val < 1:
        raise UserErrorException(f"val is the share of pictures to validate with, between 0 and 1, not {val!r}.")
    count = max(1, int(len(pairs) * val))
    if count >= len(pairs):
        raise UserErrorException(f"{len(pairs)} pictures cannot be split; at least two are needed.")
    chosen = set(default_rng(seed).permutation(len(pairs))[:count].tolist())
    return (
        tuple(pair for position, pair in enumerate(pairs) if position not in chosen),
        tuple(pair for position, pair in enumerate(pairs) if position in chosen),
    )


def _folders(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise UserErrorException(
            f"There is no folder {root}; the data must be train/CLASS/*.jpg and val/CLASS/*.jpg below {root.parent}."
        )
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _pictures(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _labelled(root: Path, classes: tuple[str, ...]) -> Iterator[Pair]:
    for number, name in enumerate(classes):
        files = _pictures(root / name)
        if not files:
            raise UserErrorException(f"{root / name} has no pictures ({', '.join(SUFFIXES)}); each class needs some.")
        yield from ((file, number) for file in files)
