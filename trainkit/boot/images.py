"""Stores the images that `log_image` is given: files, matplotlib's figures, Pillow's images."""

from __future__ import annotations

import io
import re
from typing import Any

from trainkit.boot import files
from trainkit.boot.rundir import RunDir
from trainkit.errors import UserErrorException


def store(run_dir: RunDir, name: str, path: Any, plot: Any, rank: int) -> str:
    """Keep an image; the name of its file among the run's files. Exactly one of `path` and `plot` is given."""
    if (path is None) == (plot is None):
        raise UserErrorException("log_image(%r) needs a path or a plot, and only one of them." % name)
    data = b"" if plot is None else _drawn(name, plot)
    suffix = "" if path is None else files.regular(name, path).suffix
    folder = "images/rank-%d" % rank if rank else "images"
    stem = re.sub(r"[^\w.\-]+", "_", name).strip("._").encode("utf-8", "ignore")[:80].decode("utf-8", "ignore")
    number = 1
    while True:
        stored = "%s/%s_%d%s" % (folder, stem or "image", number, suffix or ".png")
        given = path if path is not None else io.BytesIO(data)
        if not (run_dir.uploads / stored).exists() and files.put(run_dir, stored, given):
            return stored
        number += 1


def _drawn(name: str, plot: Any) -> bytes:
    """A plot as a PNG file's content."""
    drawn = io.BytesIO()
    draw = getattr(plot, "savefig", None) or getattr(plot, "save", None)
    if draw is None:
        raise UserErrorException(
            "log_image(%r) cannot draw a %s: give matplotlib.pyplot, a figure of it, or a Pillow image; for a file, "
            "path=." % (name, type(plot).__name__)
        )
    draw(drawn, format="png")
    return drawn.getvalue()
