"""Draws a chicken or a turkey, in side view, on a picture: plain polygons from a pose and a generator of numbers.

A bird has its own frame: x forward, y down, its body about one unit long, the ground at y = 0.78. `Pen` carries that
frame onto the canvas, so that place, size, direction and slant are one matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

# Plumages are shared by both kinds, so that colour alone tells nothing: body, dark feathers, light feather tips.
PLUMAGES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((236, 232, 222), (188, 180, 168), (252, 250, 245)),
    ((168, 96, 44), (96, 48, 22), (222, 164, 98)),
    ((96, 62, 38), (46, 30, 22), (206, 178, 132)),
    ((62, 56, 54), (26, 24, 26), (170, 160, 146)),
    ((206, 160, 92), (142, 98, 48), (240, 214, 162)),
    ((138, 132, 126), (78, 74, 74), (214, 208, 198)),
)
REDS: tuple[Colour, ...] = ((206, 32, 36), (184, 22, 40), (222, 60, 52))
LEGS: tuple[Colour, ...] = ((226, 176, 56), (196, 128, 78), (128, 110, 96))

# A feather from base (0) to tip (1): its middle line's bend and its half width there.
_T = np.linspace(0, 1, 12)[:, None]
_ARC = 4 * _T * (1 - _T)
_WIDTH = np.sin(np.pi * _T**0.75) ** 0.7


@dataclass(frozen=True)
class Pose:
    """How a bird holds itself, in degrees and body lengths."""

    tilt: float  # of the body: positive lifts the breast
    neck: float  # the neck's direction above the horizontal: negative is pecking
    reach: float  # length of the neck
    stride: float  # distance of the feet


@dataclass(frozen=True)
class Look:
    """What differs from bird to bird."""

    plumage: tuple[Colour, Colour, Colour]
    red: Colour
    legs: Colour
    plump: float  # height of the body relative to the usual


class Pen:
    """Draws in the bird's frame; `matrix` (2, 3) maps a point of it to pixels."""

    def __init__(self, image: Image.Image, matrix: Points) -> None:
        self._draw = ImageDraw.Draw(image)
        self._matrix = matrix
        self._scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))

    def _placed(self, points: Any) -> list[float]:
        """The points' pixels as x, y, x, y, ..."""
        placed: list[float] = (np.asarray(points) @ self._matrix[:, :2].T + self._matrix[:, 2]).ravel().tolist()
        return placed

    def blob(self, points: Any, fill: Colour) -> None:
        """Fill a polygon given as (n, 2) points."""
        self._draw.polygon(self._placed(points), fill=fill)

    def oval(self, centre: Any, rx: float, ry: float, fill: Colour, angle: float = 0.0) -> None:
        """Fill an ellipse turned by `angle` degrees, upwards at the front."""
        t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        self.blob(turn(np.stack([rx * np.cos(t), ry * np.sin(t)], 1), angle) + np.asarray(centre), fill)

    def line(self, points: Any, width: float, fill: Colour) -> None:
        """Draw a line through points, `width` in body lengths."""
        pixels = max(1, round(width * self._scale))
        self._draw.line(self._placed(points), fill=fill, width=pixels, joint="curve")

    def feather(self, base: Any, tip: Any, width: float, bend: float, fill: Colour) -> None:
        """Fill a leaf from base to tip whose middle line is bent sideways by `bend` times its length."""
        base, tip = np.asarray(base, dtype=np.float64), np.asarray(tip, dtype=np.float64)
        along = tip - base
        side = np.array([-along[1], along[0]])
        middle = base + _T * along + _ARC * bend * side
        across = side / (np.hypot(*side) + 1e-9) * width * _WIDTH
        self.blob(np.concatenate([middle + across, (middle - across)[::-1]]), fill)


def turn(points: Any, degrees: float) -> Points:
    """Points turned about the origin; positive degrees lift the front, as y points down."""
    a = np.deg2rad(-degrees)
    turned: Points = np.asarray(points) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return turned


def smooth(points: Any) -> Points:
    """A closed curve through the points (Catmull-Rom)."""
    p = np.asarray(points, dtype=np.float64)
    a, b, c, d = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2), dtype=np.float64)


