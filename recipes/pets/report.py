"""What a classifier gets wrong: a confusion matrix, the pairs most often confused, a picture of the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from trainkit import Run
from trainkit.export.preprocessing import read_picture
from trainkit.loops.fastailoop import Predictions

_SIDE = 180  # pixels of a picture in the grid
_TEXT = 40  # pixels below it
_SHOWN = 9


def confusion(found: Predictions, classes: int) -> NDArray[np.int64]:
    """How often class i (row) was taken for class j (column)."""
    guesses, right = found.values.argmax(1), found.targets.long()
    counts = torch.bincount(right * classes + guesses, minlength=classes * classes)
    table: NDArray[np.int64] = counts.view(classes, classes).numpy()
    return table


def most_confused(table: NDArray[np.int64], names: Sequence[str], least: int = 1) -> list[tuple[str, str, int]]:
    """(what it is, what it was taken for, how often), the most frequent first."""
    wrong = [(int(table[i, j]), i, j) for i, j in zip(*np.nonzero(table), strict=True) if i != j]
    return [(names[i], names[j], n) for n, i, j in sorted(wrong, key=lambda row: (-row[0], *row[1:])) if n >= least]


def worst(found: Predictions, files: Sequence[Path], names: Sequence[str]) -> Image.Image:
    """A grid of the pictures with the largest losses: what each was taken for / what it is, loss, probability."""
    order = found.losses.argsort(descending=True)[:_SHOWN].tolist()
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    sheet = Image.new("RGB", (columns * _SIDE, rows * (_SIDE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, number in enumerate(order):
        left, top = place % columns * _SIDE, place // columns * (_SIDE + _TEXT)
        sheet.paste(ImageOps.fit(read_picture(files[number]), (_SIDE - 4, _SIDE - 4)), (left + 2, top + 2))
        guess, right = int(found.values[number].argmax()), int(found.targets[number])
        numbers = f"{float(found.losses[number]):.2f} / {float(found.values[number, guess]):.2f}"
        draw.text((left + 4, top + _SIDE), f"{names[guess]} /\n{names[right]}  {numbers}", fill="black")
    return sheet


def report(run: Run, found: Predictions, files: Sequence[Path], names: Sequence[str]) -> float:
    """Put all of it into the run; returns the error rate."""
    table = confusion(found, len(names))
    data = {"class_labels": list(names), "matrix": table.tolist()}
    run.log_confusion_matrix("confusion", {"schema_type": "confusion_matrix", "schema_version": "1.0.0", "data": data})
    pairs = most_confused(table, names)[:20]
    if pairs:
        actual, predicted, times = (list(column) for column in zip(*pairs, strict=True))
        run.log_table("most_confused", {"actual": actual, "predicted": predicted, "times": times})
    run.log_image("worst", plot=worst(found, files, names))
    return 1 - float(np.trace(table)) / float(table.sum())
