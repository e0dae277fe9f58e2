"""The pulse of a rank: what it does now, in a page of memory that its node's agent reads about once a second.

A rank's shim makes the page, its script writes into it (some tens of nanoseconds a word, no call into the system), the
agent finds it by the shim's process id. It is memory without a name on any disk: it ends with the rank. Behind the page
the same memory takes the stacks of all the rank's threads, which faulthandler leaves there at a signal, whatever the
threads are in the middle of.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import threading
import time
from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional

from trainkit.boot.processes import state_of

# What a rank does. The loop's own are numbers, so that to say it costs nothing; OWN has its name in the page.
STARTING, DATA, COMPUTING, WAITING, UPDATING, EVALUATING, SAVING, RESTING, OWN, ENDED = range(10)
WORDS = (
    "starting", "waiting for data", "computing", "waiting for the other ranks", "updating the weights or in a callback",
    "evaluating", "writing a checkpoint", "between epochs", "", "at its end",
)  # fmt: skip
DUMP_SIGNAL = signal.SIGRTMAX - 5  # asks for the stacks; of those that nobody else uses

_NAME = "trainkit-pulse"
_PAGE = 4096
_MAGIC = 0x70756C7365310001
_HEADER = struct.Struct("=QQQ")  # magic, rank, the script's process
# Phase, step, the step before the first of this fit, sums begun, ticks; nanoseconds of its first step; how many others
# were timed, and their nanoseconds.
_CELLS = struct.Struct("=qqqqqqqq")
_CELLS_AT, _NAME_AT, _NAME_BYTES = 64, 256, 64
_PHASE, _STEP, _BEFORE, _SUMS, _TICKS, _FIRST, _TIMED, _TOOK = range(8)
_MOST_DUMP_BYTES = 64 << 10


class Pulse(NamedTuple):
    """What one rank said last. `state` is its process's in /proc: T is stopped, D waits for a disk, Z has ended."""

    rank: int
    phase: int
    step: int  # of the fit
    made: int  # steps that this process has made in it
    sums: int  # exchanges with other ranks that it has begun
    ticks: int  # any other sign of progress
    took: float = 0.0  # seconds of those that were timed, without what is no part of a step: all but the first
    name: str = ""  # of a phase of the script's own
    state: str = "S"
    timed: int = 0  # how many these are
    first: float = 0.0  # seconds of the first one, with all that was loaded, compiled and tuned in it

    @property
    def words(self) -> str:
        """What the rank does, for people."""
        return 'in "%s"' % self.name if self.name else (WORDS[self.phase] if 0 <= self.phase < len(WORDS) else "")


class Page:
    """The writer's end. One for a process; its methods are cheap enough to be called in every step."""

    def __init__(self, rank: int = 0, descriptor: int = -1) -> None:
        """Over the memory of a descriptor; without one, over memory that nobody reads."""
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _PAGE) if descriptor >= 0 else mmap.mmap(-1, _PAGE)
        self._cells = memoryview(self._map)[_CELLS_AT : _CELLS_AT + _CELLS.size].cast("q")
        self._sums, self._first = 0, 1
        self._began, self._aside = time.monotonic_ns(), 0  # the step; and what is no part of it, 0: nothing such
        self._thread = threading.get_ident()
        _HEADER.pack_into(self._map, 0, _MAGIC, rank, os.getpid())

    @classmethod
    def make(cls, rank: int) -> "Page":
        """A page that an agent can find as long as this process, or a child of it, lives."""
        descriptor = os.memfd_create(_NAME)
        os.ftruncate(descriptor, _PAGE)
        os.lseek(descriptor, _PAGE, os.SEEK_SET)  # stacks come behind the page
        return cls(rank, descriptor)

    def begin(self) -> None:
        """This process is the script's from now on: it writes, and it leaves its stacks when it is asked to."""
        self._thread = threading.get_ident()
        struct.pack_into("=Q", self._map, 16, os.getpid())
        if self.descriptor >= 0:
            faulthandler.register(DUMP_SIGNAL, file=self.descriptor, all_threads=True, chain=False)

    def phase(self, phase: int) -> None:
        """The rank now does this."""
        if phase >= EVALUATING:
            self._aside = self._aside or time.monotonic_ns()
        elif self._aside:
            self._began += time.monotonic_ns() - self._aside
            self._aside = 0
        self._cells[_PHASE] = phase

    def fit(self, step: int) -> None:
        """A fit begins, or goes on, after its `step`-th step."""
        cells = self._cells
        self._first = step + 1
        cells[_BEFORE] = cells[_STEP] = step
        cells[_FIRST] = cells[_TIMED] = cells[_TOOK] = 0
        cells[_PHASE] = STARTING
        self._began = time.monotonic_ns()

    def step(self, step: int) -> None:
        """A step of training is over, the `step`-th of the fit."""
        cells, now = self._cells, time.monotonic_ns()
        took = now - self._began
        if self._aside:
            took -= now - self._aside
            self._aside = now
        if step == self._first:
            cells[_FIRST] = took
        else:
            cells[_TOOK] += took
            cells[_TIMED] += 1
        self._began = now
        cells[_STEP] = step

    def tick(self) -> None:
        """The rank goes on, in the phase in which it is."""
        self._cells[_TICKS] += 1

    def wait(self) -> None:
        """The rank begins to wait for the others in an exchange; the next `phase` says that it is over."""
        self._sums = number = self._sums + 1
        cells = self._cells
        cells[_SUMS] = number
        cells[_PHASE] = WAITING

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A `wait`, and then what was before. The waits of other threads than the script's first do not count."""
        if threading.get_ident() != self._thread:
            yield
            return
        before = self._cells[_PHASE]
        self.wait()
        try:
            yield
        finally:
            self._cells[_PHASE] = before

    @contextmanager
    def during(self, phase: int) -> Iterator[None]:
        """The rank does this meanwhile, and then again what it did before."""
        before = self._cells[_PHASE]
        self.phase(phase)
        try:
            yield
        finally:
            self.phase(before)

    def declare(self, name: str) -> None:
        """The rank now does something of the script's own."""
        data = name.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore").encode()
        self._map[_NAME_AT : _NAME_AT + _NAME_BYTES] = data.ljust(_NAME_BYTES, b"\0")
        self._cells[_TICKS] += 1
        self.phase(OWN)


