"""A run's files by the names that users see: `outputs/...`, `logs/...`, and whatever was uploaded under a name.

Every write is whole or not at all: a file appears under its name by one link or rename.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, Dict, NamedTuple, Union

from trainkit.boot.rundir import RunDir, make_private
from trainkit.errors import UserErrorException

DRIVER_LOGS = "azureml-logs"  # the folder under which logs of ranks and of the preparation are listed
_FOLDERS = ("outputs", "logs")
Source = Union[str, "os.PathLike[str]", BinaryIO]


def checked_name(name: Any) -> str:
    """A run file's name in its one spelling; UserErrorException where it is absolute, has `..`, or cannot be a file's.

    `./a//b` is spelt `a/b`.
    """
    why = _fault(name)
    if why:
        raise UserErrorException(
            "%r cannot name a file of a run: %s. Use a relative name with forward slashes, such as "
            "'outputs/model.pt'." % (name, why)
        )
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _fault(name: Any) -> str:
    """What is wrong with a name; empty where nothing is."""
    if not isinstance(name, str):
        return "a name is a text, and this is a %s" % type(name).__name__
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/"):
        return "it is absolute"
    if ".." in parts:
        return "it has '..'"
    if "\0" in name:
        return "it has a null character"
    if not parts or name.endswith("/"):
        return "it names no file"
    try:
        sizes = [len(part.encode("utf-8")) for part in parts]
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if max(sizes) > 255 or sum(sizes) + len(sizes) > 2048:
        return "it is too long (255 bytes a part, 2048 in all)"
    return ""


class Stored(NamedTuple):
    """A file that a run has stored; `serialize` is what scripts of the Azure ML SDK v1 ask it for."""

    name: str

    def serialize(self) -> Dict[str, str]:
        """As plain values."""
        return {"name": self.name}


def place(run_dir: RunDir, name: str) -> Path:
    """Where a file with this checked name is kept, if it is written through the run."""
    first, _, rest = name.partition("/")
    if first == DRIVER_LOGS:
        raise UserErrorException("%r cannot be written: %s/ holds the run's own logs." % (name, DRIVER_LOGS))
    if first in _FOLDERS:
        if not rest:
            raise UserErrorException("%r cannot name a file of a run: it is a folder." % name)
        return (run_dir.outputs if first == "outputs" else run_dir.logs) / rest
    return run_dir.uploads / name


def put(run_dir: RunDir, name: str, source: Source, replace: bool = False) -> bool:
    """Store a copy of a file, or of what a stream yields, under a checked name.

    Returns False, and changes nothing, where the name is taken (unless `replace`). Raises UserErrorException where the
    source is no readable file, or the name contradicts another one.
    """
    import tempfile

    target = place(run_dir, name)
    if not replace and target.is_file():
        return False
    make_private(run_dir.once)
    handle, temporary = tempfile.mkstemp(prefix=".upload-", dir=str(run_dir.once))
    try:
        with os.fdopen(handle, "wb") as file:
            _fill(file, name, source)
            file.flush()
            os.fsync(file.fileno())
        try:
            make_private(target.parent)
            if target.is_dir():
                raise IsADirectoryError(str(target))
            if replace:
                os.replace(temporary, str(target))
            else:
                os.link(temporary, str(target))
        except (NotADirectoryError, IsADirectoryError) as error:
            raise _clash(name) from error
        except FileExistsError as error:
            if target.is_file():
                return False
            raise _clash(name) from error
        return True
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _clash(name: str) -> UserErrorException:
    return UserErrorException(
        "%r cannot be stored: a part of the name is a file of this run, or it is a folder." % name
    )


def _fill(file: BinaryIO, name: str, source: Source) -> None:
    """Copy the source into an open file."""
    import shutil

    if hasattr(source, "read"):
        for piece in iter(lambda: source.read(1 << 20), None):  # type: ignore[union-attr, unused-ignore]
            if not piece:
                return
            file.write(piece.encode("utf-8") if isinstance(piece, str) else piece)
        return
    try:
        with open(regular(name, source), "rb") as given:
            shutil.copyfileobj(given, file, 1 << 20)
    except PermissionError as error:
        raise UserErrorException("%s cannot be uploaded as %r: it may not be read." % (source, name)) from error


def regular(name: str, source: Any) -> Path:
    """The path of a source that is a regular file; UserErrorException otherwise."""
    if not isinstance(source, (str, os.PathLike)):
        raise UserErrorException(
            "%r cannot be made from a %s: give a path or an open file." % (name, type(source).__name__)
        )
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise UserErrorException(
            "%s cannot be uploaded as %r: there is no such file (the current directory is %s)."
            % (source, name, os.getcwd())
        ) from error
    if stat.S_ISDIR(mode):
        raise UserErrorException("%s cannot be uploaded as %r: it is a folder; use upload_folder." % (source, name))
    if not stat.S_ISREG(mode):
        raise UserErrorException("%s cannot be uploaded as %r: it is not a regular file." % (source, name))
    return path


def same(run_dir: RunDir, name: str, source: Source) -> bool:
    """Whether the file stored under a name is the source itself, or has its content."""
    import filecmp

    target = place(run_dir, name)
    if hasattr(source, "read") or not target.is_file():
        return False
    path = regular(name, source)
    return os.path.samefile(str(path), str(target)) or filecmp.cmp(str(path), str(target), shallow=False)
