"""What is drawn lies within what was asked, and does what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit import UserErrorException
from trainkit.loops.images import Augment
from trainkit.loops.images.augment import Change, cut, lit, turned


def draws(augment: Augment, width: int, height: int, count: int = 400) -> list[Change]:
    return [augment.draw(width, height, (1, 0, n)) for n in range(count)]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32), st.booleans())
def test_a_part_lies_within_the_picture(width: int, height: int, seed: int, squeeze: bool) -> None:
    change = Augment(squeeze=squeeze).draw(width, height, (seed, 0, 0))
    assert change.left >= 0 and change.width >= 1 and change.left + change.width <= width
    assert change.top >= 0 and change.height >= 1 and change.top + change.height <= height


def test_areas_and_shapes_are_those_asked_for() -> None:
    drawn = draws(Augment(scale=(0.2, 0.6), ratio=(0.8, 1.25)), 1000, 1000)
    areas = [c.width * c.height / 1e6 for c in drawn]
    shapes = [c.width / c.height for c in drawn]
    assert 0.199 < min(areas) < 0.22 and 0.58 < max(areas) < 0.601
    assert 0.795 < min(shapes) < 0.82 and 1.22 < max(shapes) < 1.256
    assert abs(np.mean(areas) - 0.4) < 0.02 and abs(np.mean([c.mirrored for c in drawn]) - 0.5) < 0.1


def test_what_does_not_fit_keeps_its_shape_or_is_squeezed() -> None:
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    squares = draws(Augment(**whole), 300, 200)  # type: ignore[arg-type]
    assert {(c.width, c.height, c.top) for c in squares} == {(200, 200, 0)}
    assert {0, 100} <= {c.left for c in squares} <= set(range(101))
    squeezed = draws(Augment(**whole, squeeze=True), 300, 200)  # type: ignore[arg-type]
    assert {(c.width, c.height) for c in squeezed} == {(245, 200)}


def test_one_property_off_changes_no_other() -> None:
    full = draws(Augment(brightness=0.2, contrast=0.3, rotate=10), 90, 60)
    bare = draws(Augment(), 90, 60)
    assert [c[:5] for c in full] == [c[:5] for c in bare]
    assert all(c[5:] == (1, 1, 0) for c in bare)
    assert max(abs(c.brightness - 1) for c in full) <= 0.2 < 2 * max(abs(c.brightness - 1) for c in full)
    assert max(abs(c.contrast - 1) for c in full) <= 0.3 and max(abs(c.degrees) for c in full) <= 10
    assert not any(c.mirrored for c in draws(Augment(mirror=0), 90, 60))


def test_a_part_is_cut_where_it_was_drawn_and_mirrored() -> None:
    pixels = torch.arange(3 * 20 * 30, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(3, 20, 30)
    change = Change(4, 2, 8, 8, False, 1, 1, 0)
    assert torch.equal(cut(pixels, change, 8), pixels[:, 2:10, 4:12])
    assert torch.equal(cut(pixels, change._replace(mirrored=True), 8), pixels[:, 2:10, 4:12].flip(-1))
    even = torch.full((3, 20, 30), 77, dtype=torch.uint8)
    assert torch.equal(cut(even, change, 33), torch.full((3, 33, 33), 77, dtype=torch.uint8))


def test_light_keeps_to_the_mean_and_to_the_range() -> None:
    image = torch.tensor([[[10.0, 100.0, 250.0]]])
    lit(image, Change(0, 0, 1, 1, False, 1.1, 0.5, 0), 120.0)
    assert torch.allclose(image, torch.tensor([[[77.0, 122.0, 197.0]]]))
    lit(image, Change(0, 0, 1, 1, False, 2.0, 2.0, 0), 132.0)
    assert image.max() == 255


def test_a_quarter_turn_is_one() -> None:
    image = torch.rand(3, 8, 8)
    assert torch.allclose(turned(image, 90), torch.rot90(image, 1, (1, 2)), atol=1e-5)
    assert torch.allclose(turned(image, 0), image, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"scale": (0, 1)}, {"scale": (0.5, 1.5)}, {"scale": (0.9, 0.1)}, {"scale": 0.5}, {"scale": ("a", "b")},
        {"ratio": (1, float("inf"))}, {"ratio": (-1, 1)}, {"mirror": 2}, {"mirror": True}, {"brightness": -0.1},
        {"contrast": "much"}, {"rotate": 200}, {"rotate": float("nan")},
    ],
)  # fmt: skip
def test_values_without_sense_are_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(UserErrorException, match=f"Augment: {next(iter(values))} is a"):
        Augment(**values)
