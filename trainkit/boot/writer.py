"""Appends a process's events to its file: in the kernel's hands at once, on the disk within seconds.

A line survives the death of the process as soon as `add` returns. One background thread forces lines onto the disk, so
that the death of the machine loses at most what was added in the last few seconds, and no caller waits for a disk.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Dict, Optional

from trainkit.boot.rundir import Lines

SYNC_SECONDS = 2.0


class EventWriter:
    """The events of one writer. Threads may share it, and a forked child goes on with it; opened at its first event."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: Optional[Lines] = None
        self._fresh()
        _writers.add(self)

    def _fresh(self) -> None:
        """Locks and thread of this process; a fork copies neither in a usable state."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._waiting = False  # something was added that the thread has not yet seen

    def add(self, event: Dict[str, Any]) -> None:
        """Append one event. Raises OSError where the disk is full."""
        if self._lines is None:
            self._open()
        self._lines.append(event)  # type: ignore[union-attr]
        if not self._waiting:
            self._waiting = True
            if self._thread is None:
                self._start()
            self._wake.set()

    def _open(self) -> None:
        with self._lock:
            if self._lines is None:
                self._lines = Lines(self.path)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._sync_behind, name="trainkit-sync", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter is ending: `_at_exit` syncs, or has just done so
                    self.flush()

    def _sync_behind(self) -> None:
        wake = self._wake
        while True:
            wake.wait()
            wake.clear()
            time.sleep(SYNC_SECONDS)
            self._waiting = False  # before the sync: what is added from now on wakes the next one
            try:
                self._lines.sync()  # type: ignore[union-attr]
            except OSError:  # the disk's own trouble: the lines are with the kernel, and the next `add` will tell
                pass

    def position(self) -> int:
        """How many bytes the writer's file has: everything that was added so far is before it."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0

    def flush(self) -> None:
        """Force everything onto the disk, now."""
        if self._lines is not None:
            self._lines.sync()


_writers: "weakref.WeakSet[EventWriter]" = weakref.WeakSet()


def _after_fork() -> None:
    for writer in list(_writers):
        writer._fresh()


def _at_exit() -> None:
    for writer in list(_writers):
        try:
            if writer._waiting:
                writer.flush()
        except OSError:
            pass


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