def tint(colour: Colour, rng: Generator, spread: float = 12.0, light: float = 0.0) -> Colour:
    """The colour made lighter (or darker, below 0) by `light`, and a little different each time."""
    shade, *each = rng.standard_normal(4).tolist()
    r, g, b = (
        min(255, max(0, int(c + light + shade * spread / 2 + e * spread / 3)))
        for c, e in zip(colour, each, strict=True)
    )
    return r, g, b


def draw_bird(kind: str, pen: Pen, pose: Pose, look: Look, rng: Generator) -> None:
    """Draw a "chicken" or a "turkey"."""
    (_draw_chicken if kind == "chicken" else _draw_turkey)(pen, pose, look, rng)


def _legs(pen: Pen, pose: Pose, look: Look, rng: Generator, hip: float) -> None:
    """Two legs with three toes and a spur each; the far one is darker."""
    for foot, light in ((-pose.stride / 2, -35.0), (pose.stride / 2, 0.0)):
        colour = tint(look.legs, rng, 8, light)
        knee = (hip + foot * 0.4 - 0.03, 0.5)
        ankle = (hip + foot, 0.76)
        pen.feather((hip, 0.16), knee, 0.09, 0.05, tint(look.plumage[0], rng, 8, light))
        pen.line([(hip + foot * 0.3 - 0.02, 0.4), knee, ankle], 0.035, colour)
        for toe in ((0.13, 0.02), (0.1, -0.02), (0.06, 0.05), (-0.07, 0.02)):
            pen.line([ankle, (ankle[0] + toe[0], ankle[1] + toe[1])], 0.026, colour)


def _plumage(pen: Pen, outline: Points, look: Look, rng: Generator, count: int) -> None:
    """A shaded body: darker below, with `count` short feathers lying backwards."""
    body, dark, light = look.plumage
    pen.blob(outline, tint(body, rng, 6, -22))
    centre = outline.mean(0)
    for step, shade in ((0.9, -8.0), (0.76, 4.0), (0.56, 14.0)):
        pen.blob((outline - centre) * step + centre + np.array([0.01, -0.06 * (1 - step)]), tint(body, rng, 4, shade))
    for _ in range(count):
        spot = centre + (outline[rng.integers(len(outline))] - centre) * np.sqrt(rng.random()) * 0.86
        fill = tint(dark if rng.random() < 0.6 else light, rng, 20)
        pen.feather(spot, spot + np.array([-0.1, 0.03 + 0.05 * rng.random()]), 0.018, 0.15, fill)


def _wing(pen: Pen, tilt: float, look: Look, rng: Generator, droop: float) -> None:
    """A folded wing: coverts in front, long quills behind."""
    body, dark, light = look.plumage
    root = np.array([0.14, -0.08])
    for i in range(6):
        tip = turn(np.array([-0.42 + 0.03 * i, 0.02 + droop + 0.035 * i]), tilt)
        pen.feather(turn(root, tilt), tip, 0.055, -0.12, tint(dark if i % 2 else body, rng, 10, -10))
        pen.line([turn(root + [-0.2, 0.05], tilt), tip], 0.008, tint(light, rng))
    pen.blob(smooth(turn([[0.24, -0.06], [0.08, -0.17], [-0.16, -0.1], [-0.12, 0.08], [0.12, 0.1]], tilt)),
             tint(body, rng, 8, -4))  # fmt: skip
    for _ in range(14):
        spot = turn(root + rng.uniform((-0.24, -0.05), (0.06, 0.13)), tilt)
        pen.feather(
            spot, spot + turn([-0.07, 0.02], tilt), 0.014, 0.1, tint(light if rng.random() < 0.4 else dark, rng)
        )


def _head_at(pose: Pose, base: Points, length: float) -> Points:
    """Where the head is: the neck leaves its base in the pose's direction."""
    return base + turn(np.array([length, 0.0]), pose.neck)


