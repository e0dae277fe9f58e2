"""One way to warn of what is deprecated, at the line of the user's own code that uses it."""

from __future__ import annotations

import sys
import warnings


def warn_deprecated(text: str) -> None:
    """A DeprecationWarning that names the innermost caller outside trainkit."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "trainkit":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, DeprecationWarning, stacklevel=level)
