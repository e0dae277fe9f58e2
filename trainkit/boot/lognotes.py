"""When each rank's log had grown to which size: noted by its node's agent, so that several logs can be read as one.

Ten times a second an agent looks at the sizes of its ranks' logs, through open files and without reading them, and
notes those that moved. Of a log that grows over its limit it keeps the first and the last half and gives the middle's
space back to the file system; what is left keeps its offsets. Files it may touch: its own `notes-N`, its ranks' logs.

A file of notes: a head, for each rank of the node a fixed place (what was left out of its log, how often it began
anew), then notes (time, rank, beginning, size), all little-endian. One writer; readers may come at any time.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
import time
from contextlib import suppress
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

from trainkit.boot.part import Part
from trainkit.boot.rundir import AttemptDir, PathLike, make_private

NOTE_SECONDS = 0.1
SPARSE_SECONDS = 1.0  # between notes of a log that has had MANY of them
MANY = 1000000  # 24 MB of notes: a day of a rank that prints all the time
LIMIT_BYTES = 256 << 20
LEAST_LIMIT_BYTES = 1 << 16
_RENEWED_SECONDS = 1.0  # how often it is looked whether another file has taken a log's name
_CUT_SECONDS = 5.0  # at the end, for space that is being given back
_MAGIC = b"tklogs1\n"
_HEAD = struct.Struct("<8sII")  # magic, first rank, number of ranks
_PLACE = struct.Struct("<QQQ")  # left out from, to; which beginning of the log this is
_NOTE = struct.Struct("<dIIQ")  # time, rank, beginning, size
_CANNOT = 1  # "from" of a log whose middle cannot be left out; its "to" is 0
_PAGE = 4096  # space is given back in whole pages
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


class Note(NamedTuple):
    """At `time`, by its node's clock, the log of `rank` had this size."""

    time: float
    rank: int
    beginning: int  # how often the log had been truncated or replaced
    size: int


class Place(NamedTuple):
    """What of a log is not there: the bytes from `begin` to `end`; none where they are equal."""

    begin: int = 0
    end: int = 0
    beginning: int = 0

    @property
    def whole(self) -> bool:
        """Whether its file system could not leave out anything, though the log is over its limit."""
        return self.begin > self.end


