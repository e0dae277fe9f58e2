"""Files of a source directory: named by users, found inside it or refused."""

from __future__ import annotations

import os
from pathlib import Path

from trainkit.errors import UserErrorException


def source_dir(source_directory: object) -> Path:
    """The directory's absolute path; raises UserErrorException where it is none."""
    if not isinstance(source_directory, (str, os.PathLike)) or "\0" in str(source_directory):
        raise UserErrorException(f"source_directory is the path of a directory, not {source_directory!r}.")
    path = Path(source_directory).expanduser().absolute()
    if not os.path.isdir(path):
        raise UserErrorException(
            f"The source directory {path} {'is no directory' if os.path.lexists(path) else 'does not exist'}."
        )
    return path


def inside(source: Path, name: object) -> str | None:
    """The file's path relative to `source`, whether it is given so, absolutely, or from the current directory.

    None where there is no such file in it; a path that leads out of it, by ".." or a link, is not in it.
    """
    if not isinstance(name, (str, os.PathLike)) or not str(name) or "\0" in str(name):
        return None
    real = source.resolve()
    for candidate in (source / name, Path(name).absolute()):
        if os.path.isfile(candidate) and candidate.resolve().is_relative_to(real):
            normal = Path(os.path.normpath(candidate))
            base = source if normal.is_relative_to(source) else real
            if normal.is_relative_to(base):
                return normal.relative_to(base).as_posix()
    return None


def project_file(source_directory: object, name: object, what: str) -> Path:
    """The absolute path of a file that a job's description names; raises UserErrorException where it is not inside."""
    source = source_dir(source_directory)
    found = inside(source, name)
    if found is None:
        raise UserErrorException(
            f"{source / str(name)} path doesn't exist. The {what} should be inside the project folder."
        )
    return source / found
