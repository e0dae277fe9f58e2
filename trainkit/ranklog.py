"""One rank's log, read up to a given size in whole lines; what was left out of its middle becomes a line that says so.

Files it may touch: it reads the log and its place in the agent's notes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from trainkit.boot.attempts import launched
from trainkit.boot.lognotes import NotesFile, Place
from trainkit.boot.rundir import AttemptDir, RunDir

_LONGEST_BYTES = 1 << 20  # of a line: what is longer comes in pieces
_CHUNK_BYTES = 1 << 17


def readable(run: RunDir) -> list[AttemptDir]:
    """The attempts whose logs may say something, oldest first: those that were launched; before there is one, all."""
    return launched(run) or run.attempts()


def logged(run: RunDir, number: int | None) -> AttemptDir | None:
    """The attempt of this number, without one the newest readable; None where there is none."""
    found = readable(run) if number is None else [one for one in run.attempts() if one.number == number]
    return found[-1] if found else None


class RankLog:
    """A growing log. `place` tells what of it is not there."""

    def __init__(self, path: Path, place: Callable[[], Place] = Place) -> None:
        self.path = path
        self.at = 0
        self._place = place
        self._begin, self._end, self._beginning = place()
        self._fd = -1
        self._from, self._ahead = 0, b""  # what was read, from where
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
        """The next bytes before `upto`, at most `most`; a missing middle as a line of words. At its end nothing.

        Afterwards `at` is `upto` where nothing before it is left.
        """
        if self._begin <= self.at < self._end:
            return self._left_out()
        here = self.at - self._from
        if not 0 <= here < len(self._ahead) and self.at < upto:
            self._fill()
            here = 0
            if self._begin <= self.at < self._end:
                return self._left_out()
        data = self._ahead[here : here + min(upto - self.at, most)] if self.at < upto else b""
        self.at = self.at + len(data) if data else max(self.at, upto)
        return data

    def _fill(self) -> None:
        """Read ahead, up to what was left out."""
        self.look()
        self._from, self._ahead = self.at, b""
        if self._begin <= self.at < self._end or not self._open():
            return
        self._ahead = os.pread(self._fd, _CHUNK_BYTES, self.at)
        if b"\0" in self._ahead:  # the middle may have been left out since
            self.look()
        if self._begin < self._end and self.at < self._begin:
            self._ahead = self._ahead[: self._begin - self.at]

    def _left_out(self) -> bytes:
        missing, self.at = self._end - max(self._begin, self.at), self._end
        return b"\n... %.1f MB left out ...\n" % (missing / 1e6)

    def look(self) -> None:
        """See what has become of the file: whether it began anew, what of it was left out."""
        place = self._place()
        if place.beginning != self._beginning:  # truncated or replaced: all that is there is new
            self._beginning, self.at, self._from, self._ahead = place.beginning, 0, 0, b""
            self.close()
            if self._held:
                self._partial.append(b"\n")
        self._begin, self._end = place.begin, place.end

    def rest(self) -> bytes:
        """All that is there now and was not read; then the file is closed."""
        size, pieces = self.size(), []
        while self.at < size:
            pieces.append(self.text(size))
        self.close()
        return b"".join(pieces)

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
                fd = os.open(self.attempt.notes(int(number)), os.O_RDONLY | os.O_CLOEXEC)
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


def log_of(attempt: AttemptDir, rank: int) -> RankLog:
    """One rank's log, with what the agents' notes say of it."""
    notes = Notes(attempt)

    def place() -> Place:
        notes.look()
        return notes.place(rank)

    return RankLog(attempt.rank_log(rank), place)


def rank_logs(attempt: AttemptDir) -> dict[int, Path]:
    """The logs that the attempt's ranks have, by rank."""
    numbers = [path.stem.rpartition("-")[2] for path in attempt.logs.glob("rank-*.log")]
    return {rank: attempt.rank_log(rank) for rank in sorted(int(n) for n in numbers if n.isdecimal())}
