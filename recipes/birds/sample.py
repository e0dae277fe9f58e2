"""The embedded data set: chickens and turkeys that this file draws, so that a first job needs no network.

Every picture follows from its split, its kind and its number alone. Training and validation share neither a pose nor
a background. Colours, sizes and places are drawn alike for both kinds: what tells them apart is the shape of head and
tail, small and seldom in the same place.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image

from trainkit_recipes.birds.drawing import LEGS, PLUMAGES, REDS, Look, Pen, Points, Pose, draw_bird
from trainkit_recipes.birds.scenery import background, cover, photograph
from trainkit_recipes.fetch import once

VERSION = 1  # part of the cached folder's name: raise it when a picture changes
CLASSES = ("chicken", "turkey")
PICTURES = {"train": 200, "val": 100}  # of each class
SIZE = 128
_FINE = 3  # pixels are drawn this much finer, then averaged

POSES: dict[str, tuple[Pose, ...]] = {
    "train": tuple(Pose(*p) for p in product((-8.0, 4.0, 16.0), (-32.0, 32.0, 78.0), (0.3, 0.42), (0.02, 0.22))),
    "val": tuple(Pose(*p) for p in product((-2.0, 10.0), (-12.0, 54.0, 66.0), (0.34, 0.38), (0.1, 0.3))),
}


def sample_data(cache: Path) -> Path:
    """The data set as a folder (train|val)/(chicken|turkey)/N.jpg under `cache`, drawn there once per machine."""
    return once(cache / f"birds-sample-{VERSION}", _draw_all)


def _draw_all(folder: Path) -> None:
    for split, kind in product(PICTURES, CLASSES):
        (folder / split / kind).mkdir(parents=True)
        for number in range(PICTURES[split]):
            picture(split, kind, number).save(folder / split / kind / f"{number:03d}.jpg", quality=88)


def sample_picture(path: str | os.PathLike[str], kind: str = "turkey", number: int = 0) -> Path:
    """Write one picture that is in neither split, with validation's poses and backgrounds; `number` picks it."""
    path = Path(path)
    picture("val", kind, PICTURES["val"] + number).resize((3 * SIZE, 3 * SIZE)).save(path)
    return path


def picture(split: str, kind: str, number: int) -> Image.Image:
    """The `number`-th picture of a kind, (128, 128) RGB: the same for ever."""
    rng = default_rng([VERSION, list(PICTURES).index(split), CLASSES.index(kind), number])
    fine = SIZE * _FINE
    canvas = background(split, fine, rng)
    pose = POSES[split][rng.integers(len(POSES[split]))]
    look = Look(
        plumage=PLUMAGES[rng.integers(len(PLUMAGES))],
        red=REDS[rng.integers(len(REDS))],
        legs=LEGS[rng.integers(len(LEGS))],
        plump=float(rng.uniform(0.86, 1.1)),
    )
    draw_bird(kind, Pen(canvas, _placement(fine, rng)), pose, look, rng)
    cover(canvas, rng)
    return photograph(canvas, SIZE, rng)


def _placement(fine: int, rng: Generator) -> Points:
    """The matrix from the bird's frame to pixels: place, size, facing left or right, seen a little from the side."""
    scale = rng.uniform(0.36, 0.56)
    roll = np.deg2rad(rng.uniform(-7, 7))
    facing = -1.0 if rng.random() < 0.5 else 1.0
    stretch = np.array([[facing * rng.uniform(0.74, 1.0), rng.uniform(-0.1, 0.1)], [0.0, 1.0]])
    spin = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    room = 0.53 - 0.9 * scale  # the head stays in the picture, a tail may leave it
    place = np.array([0.5 - 0.08 * scale * facing, 0.53]) + rng.uniform(-room, room, 2)
    return fine * np.concatenate([spin @ stretch * scale, place[:, None]], 1)
