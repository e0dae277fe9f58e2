"""What `envs/` holds: folders named by the digest of what went into them, which count once their `ready.json` is there.

Virtual environments and images share the rules: built in place under a lock, the record written as the last step; of
builders at the same time one builds and the others wait; what was left half built is never used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import make_private, publish, read_json
from trainkit.errors import EnvironmentBuildError, TrainkitError
from trainkit.prepare.installer import POLL_SECONDS, Installer

READY = "ready.json"
MAKING = "making.json"  # of an image: what its builder has put into the engine, should it be killed
_LINES = 60  # of an installer's output, in an error

Record = dict[str, Any]


def record_of(entry: Path) -> Record | None:
    """The record of a finished entry, or None."""
    ready = read_json(entry / READY)
    return ready if isinstance(ready, dict) else None


def reused(entry: Path, usable: Callable[[Record], bool]) -> Record | None:
    """The record of an entry that is there and can be used, else None; the record's file then has the time of now."""
    ready = record_of(entry)
    if ready is None or not usable(ready):
        return None
    try:
        os.utime(entry / READY)
    except FileNotFoundError:  # somebody has just begun to remove it
        return None
    except OSError:
        pass
    return ready


def ready_or_built(
    entry: Path,
    installer: Installer,
    usable: Callable[[Record], bool],
    build: Callable[[], Record],
    restored: Callable[[Record], bool] = lambda ready: False,
) -> tuple[Record, bool]:
    """The record of `entry`, and whether it was made now: `build` fills the folder, or nothing of it stays.

    What is there but not `usable` may be `restored`, under the lock: else it goes, with all that others still read of
    it. Raises EnvironmentBuildError with the last of what was printed.
    """
    make_private(entry.parent)
    ready = reused(entry, usable)
    if ready is not None:
        return ready, False
    with locked(lock_of(entry), installer):
        ready = reused(entry, usable) or reused(entry, restored)
        if ready is not None:
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
    """Make the entry and its record, or leave nothing. What `build` leaves in files it has to bring to the disk."""
    shutil.rmtree(entry, ignore_errors=True)
    try:
        ready = build()
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


def why(envs: Path, wanted: Mapping[str, object], related: Callable[[Record], bool], nothing: str) -> str:
    """Why nothing that is there could be reused: what changed since the newest of those `related`, else `nothing`."""
    newest: tuple[float, str, Record] | None = None
    for path in envs.glob(f"*/{READY}"):
        there = read_json(path) or {}
        if related(there) and (newest is None or there.get("built", 0.0) > newest[0]):
            newest = (float(there.get("built", 0.0)), path.parent.name, there)
    if newest is None:
        return nothing
    before = newest[2].get("inputs", {})
    changed = [key.replace("_", " ") for key, value in wanted.items() if before.get(key) != value]
    return f"{newest[1]} was built for the same, but changed since: {', '.join(changed)}" if changed else nothing