_current: List[Page] = []


def adopt(page: Page) -> None:
    """Make this the page of this process: called by the rank's shim, before the script runs."""
    _current[:] = [page]
    page.begin()


def current() -> Page:
    """This process's page; outside a job one that nobody reads."""
    if not _current:
        _current.append(Page())
    return _current[0]


class Reader:
    """The agent's end of one rank's page, whose descriptor it takes over. Ends with the process that made the page."""

    def __init__(self, shim: int, descriptor: int) -> None:
        self.shim = shim
        self._file = descriptor
        try:
            self._map = mmap.mmap(descriptor, _PAGE, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # the page is just being made
            os.close(descriptor)
            raise
        self._asked_at = _PAGE

    @classmethod
    def of(cls, shim: int) -> "Optional[Reader]":
        """The page that a process has made; None where it has made none, or is gone."""
        folder = "/proc/%d/fd" % shim
        try:
            for name in os.listdir(folder):
                if os.readlink("%s/%s" % (folder, name)).startswith("/memfd:" + _NAME):
                    descriptor = os.open("%s/%s" % (folder, name), os.O_RDONLY | os.O_CLOEXEC)
                    reader = cls(shim, descriptor)
                    if _HEADER.unpack_from(reader._map, 0)[0] == _MAGIC:
                        return reader
                    reader.close()
        except (OSError, ValueError):
            pass
        return None

    @property
    def script(self) -> int:
        """The process id of the script, as the rank sees it."""
        return int(_HEADER.unpack_from(self._map, 0)[2])

    def read(self) -> Pulse:
        """What the rank says now."""
        rank = int(_HEADER.unpack_from(self._map, 0)[1])
        phase, step, before, sums, ticks, first, timed, took = _CELLS.unpack_from(self._map, _CELLS_AT)
        name = ""
        if phase == OWN:
            name = self._map[_NAME_AT : _NAME_AT + _NAME_BYTES].rstrip(b"\0").decode("utf-8", "replace")
        state = state_of(self.script)
        return Pulse(rank, phase, step, step - before, sums, ticks, took / 1e9, name, state, timed, first / 1e9)

    def ask(self) -> None:
        """Ask all the rank's threads where they are; they answer within a second, in `answer`.

        A rank that cannot answer, because it is stopped or has taken the signal for itself, is left alone.
        """
        self._asked_at = os.fstat(self._file).st_size
        pid = self.script
        if _catches(pid, DUMP_SIGNAL) and state_of(pid) not in "TtZX":
            try:
                os.kill(pid, DUMP_SIGNAL)
            except OSError:
                pass

    def answer(self) -> str:
        """What has come since `ask`."""
        size = os.fstat(self._file).st_size - self._asked_at
        return os.pread(self._file, min(size, _MOST_DUMP_BYTES), self._asked_at).decode("utf-8", "replace")

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()
        os.close(self._file)


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal that would else end it."""
    try:
        with open("/proc/%d/status" % pid) as file:
            caught = next(line.split()[1] for line in file if line.startswith("SigCgt"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught, 16) >> (number - 1) & 1)