def _draw_chicken(pen: Pen, pose: Pose, look: Look, rng: Generator) -> None:
    body, dark, light = look.plumage
    tall = look.plump
    root = turn(np.array([-0.4, -0.14]), pose.tilt)
    spread = rng.uniform(50, 90)
    count = int(rng.integers(6, 10))
    for i in range(count):  # the sickle tail: upwards, its tips falling backwards
        angle = 178 - spread * i / (count - 1) - rng.uniform(0, 12)
        tip = root + turn(np.array([rng.uniform(0.3, 0.5), 0.0]), angle + pose.tilt)
        colour = dark if i % 2 else body
        pen.feather(root + [0.1, 0.04], tip, 0.06, rng.uniform(-0.3, -0.14), tint(colour, rng, 16, -12))
    _legs(pen, pose, look, rng, 0.02)
    outline = [[0.46, -0.08], [0.42, 0.14], [0.16, 0.31], [-0.16, 0.26], [-0.42, 0.02], [-0.46, -0.2], [-0.2, -0.18],
               [0.06, -0.24], [0.3, -0.26]]  # fmt: skip
    _plumage(pen, smooth(turn(np.array(outline) * [1.0, tall], pose.tilt)), look, rng, 46)
    _wing(pen, pose.tilt, look, rng, 0.06)
    base = turn(np.array([0.3, -0.12]), pose.tilt)
    head = _head_at(pose, base, pose.reach)
    across = turn(np.array([0.0, 1.0]), pose.neck)
    along = (head - base) / np.linalg.norm(head - base)
    hackle = [
        base - across * 0.2 - along * 0.06,
        base + across * 0.22 - along * 0.02,
        base + across * 0.14 + along * 0.2,
        head + across * 0.1,
        head - across * 0.1,
        base - across * 0.13 + along * 0.18,
    ]
    pen.blob(smooth(hackle), tint(body, rng, 8, 6))
    for _ in range(16):
        start = base + (head - base) * rng.uniform(0.1, 0.85) + across * rng.uniform(-0.1, 0.1)
        pen.feather(start, start - along * 0.15, 0.016, 0.05, tint(light if rng.random() < 0.5 else dark, rng, 16))
    _chicken_head(pen, head, pose.neck * 0.35 + rng.uniform(-8, 8), look, rng)


def _chicken_head(pen: Pen, head: Points, nod: float, look: Look, rng: Generator) -> None:
    """A serrated comb on top, two round wattles, a pointed yellow beak."""

    def at(x: float, y: float) -> Points:
        return head + turn(np.array([x, y]), nod)

    teeth = int(rng.integers(4, 6))
    high = rng.uniform(0.11, 0.17)
    comb = [at(-0.12, -0.04)]
    for i in range(teeth):
        x = -0.13 + 0.24 * i / (teeth - 1)
        comb += [at(x - 0.015, -0.09 - high * (0.75 + 0.25 * np.sin(np.pi * i / (teeth - 1)))), at(x + 0.028, -0.11)]
    pen.blob([*comb, at(0.1, -0.04)], tint(look.red, rng, 8))
    drop = rng.uniform(0.07, 0.1)
    pen.oval(at(0.06, 0.12), 0.042, drop, tint(look.red, rng, 8, -26), nod)
    pen.blob([at(0.07, -0.055), at(0.22, 0.015), at(0.07, 0.02)], tint((232, 184, 70), rng, 8))
    pen.blob([at(0.07, 0.01), at(0.19, 0.022), at(0.07, 0.055)], tint((206, 150, 50), rng, 8))
    pen.oval(head, 0.11, 0.1, tint(look.plumage[0], rng, 8, 8), nod)
    pen.oval(at(0.04, 0.005), 0.07, 0.06, tint(look.red, rng, 8), nod)
    pen.oval(at(0.085, 0.13), 0.04, drop, tint(look.red, rng, 8), nod)
    pen.oval(at(-0.035, 0.05), 0.025, 0.035, tint((238, 226, 210), rng, 8), nod)
    _eye(pen, at(0.045, -0.02))


def _eye(pen: Pen, centre: Points) -> None:
    pen.oval(centre, 0.028, 0.028, (236, 168, 60))
    pen.oval(centre, 0.016, 0.016, (14, 12, 12))


