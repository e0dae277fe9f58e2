"""What `envs/` holds: folders named by the digest of what went into them, each counting once its `ready.json` is there.

Virtual environments and images share the rules: built in place under a lock, the record written as the last step; of
builders at the same time one builds and the others wait; what was left half built is never used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import make_private, publish, read_json
from trainkit.errors import EnvironmentBuildError, TrainkitError
from trainkit.prepare.installer import POLL_SECONDS, Installer

READY = "ready.json"
_LINES = 60  # of an installer's output, in an error

Record = dict[str, Any]


def record_of(entry: Path) -> Record | None:
    """The record of a finished entry, or None."""
    ready = read_json(entry / READY)
    return ready if isinstance(ready, dict) else None


def used(entry: Path) -> None:
    """Note that an entry is used now: the time of its record says when it last was."""
    with suppress(OSError):
        os.utime(entry / READY)


def ready_or_built(
    entry: Path, installer: Installer, usable: Callable[[Record], bool], build: Callable[[], Record]
) -> tuple[Record, bool]:
    """The record of `entry`, and whether it was made now: `build` fills the folder, or nothing of it stays.

    Raises EnvironmentBuildError with the last of what was printed.
    """
    ready = record_of(make_private(entry.parent) / entry.name)
    if ready is not None and usable(ready):
        used(entry)
        return ready, False
    with locked(lock_of(entry), installer):
        ready = record_of(entry)
        if ready is not None and usable(ready):
            used(entry)
            return ready, False
        return _built(entry, installer, build), True


def lock_of(entry: Path) -> Path:
    """The file whose lock whoever builds or removes the entry holds."""
    return entry.with_name(f".{entry.name}.lock")


@contextmanager
def locked(path: Path, installer: Installer) -> Iterator[None]:
    """Hold an entry's lock, which the installer's programs hold as well while they live."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    installer.say("waits for another process, which is building this environment")
                    told = True
                installer.check_cancelled()
                time.sleep(POLL_SECONDS)
        installer.lock = handle
        yield
    finally:
        installer.lock = None
        os.close(handle)


def _built(entry: Path, installer: Installer, build: Callable[[], Record]) -> Record:
    """Make the entry and its record, or leave nothing."""
    shutil.rmtree(entry, ignore_errors=True)
    try:
        ready = build()
        os.sync()  # the record must not reach the disk before what it speaks of
        publish(make_private(entry) / READY, ready)
    except BaseException as e:
        shutil.rmtree(entry, ignore_errors=True)
        if isinstance(e, EnvironmentBuildError):
            tail = "\n".join(e.output.splitlines()[-_LINES:])
            installer.say(e.message)
            raise EnvironmentBuildError(e.message, tail) from e
        if isinstance(e, (OSError, TrainkitError)):
            raise EnvironmentBuildError(f"The environment could not be built in {entry}: {e}") from e
        raise
    return ready


def why(envs: Path, wanted: Mapping[str, object], same: tuple[str, ...], what: str) -> str:
    """Why nothing that is there could be reused: what changed since the one with the same values for `same`."""
    for path in sorted(envs.glob(f"*/{READY}"), key=lambda path: -path.stat().st_mtime):
        there = (read_json(path) or {}).get("inputs", {})
        if all(there.get(key) == wanted.get(key) for key in same):
            changed = [key.replace("_", " ") for key, value in wanted.items() if there.get(key) != value]
            if changed:
                return f"{path.parent.name} has the same {what}, but changed since: {', '.join(changed)}"
    return f"none with {'these ' if what.endswith('s') else 'this '}{what} is there"
