"""One rank's log, read up to a given size in whole lines; what was left out of its middle becomes a line that says so.

Files it may touch: it reads the log and its place in the agent's notes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from trainkit.boot.lognotes import NotesFile, Place, notes_of
from trainkit.boot.rundir import AttemptDir

_LONGEST_BYTES = 1 << 20  # of a line: what is longer comes in pieces
_CHUNK_BYTES = 1 << 18


class RankLog:
    """A growing log. `place` tells what of it is not there."""

    def __init__(self, path: Path, place: Callable[[], Place] = Place) -> None:
        self.path = path
        self.at = 0
        self._place = place
        self._beginning = place().beginning
        self._fd = -1
        self._partial: list[bytes] = []
        self._held = 0

    def size(self) -> int:
        """How large it is now; 0 where it is not there yet."""
        return os.fstat(self._fd).st_size if self._open() else 0

    def modified(self) -> float:
        """When it was written last."""
        return os.fstat(self._fd).st_mtime if self._open() else 0.0

    def _open(self) -> bool:
        if self._fd < 0:
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def text(self, upto: int, most: int = _CHUNK_BYTES) -> bytes:
        """The next bytes before `upto`, about `most` of them; a missing middle as a line of words. At its end nothing.

        Afterwards `at` is `upto` where nothing before it is left.
        """
        begin, end = self._known_place()
        if begin <= self.at < end:
            return self._left_out(begin, end)
        stop = min(upto, self.at + most, begin if self.at < begin < end else upto)
        data = os.pread(self._fd, stop - self.at, self.at) if stop > self.at and self._open() else b""
        if data.find(b"\0\0\0\0") >= 0:  # the middle may have been left out since
            begin, end = self._known_place()
            if begin <= self.at < end:
                return self._left_out(begin, end)
        self.at = self.at + len(data) if data else max(self.at, upto)
        return data

    def _left_out(self, begin: int, end: int) -> bytes:
        missing = end - max(begin, self.at)
        self.at = end
        return b"\n... %.1f MB left out ...\n" % (missing / 1e6)

    def _known_place(self) -> tuple[int, int]:
        place = self._place()
        if place.beginning != self._beginning:  # truncated or replaced: all that is there is new
            self._beginning, self.at = place.beginning, 0
            if self._held:
                self._partial.append(b"\n")
            self.close()
        return place.begin, place.end

    def lines(self, upto: int, most: int) -> bytes:
        """As `text`, but whole lines only: the end of the last one waits until it is there."""
        data = self.text(upto, most)
        cut = data.rfind(b"\n") + 1
        if not cut:
            self._partial.append(data)
            self._held += len(data)
            return self.unfinished() if self._held > _LONGEST_BYTES else b""
        whole = b"".join((*self._partial, data[:cut]))
        self._partial, self._held = [data[cut:]], len(data) - cut
        return whole

    def unfinished(self) -> bytes:
        """The last line, which nothing has ended yet, ended."""
        text = b"".join(self._partial)
        self._partial, self._held = [], 0
        return text + b"\n" if text else b""


class Notes:
    """The files of notes of an attempt's nodes, opened as they appear."""

    def __init__(self, attempt: AttemptDir) -> None:
        self.attempt = attempt
        self.files: dict[int, NotesFile] = {}
        self._fds: list[int] = []
        self.look()

    def look(self) -> None:
        """Open what is new."""
        for path in self.attempt.logs.glob("notes-*"):
            number = path.name.rpartition("-")[2]
            if number.isdecimal() and int(number) not in self.files:
                fd = os.open(notes_of(self.attempt, int(number)), os.O_RDONLY | os.O_CLOEXEC)
                self._fds.append(fd)
                self.files[int(number)] = NotesFile(fd)

    def place(self, rank: int) -> Place:
        """What of a rank's log is not there."""
        return next((place for file in self.files.values() if (place := file.place(rank)) != Place()), Place())

    def close(self) -> None:
        """Close all."""
        for fd in self._fds:
            os.close(fd)
        self._fds, self.files = [], {}


def rank_logs(attempt: AttemptDir) -> dict[int, Path]:
    """The logs that the attempt's ranks have, by rank."""
    numbers = [path.stem.rpartition("-")[2] for path in attempt.logs.glob("rank-*.log")]
    return {rank: attempt.rank_log(rank) for rank in sorted(int(n) for n in numbers if n.isdecimal())}