def _draw_turkey(pen: Pen, pose: Pose, look: Look, rng: Generator) -> None:
    body, dark, light = look.plumage
    tall = look.plump
    root = turn(np.array([-0.3, -0.04]), pose.tilt)
    if rng.random() < 0.6:
        _fan(pen, root, pose, look, rng)
    else:  # folded: long and level behind the body, with the bands of the fan
        for i in range(7):
            tip = root + turn(np.array([-0.52 + 0.02 * i, -0.1 + 0.05 * i]), pose.tilt)
            pen.feather(root + [0.1, 0.0], tip, 0.06, 0.04, tint(dark if i % 2 else body, rng, 12, -8))
            pen.feather(root + (tip - root) * 0.82, tip, 0.045, 0.02, tint(light, rng, 10))
    _legs(pen, pose, look, rng, -0.02)
    outline = [[0.5, -0.1], [0.48, 0.16], [0.22, 0.37], [-0.14, 0.32], [-0.42, 0.12], [-0.46, -0.06], [-0.24, -0.28],
               [0.06, -0.36], [0.34, -0.3]]  # fmt: skip
    _plumage(pen, smooth(turn(np.array(outline) * [1.0, tall], pose.tilt)), look, rng, 60)
    _wing(pen, pose.tilt, look, rng, 0.16)
    base = turn(np.array([0.4, -0.16]), pose.tilt)
    head = _head_at(pose, base, pose.reach + 0.1)
    across = turn(np.array([0.0, 1.0]), pose.neck)
    for i in range(3):  # the beard
        pen.line([base + [0.06, 0.12], base + [0.09 + 0.015 * i, 0.3]], 0.014, tint((30, 26, 26), rng, 6))
    bare = tint(((150, 158, 176), (206, 120, 112), (186, 150, 146))[rng.integers(3)], rng, 10)
    middle = base + (head - base) * 0.5
    throat = [base - across * 0.15, base + across * 0.15, middle + across * 0.075]
    pen.blob(smooth([*throat, head + across * 0.055, head - across * 0.055, middle - across * 0.06]), bare)
    for _ in range(9):  # caruncles
        spot = base + (head - base) * rng.uniform(0.1, 0.6) + across * rng.uniform(-0.02, 0.09)
        pen.oval(spot, 0.03, 0.03, tint(look.red, rng, 20))
    _turkey_head(pen, head, pose.neck * 0.35 + rng.uniform(-8, 8), bare, look, rng)


def _fan(pen: Pen, root: Points, pose: Pose, look: Look, rng: Generator) -> None:
    """The tail displayed: feathers all around, each with a dark band and a light tip."""
    body, dark, light = look.plumage
    first, last = 90 - rng.uniform(25, 75), 180 + rng.uniform(-10, 35)
    length = rng.uniform(0.58, 0.78)
    squeeze = np.array([rng.uniform(0.6, 1.0), 1.0])
    count = int(rng.integers(11, 17))
    angles = np.linspace(first, last, count) + rng.uniform(-2, 2, count)
    for i, angle in enumerate(angles):
        ray = turn(np.array([length, 0.0]), angle + pose.tilt) * squeeze
        width = length * np.deg2rad((last - first) / count) * 0.62
        pen.feather(root, root + ray, width, 0.0, tint(light, rng, 10))
        pen.feather(root, root + ray * 0.9, width * 0.98, 0.0, tint(dark, rng, 10))
        pen.feather(root, root + ray * 0.78, width * 0.94, 0.0, tint(body if i % 2 else dark, rng, 14, 8))


def _turkey_head(pen: Pen, head: Points, nod: float, bare: Colour, look: Look, rng: Generator) -> None:
    """A bare small head without comb; the snood falls over the beak, wattles hang from the throat."""

    def at(x: float, y: float) -> Points:
        return head + turn(np.array([x, y]), nod)

    wattle = [at(-0.02, 0.05), at(0.08, 0.05), at(0.09, 0.2), at(0.03, rng.uniform(0.24, 0.34)), at(-0.04, 0.18)]
    pen.blob(smooth(wattle), tint(look.red, rng, 8, -10))
    pen.blob([at(0.06, -0.05), at(0.2, 0.02), at(0.18, 0.045), at(0.06, 0.05)], tint((216, 186, 136), rng, 8))
    pen.oval(head, 0.105, 0.085, bare, nod)
    pen.oval(at(-0.02, -0.04), 0.08, 0.045, tint((206, 208, 214), rng, 10), nod)
    low = rng.uniform(0.1, 0.24)
    snood = [at(0.05, -0.075), at(0.11, -0.07), at(0.155, 0.02), at(0.15, low), at(0.115, low), at(0.11, 0.03)]
    pen.blob(smooth(snood), tint(look.red, rng, 8))
    _eye(pen, at(0.03, -0.015))