class _Log:
    """One rank's log as the agent sees it."""

    def __init__(self, path: PathLike) -> None:
        self.path = path
        self.fd = -1
        self.size = 0
        self.place = Place()
        self.count = 0  # notes of it
        self.due = 0.0

    def look(self, renewed: bool) -> int:
        """Its size now; -1 where there is no such file yet."""
        if self.fd < 0 or renewed:
            self._open()
        try:
            return os.fstat(self.fd).st_size if self.fd >= 0 else -1
        except OSError:  # a network disk that has lost it: its name is tried again
            return -1

    def _open(self) -> None:
        """Open it; where its name means another file now, that one. A file whose name is gone is still followed."""
        try:
            there = os.stat(self.path)
            if self.fd >= 0 and self._is(there):
                return
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        if self.fd >= 0:
            with suppress(OSError):
                os.close(self.fd)
            self.begin_anew()
        self.fd = fd

    def _is(self, there: os.stat_result) -> bool:
        try:
            here = os.fstat(self.fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def begin_anew(self) -> None:
        """What was noted of it so far is no longer in the file."""
        self.place, self.size = Place(0, 0, self.place.beginning + 1), 0


class LogNotes(Part):
    """The notes of one node, a part of its agent; `limit` is the size over which a log loses its middle."""

    def __init__(self, attempt: AttemptDir, node: int, ranks: Sequence[int], limit: int = LIMIT_BYTES) -> None:
        self._half = max(limit, LEAST_LIMIT_BYTES) // 2 // _PAGE * _PAGE
        self._logs = {rank: _Log(attempt.rank_log(rank)) for rank in ranks}
        self._first = min(ranks)
        make_private(attempt.logs)
        self._fd = os.open(attempt.notes(node), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._start = _HEAD.size + _PLACE.size * len(self._logs)
        self._at = self._start
        self._resume()
        self._due = self._renew = 0.0
        self._cutting: Optional[threading.Thread] = None  # giving space back may wait for the disk
        self._said = False

    def _resume(self) -> None:
        """Go on where another process has noted for this attempt; else write the head."""
        there = NotesFile(self._fd)
        if there.first != self._first or len(there.places()) != len(self._logs):
            head = _HEAD.pack(_MAGIC, self._first, len(self._logs)) + _PLACE.pack(*Place()) * len(self._logs)
            with suppress(OSError):  # a full disk: there will be no notes
                os.pwrite(self._fd, head, 0)
            return
        size = os.fstat(self._fd).st_size
        self._at += max(0, size - self._start) // _NOTE.size * _NOTE.size
        for rank, place in there.places().items():
            self._logs[rank].place = place

    def step(self) -> None:
        """Note what moved, where it is time; costs a comparison otherwise. Nothing is raised for a full disk."""
        now = time.monotonic()
        if now >= self._due:
            self._due = max(self._due + NOTE_SECONDS, now + NOTE_SECONDS / 2)
            self._look(now)

    def close(self) -> None:
        """Note the last sizes, once the ranks have ended."""
        self._renew = 0.0
        self._look(float("inf"))
        if self._cutting is not None:
            self._cutting.join(_CUT_SECONDS)
        if self._is_cutting():  # it must not find another file under a number of its own; the agent soon ends
            return
        for log in self._logs.values():
            if log.fd >= 0:
                os.close(log.fd)
        os.close(self._fd)

    def _is_cutting(self) -> bool:
        return self._cutting is not None and self._cutting.is_alive()

    def _look(self, now: float) -> None:
        renewed = now >= self._renew and not self._is_cutting()  # whose files stay open
        if renewed:
            self._renew = now + _RENEWED_SECONDS
        at, notes, moved, over = time.time(), [], [], []
        for rank, log in self._logs.items():
            before = log.place.beginning
            size = log.look(renewed)
            if 0 <= size < log.size:
                log.begin_anew()
            if log.place.beginning != before:
                self._write_place(rank)
            if size == log.size or size < 0:
                continue
            if now >= log.due:
                notes.append(_NOTE.pack(at, rank, log.place.beginning, size))
                moved.append((log, size))
            if size - max(log.place.end, self._half) > self._half + self._half // 8 and not log.place.whole:
                over.append(rank)
        if notes and self._write(b"".join(notes)):
            for log, size in moved:
                log.size, log.count = size, log.count + 1
                if log.count > MANY:
                    log.due = now + SPARSE_SECONDS
        if over and not self._is_cutting():
            self._cutting = threading.Thread(target=self._cut, args=(over,), daemon=True)
            self._cutting.start()

    def _write(self, data: bytes) -> bool:
        """Whether there was room."""
        try:
            if os.pwrite(self._fd, data, self._at) < len(data):
                return False
        except OSError:
            return False
        self._at += len(data)
        return True

    def _write_place(self, rank: int) -> None:
        at = _HEAD.size + _PLACE.size * (rank - self._first)
        with suppress(OSError):  # a full disk, at the very start
            os.pwrite(self._fd, _PLACE.pack(*self._logs[rank].place), at)

    def _cut(self, ranks: List[int]) -> None:
        """Leave out what these logs have between their first and their last half; readers are told before."""
        for rank in ranks:
            log = self._logs[rank]
            begin = max(log.place.end, self._half)
            try:
                end = (os.fstat(log.fd).st_size - self._half) // _PAGE * _PAGE
            except OSError:
                continue
            if end <= begin:
                continue
            log.place = log.place._replace(begin=self._half, end=end)
            self._write_place(rank)
            error = _punch(log.fd, begin, end - begin)
            if error:
                log.place = Place(_CANNOT, 0, log.place.beginning)
                self._write_place(rank)
                self._say(log.path, error)

    def _say(self, path: PathLike, error: int) -> None:
        if not self._said:
            self._said = True
            words = (
                "%s is over its limit of %d MB and grows on: this file system cannot leave out a file's middle (%s).\n"
            )
            sys.stderr.write(words % (path, self._half // 500000, os.strerror(error)))
            sys.stderr.flush()


def _punch(fd: int, begin: int, length: int) -> int:
    """Give the space of a part of a file back; the error's number, 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or libc.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return 0 if call(fd, _PUNCH_HOLE | _KEEP_SIZE, begin, length) == 0 else ctypes.get_errno()


class NotesFile:
    """A file of notes, for those who read it, also while it grows. Made of an open file, which stays its caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.first = self._count = 0
        self._at = 0
        self._known()

    def _known(self) -> bool:
        """Whether the file has its head by now."""
        head = os.pread(self._fd, _HEAD.size, 0) if not self._at else b""
        if len(head) == _HEAD.size and head.startswith(_MAGIC):
            _, self.first, self._count = _HEAD.unpack(head)
            self._at = _HEAD.size + _PLACE.size * self._count
        return bool(self._at)

    def places(self) -> Dict[int, Place]:
        """What was left out of each rank's log, by rank."""
        if not self._known():
            return {}
        data = os.pread(self._fd, _PLACE.size * self._count, _HEAD.size)
        whole = data[: len(data) // _PLACE.size * _PLACE.size]
        return {self.first + i: Place(*values) for i, values in enumerate(_PLACE.iter_unpack(whole))}

    def place(self, rank: int) -> Place:
        """What was left out of one rank's log."""
        if not self._known() or not 0 <= rank - self.first < self._count:
            return Place()
        data = os.pread(self._fd, _PLACE.size, _HEAD.size + _PLACE.size * (rank - self.first))
        return Place(*_PLACE.unpack(data)) if len(data) == _PLACE.size else Place()

    def more(self) -> Iterator[Note]:
        """The notes since this was asked last, as they were written."""
        while self._known():
            data = os.pread(self._fd, _NOTE.size * 8192, self._at)
            whole = data[: len(data) // _NOTE.size * _NOTE.size]
            if not whole:
                return
            self._at += len(whole)
            yield from map(Note._make, _NOTE.iter_unpack(whole))
