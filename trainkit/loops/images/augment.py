"""Random changes of pictures while training: another part, mirrored, lit otherwise, turned a little."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainkit.errors import UserErrorException


class Change(NamedTuple):
    """What was drawn for one picture."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool
    brightness: float  # factor of the mean
    contrast: float  # factor of the distance from the mean
    degrees: float


@dataclass(frozen=True)
class Augment:
    """A random part of each picture, resized to a square; and what else is changed.

    `scale` is the least and the largest share of the picture's area in the part, `ratio` that of its width to its
    height. Where such a part is wider or higher than the picture it is made smaller as a whole; with `squeeze` only the
    side that does not fit is. So `scale=(1, 1), ratio=(1, 1)` is the largest square, at a random place. `mirror` is the
    share of pictures that are mirrored. Brightness and contrast are changed by a factor from 1 - b to 1 + b each,
    `rotate` is the largest turn in degrees, to either side; what comes in from outside is a reflection.

    Raises UserErrorException for values that make no sense.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    rotate: float = 0.0
    squeeze: bool = False

    def __post_init__(self) -> None:
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            pair = getattr(self, name)
            try:
                low, high = pair
                sound = 0 < low <= high <= most and math.isfinite(high)
            except (TypeError, ValueError):
                sound = False
            if not sound:
                limit = "up to 1" if name == "scale" else "above 0"
                raise UserErrorException(
                    f"Augment: {name} is a pair (least, largest) of numbers {limit}, not {pair!r}."
                )
        for name, most in (("mirror", 1.0), ("brightness", 1.0), ("contrast", 1.0), ("rotate", 180.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise UserErrorException(f"Augment: {name} is a number from 0 to {most:g}, not {value!r}.")

    def least(self, size: int) -> int:
        """The shorter side that a picture needs so that the smallest part still has `size` pixels a side."""
        return math.ceil(size / math.sqrt(self.scale[0]))

    def draw(self, width: int, height: int, key: tuple[int, int, int]) -> Change:
        """What happens to a picture of this size, by (seed, epoch, its number).

        Each property has a random number of its own: one that is off changes no other.
        """
        area, ratio, left, top, mirror, light, contrast, turn = _numbers(key)
        pixels = width * height * _between(self.scale, area)
        shape = math.exp(_between((math.log(self.ratio[0]), math.log(self.ratio[1])), ratio))
        wide, high = math.sqrt(pixels * shape), math.sqrt(pixels / shape)
        if not self.squeeze:
            fits = min(1.0, width / wide, height / high)
            wide, high = wide * fits, high * fits
        w, h = (min(most, max(1, round(side))) for side, most in ((wide, width), (high, height)))
        return Change(
            left=int(left * (width - w + 1)),
            top=int(top * (height - h + 1)),
            width=w,
            height=h,
            mirrored=mirror < self.mirror,
            brightness=1 + self.brightness * (2 * light - 1),
            contrast=1 + self.contrast * (2 * contrast - 1),
            degrees=self.rotate * (2 * turn - 1),
        )


def cut(pixels: Tensor, change: Change, size: int) -> Tensor:
    """The part of a picture, uint8 [3, h, w], that was drawn, resized to [3, size, size], perhaps mirrored."""
    left, top, width, height = change[:4]
    part = pixels[:, top : top + height, left : left + width]
    if (width, height) != (size, size):
        part = F.interpolate(part[None], (size, size), mode="bilinear", antialias=True)[0]
    return part.flip(-1) if change.mirrored else part


def lit(image: Tensor, change: Change, mean: float) -> None:
    """Change a picture's brightness and contrast in place; `image` has values 0 to 255, `mean` is theirs."""
    shift = mean * (change.brightness - change.contrast)
    image.mul_(change.contrast).add_(shift).clamp_(0, 255)


def turned(image: Tensor, degrees: float) -> Tensor:
    """A picture, float [3, size, size], turned about its centre; the corners are filled by reflection."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    grid = F.affine_grid(torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]]), [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]


def _numbers(key: tuple[int, int, int]) -> list[float]:
    """Eight random numbers from 0 to 1, 1 excluded. A hash: a generator of numpy's takes ten times as long to seed."""
    digest = hashlib.blake2b(b"%d %d %d" % key, digest_size=64).digest()
    return [(word >> 11) * 2.0**-53 for word in struct.unpack("<8Q", digest)]


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share
