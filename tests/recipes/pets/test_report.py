"""What the report says about a classifier's mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainkit import Run, events
from trainkit.loops.fastailoop import Predictions
from trainkit_recipes.pets.report import confusion, most_confused, report, worst

NAMES = ("bengal", "birman", "pug")
GUESSES, RIGHT = [0, 1, 1, 1, 2, 0], [0, 0, 0, 1, 2, 2]


def _found() -> Predictions:
    values = torch.eye(3)[GUESSES] * 0.8 + 0.05
    right = torch.tensor(RIGHT)
    return Predictions(values, right, -values[torch.arange(6), right].log())


def _files(folder: Path) -> list[Path]:
    files = [folder / f"{number}.jpg" for number in range(6)]
    for number, file in enumerate(files):
        Image.new("RGB", (50, 40), (40 * number, 0, 0)).save(file)
    return files


def test_rows_are_what_it_is_columns_what_it_was_taken_for() -> None:
    table = confusion(_found(), 3)
    assert table.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    assert most_confused(table, NAMES) == [("bengal", "birman", 2), ("pug", "bengal", 1)]
    assert most_confused(table, NAMES, least=2) == [("bengal", "birman", 2)]


def test_the_picture_begins_with_the_worst_mistakes(tmp_path: Path) -> None:
    sheet = worst(_found(), _files(tmp_path), NAMES)
    reds = [np.asarray(sheet)[60, 90 + 180 * column, 0] for column in range(3)]
    assert {round(int(red) / 40) for red in reds} == {1, 2, 5}  # the three that were wrong


def test_all_of_it_is_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.get_context()
    assert report(run, _found(), _files(tmp_path), NAMES) == 0.5
    found = events.metrics(Path(run.directory))
    assert found["most_confused"]["times"] == [2, 1]
    assert set(found) >= {"confusion", "most_confused", "worst"}
