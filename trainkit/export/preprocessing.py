"""What is done to a picture before a classifier sees it, with Pillow and numpy only.

The same steps as torchvision's Resize, CenterCrop, ToTensor and Normalize on a PIL image, to the last pixel, so that a
prediction sees what training saw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainkit.errors import ExportError, UserErrorException

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")  # none that runs a program
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_MOST_PIXELS = 1 << 28  # of a resized picture, before it is cropped


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize` pixels, cut the central `size` x `size`, scale to 0..1, normalise.

    `mean` and `std` are those of red, green and blue on the scale 0..1; `interpolation` is Pillow's filter, always
    with antialiasing, by torchvision's name. Raises ExportError for values that make no sense.
    """

    resize: int
    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("resize", "size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 8192:
                raise ExportError(f"Preprocessing: {name} is a number of pixels from 1 to 8192, not {value!r}.")
        if self.resize < self.size:
            raise ExportError(f"Preprocessing: resize {self.resize} is smaller than the cut of {self.size} pixels.")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise ExportError(f"Preprocessing: std has three numbers above 0, not {self.std}.")
        if self.interpolation not in _INTERPOLATIONS:
            known = ", ".join(_INTERPOLATIONS)
            raise ExportError(f"Preprocessing: interpolation is one of {known}, not {self.interpolation!r}.")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "resize": self.resize,
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_json`; without `interpolation` bilinear is meant, unknown values are refused."""
        needed = {"resize", "size", "mean", "std"}
        if not isinstance(values, Mapping) or set(values) - {"interpolation"} != needed:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise ExportError(f"Preprocessing has the values {sorted(needed)} and interpolation; found: {found!r}.")
        return cls(**values)

    def frame(self, image: Image.Image) -> Image.Image:
        """The part of an RGB picture that the model sees, resized: size x size."""
        from PIL import Image

        width, height = image.size
        short, long = sorted((width, height))
        scaled = int(self.resize * long / short)
        if self.resize * scaled > _MOST_PIXELS:
            raise UserErrorException(f"A picture of {width} x {height} pixels is too narrow to be classified.")
        target = (self.resize, scaled) if width <= height else (scaled, self.resize)
        if target != image.size:
            image = image.resize(target, Image.Resampling[self.interpolation.upper()])
        left, top = (int(round((side - self.size) / 2.0)) for side in target)
        return image.crop((left, top, left + self.size, top + self.size))

    def apply(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB picture as the model's input: float32, 3 x size x size."""
        import numpy as np

        pixels = np.asarray(self.frame(image), dtype=np.float32)
        scaled_pixels = pixels.transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.asarray(values, dtype=np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        return np.ascontiguousarray((scaled_pixels - mean) / std, dtype=np.float32)

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.float32]:
        """The picture in a file as the model's input; UserErrorException names the file where it cannot be used."""
        image = read_picture(path)
        try:
            return self.apply(image)
        except UserErrorException as e:
            raise UserErrorException(f"{os.fspath(path)}: {e.message}") from e


def _three(name: str, values: Any) -> tuple[float, ...]:
    """A mean or std as three finite floats."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ExportError(f"Preprocessing: {name} has three numbers, for red, green and blue, not {values!r}.")
    return numbers


def read_picture(path: str | os.PathLike[str], least: int | None = None) -> Image.Image:
    """The picture in a file: upright as its EXIF orientation says, in RGB (grey is spread, transparency dropped).

    With `least` a JPEG may be decoded at a half, quarter or eighth of its size, as long as both sides keep so many
    pixels; without it every picture has all its pixels.

    Raises UserErrorException, which names the file, where it is missing, damaged, no picture, or has more than 8 bits
    a channel (what they mean is unknown).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = os.fspath(path)
    Image.init()
    try:
        with Image.open(path, formats=[known for known in _FORMATS if known in Image.OPEN]) as image:
            if image.mode not in _EIGHT_BITS:
                raise UserErrorException(
                    f"{name} has more than 8 bits a channel (Pillow's mode {image.mode}); convert it to 8 bits."
                )
            if least is not None:
                image.draft(None, (least, least))
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("P", "PA"):
                upright = upright.convert("RGBA")  # first: a palette's transparency
            return upright.convert("RGB")
    except FileNotFoundError as e:
        raise UserErrorException(f"There is no picture {name}.") from e
    except IsADirectoryError as e:
        raise UserErrorException(f"{name} is a folder; name the pictures in it.") from e
    except UnidentifiedImageError as e:
        raise UserErrorException(f"{name} is not a picture, or of a kind that is not read here.") from e
    except UserErrorException:
        raise
    except Exception as e:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise UserErrorException(f"{name} cannot be read as a picture: it is damaged ({e}).") from e
