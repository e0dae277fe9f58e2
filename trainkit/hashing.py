"""The SHA-256 of a file, by which trainkit tells whether one is what it was."""

from __future__ import annotations

import hashlib
import os

_CHUNK_BYTES = 1 << 20


def file_sha256(path: str | os.PathLike[str]) -> str:
    """In hex; the file is read in pieces. Raises OSError."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()
