"""Writes config.json in one step: nobody reads half of it, and of several that make one at once, one succeeds."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainkit.errors import UserErrorException


def write_file(file: Path, values: dict[str, Any], over: bool) -> bool:
    """Write a configuration file in one step; False where it exists and may not be written over."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(json.dumps(values, indent=4) + "\n")
                opened.flush()
                os.fsync(opened.fileno())
            if over:
                os.replace(name, file)
                return True
            return _linked(name, file)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as error:
        raise UserErrorException(f"{file} cannot be written: {error.strerror}.") from error


def _linked(name: str, file: Path) -> bool:
    try:
        os.link(name, file)
    except FileExistsError:
        return False
    return True
