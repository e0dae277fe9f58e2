"""A file that can be written when the disk is full: its space is taken before it is needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import PathLike, encode, make_private


class Reserved:
    """A file whose disk space is taken in advance, so that its one value can be written when the disk is full.

    Space is reserved under a hidden name; `publish` writes the value in place and links it to its real name. `sole`
    says that no other process reserves this file now: what another one left, or was killed with, is taken over.
    """

    def __init__(self, path: PathLike, size: int = 65536, sole: bool = False) -> None:
        self.path, self.size = Path(path), size
        make_private(self.path.parent)
        name = "." + self.path.name + ".reserved-"
        self._hidden = self.path.with_name(name + str(os.getpid()))
        for left in self.path.parent.glob(name + "*") if sole else ():
            if self.path.exists():  # a process was killed while it published: this may be the same file
                left.unlink()
            else:
                os.replace(left, self._hidden)
        self._fd = os.open(self._hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError:
            self.discard()
            raise

    def publish(self, value: Any) -> bool:
        """Write the value unless the file exists already; returns whether this call wrote it.

        Where it is too large, its longest texts and lists are cut until it fits.
        """
        data = _fitted(value, self.size)
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))
        os.fsync(self._fd)
        try:
            os.link(self._hidden, self.path)
            return True
        except FileExistsError:
            return False
        finally:
            self.discard()

    def leave(self) -> None:
        """Keep the space for the next process that reserves this file."""
        os.close(self._fd)

    def discard(self) -> None:
        """Give the space back."""
        os.close(self._fd)
        try:
            os.unlink(self._hidden)
        except FileNotFoundError:  # the whole directory was deleted
            pass


def _fitted(value: Any, size: int) -> bytes:
    """The value as JSON of at most `size` bytes."""
    data, longest = encode(value), size
    while len(data) > size and longest > 1:
        longest //= 2
        data = encode(_cut(value, longest))
    if len(data) > size:
        raise ValueError("%d bytes do not fit into the %d that were reserved" % (len(data), size))
    return data


def _cut(value: Any, longest: int) -> Any:
    """The value with no text and no list longer than this; of a text the beginning and the end stay."""
    if isinstance(value, str) and len(value) > longest:
        return value[: longest // 2] + " ... " + value[-(longest // 2) :]
    if isinstance(value, dict):
        return {key: _cut(item, longest) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(item, longest) for item in value[:longest]]
    return value
