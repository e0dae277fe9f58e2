"""What is around a drawn bird: backgrounds, things in front of it, and what a camera adds.

Training and validation never share a background: each has kinds of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from trainkit_recipes.birds.drawing import Colour, Pen, tint

Pixels = NDArray[np.float64]


def _cloudy(size: int, rng: Generator, cells: int) -> Pixels:
    """Smooth noise in -1..1, (size, size): a small random grid enlarged."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def _ground(size: int, rng: Generator, above: Colour, below: Colour, horizon: float, rough: float) -> Image.Image:
    """Two areas that meet at `horizon` (0 the top, 1 the bottom), with clouds of light and dark."""
    low = size // 3  # soft enough to be drawn small
    y = np.linspace(0, 1, low)[:, None, None]
    edge = horizon + 0.03 * _cloudy(low, rng, 5)[..., None]
    mix = np.clip((y - edge) * 40, 0, 1)
    picture = np.asarray(tint(above, rng, 24)) * (1 - mix) + np.asarray(tint(below, rng, 24)) * mix
    picture = picture + rough * _cloudy(low, rng, 7)[..., None] + 0.6 * rough * _cloudy(low, rng, 28)[..., None] * mix
    small = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BILINEAR)


def _strokes(image: Image.Image, rng: Generator, colour: Colour, count: int, length: float, slant: float) -> None:
    """Blades, straws or twigs: short lines around the vertical (`slant` 0) or in any direction (1)."""
    draw, size = ImageDraw.Draw(image), image.width
    for _ in range(count):
        x, y = rng.uniform(0, size), size * (1 - 0.62 * rng.random() ** 1.3)
        a = np.pi / 2 + slant * rng.uniform(-np.pi / 2, np.pi / 2) + rng.normal(0, 0.25)
        reach = length * size * rng.uniform(0.5, 1.3)
        end = (x + reach * np.cos(a), y - reach * np.sin(a))
        draw.line([(x, y), end], fill=tint(colour, rng, 50), width=max(1, size // 128))


def _meadow(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, (150, 190, 224), (96, 138, 62), rng.uniform(0.2, 0.5), 16)
    _strokes(image, rng, (84, 128, 52), 260, 0.07, 0.1)
    _flowers(image, rng, 26)
    return image


def _flowers(image: Image.Image, rng: Generator, count: int) -> None:
    draw, size = ImageDraw.Draw(image), image.width
    colours: tuple[Colour, ...] = ((210, 46, 48), (226, 190, 60), (120, 130, 200), (240, 236, 226), (200, 110, 110))
    for _ in range(count):
        x, y, r = rng.uniform(0, size), size * rng.uniform(0.45, 1), size * rng.uniform(0.006, 0.018)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=tint(colours[rng.integers(len(colours))], rng))


def _straw(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, (112, 84, 58), (204, 172, 104), rng.uniform(0.15, 0.4), 18)
    _strokes(image, rng, (214, 184, 116), 420, 0.1, 1.0)
    return image


def _bricks(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, (158, 84, 62), (128, 118, 108), rng.uniform(0.55, 0.75), 12)
    draw, high = ImageDraw.Draw(image), size // int(rng.integers(12, 18))
    for row in range(int(0.6 * size / high)):
        for x in range(-(row % 2) * high, size, 2 * high):
            box = [x + 1, row * high + 1, x + 2 * high - 2, row * high + high - 2]
            draw.rectangle(box, fill=tint((166, 88, 66), rng, 36))
    return image


def _wheel(size: int, rng: Generator) -> Image.Image:
    """A sandy yard with a cart wheel: spokes that look like a spread tail."""
    image = _ground(size, rng, (186, 170, 146), (216, 194, 154), rng.uniform(0.3, 0.6), 14)
    draw = ImageDraw.Draw(image)
    x, y, r = rng.uniform(0, size), size * rng.uniform(0.2, 0.6), size * rng.uniform(0.16, 0.34)
    colour = tint((104, 74, 46), rng, 30)
    for a in np.linspace(0, 2 * np.pi, int(rng.integers(10, 17)), endpoint=False):
        draw.line([(x, y), (x + r * np.cos(a), y + r * np.sin(a))], fill=colour, width=size // 50)
    draw.ellipse([x - r, y - r, x + r, y + r], outline=colour, width=size // 28)
    return image


def _mesh(size: int, rng: Generator) -> Image.Image:
    """Wire netting before a hedge."""
    image = _ground(size, rng, (88, 122, 78), (136, 112, 84), rng.uniform(0.5, 0.75), 26)
    draw, step, colour = ImageDraw.Draw(image), size // int(rng.integers(9, 16)), tint((150, 154, 156), rng, 40)
    for x in range(-size, 2 * size, step):
        draw.line([(x, 0), (x + size * 0.6, size)], fill=colour, width=size // 192)
        draw.line([(x, 0), (x - size * 0.6, size)], fill=colour, width=size // 192)
    return image


def _hills(size: int, rng: Generator) -> Image.Image:
    """Three ranges of hills under an evening sky, stubble in front."""
    image = _ground(size, rng, (232, 168, 128), (168, 142, 92), rng.uniform(0.4, 0.6), 12)
    draw, x = ImageDraw.Draw(image), np.linspace(0, 1, 24)
    for i, colour in enumerate(((126, 118, 150), (104, 108, 118), (92, 104, 78))):
        y = 0.28 + 0.11 * i + 0.06 * np.sin(x * rng.uniform(4, 11) + rng.uniform(0, 6))
        line = np.stack([x, y], 1) * size
        draw.polygon([(0, size * 0.62), *map(tuple, line.tolist()), (size, size * 0.62)], fill=tint(colour, rng, 24))
    _strokes(image, rng, (190, 164, 104), 160, 0.05, 0.2)
    return image


def _snow(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, (176, 190, 208), (232, 236, 242), rng.uniform(0.25, 0.5), 12)
    _strokes(image, rng, (120, 104, 88), 50, 0.12, 0.3)
    return image


def _forest(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, (58, 84, 56), (108, 82, 52), rng.uniform(0.5, 0.7), 22)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(5, 10))):
        x, w = rng.uniform(0, size), size * rng.uniform(0.02, 0.07)
        draw.polygon([(x, 0), (x + w, 0), (x + w * 1.3, size * 0.68), (x - w * 0.3, size * 0.68)],
                     fill=tint((74, 58, 44), rng, 30))  # fmt: skip
    _leaves(image, rng, 160)
    return image


def _leaves(image: Image.Image, rng: Generator, count: int) -> None:
    colours: tuple[Colour, ...] = ((176, 92, 40), (190, 50, 44), (200, 160, 70), (92, 110, 52), (130, 140, 170))
    pen = Pen(image, np.array([[image.width, 0.0, 0.0], [0.0, image.width, 0.0]]))
    for _ in range(count):
        spot = rng.uniform((0, 0.45), (1, 1))
        pen.feather(spot, spot + rng.normal(0, 0.03, 2), 0.01, 0.1, tint(colours[rng.integers(len(colours))], rng))


def _planks(size: int, rng: Generator) -> Image.Image:
    image = _ground(size, rng, (148, 116, 86), (122, 112, 92), rng.uniform(0.65, 0.8), 14)
    draw, wide = ImageDraw.Draw(image), size // int(rng.integers(6, 11))
    for x in range(0, size, wide):
        draw.rectangle([x + 1, 0, x + wide - 2, int(size * 0.7)], fill=tint((158, 118, 82), rng, 40))
        for _ in range(4):
            grain = x + rng.uniform(0, wide)
            draw.line([(grain, 0), (grain + rng.normal(0, 3), size * 0.7)], fill=tint((120, 86, 58), rng, 20))
    return image


def _pebbles(size: int, rng: Generator) -> Image.Image:
    """Pebbles before a fern, whose leaves look like a spread tail."""
    image = _ground(size, rng, (120, 148, 128), (150, 146, 140), rng.uniform(0.3, 0.55), 14)
    draw = ImageDraw.Draw(image)
    for _ in range(160):
        x, y, r = rng.uniform(0, size), size * rng.uniform(0.5, 1), size * rng.uniform(0.008, 0.03)
        draw.ellipse([x - r, y - r * 0.7, x + r, y + r * 0.7], fill=tint((154, 148, 140), rng, 60))
    pen = Pen(image, np.array([[size, 0.0, 0.0], [0.0, size, 0.0]]))
    root, colour = rng.uniform((0, 0.35), (1, 0.65)), (66, 106, 60)
    for a in np.linspace(0.1, np.pi - 0.1, int(rng.integers(9, 15))):
        tip = root + rng.uniform(0.2, 0.36) * np.array([np.cos(a), -np.sin(a)])
        pen.feather(root, tip, 0.02, rng.uniform(-0.1, 0.1), tint(colour, rng, 30))
    return image


BACKGROUNDS: dict[str, tuple[Callable[[int, Generator], Image.Image], ...]] = {
    "train": (_meadow, _straw, _bricks, _wheel, _mesh, _hills),
    "val": (_snow, _forest, _planks, _pebbles),
}


def background(split: str, size: int, rng: Generator) -> Image.Image:
    """A (size, size) picture of one of the split's own kinds of place."""
    kinds = BACKGROUNDS[split]
    return kinds[rng.integers(len(kinds))](size, rng)


def cover(image: Image.Image, rng: Generator) -> None:
    """Put up to two things in front: a post, a wire, a tuft of grass, a bucket."""
    draw, size = ImageDraw.Draw(image), image.width
    for _ in range(int(rng.integers(0, 3))):
        x, what = rng.uniform(0, size), rng.integers(4)
        if what == 0:
            w = size * rng.uniform(0.03, 0.08)
            draw.rectangle([x, 0, x + w, size], fill=tint((120, 96, 72), rng, 50))
        elif what == 1:
            y, sag = size * rng.uniform(0.2, 0.9), size * rng.uniform(-0.1, 0.1)
            draw.line([(0, y), (size, y + sag)], fill=tint((90, 90, 92), rng, 40), width=size // 48)
        elif what == 2:
            for _ in range(30):
                foot = x + rng.normal(0, size * 0.06)
                end = (foot + rng.normal(0, size * 0.06), size * rng.uniform(0.5, 0.85))
                draw.line([(foot, size), end], fill=tint((104, 128, 66), rng, 50), width=max(1, size // 90))
        else:
            r, y = size * rng.uniform(0.06, 0.12), size * rng.uniform(0.75, 1)
            colour = tint(((190, 40, 44), (90, 110, 160), (150, 152, 156))[rng.integers(3)], rng, 30)
            draw.polygon([(x - r, y - r), (x + r, y - r), (x + r * 0.7, y + r), (x - r * 0.7, y + r)], fill=colour)
            draw.ellipse([x - r, y - r * 1.3, x + r, y - r * 0.7], fill=tint(colour, rng, 4, 30))


def photograph(image: Image.Image, size: int, rng: Generator) -> Image.Image:
    """The canvas as a camera saw it, (size, size): light, contrast, a colour cast, blur, noise."""
    small = image.resize((size, size), Image.Resampling.BOX)
    if rng.random() < 0.3:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    pixels = np.asarray(small, dtype=np.float64)
    pixels = (pixels - 128) * rng.uniform(0.75, 1.15) + 128 + rng.uniform(-24, 24)
    pixels = pixels * rng.uniform(0.88, 1.12, 3)
    ramp = np.linspace(-1, 1, size)
    pixels = pixels + rng.uniform(-22, 22) * ramp[:, None, None] + rng.uniform(-22, 22) * ramp[None, :, None]
    pixels = pixels + rng.normal(0, rng.uniform(2, 10), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
