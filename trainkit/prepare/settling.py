"""What was built comes to the disk behind the job that uses it: nobody waits for hundreds of megabytes to be written.

Until that is done, which `envs/.DIGEST.settled` says, a record counts only while the machine stays up: a loss of power
could have taken part of what it speaks of. Another machine with the same workspace cannot know whether that one is up:
what does not count for it may be in use there, so it is left alone, and the environment built beside it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainkit.boot import processes
from trainkit.prepare.entries import Record, record_of


def boot() -> str:
    """Which start of the machine this is; part of an environment's record."""
    return processes.boot_id().partition(".")[0]


def host() -> str:
    """Which machine this is; part of an environment's record."""
    return socket.gethostname()


def is_whole(environment: Path, ready: Mapping[str, Any]) -> bool:
    """Whether nothing of the environment can have been lost since its record was written."""
    return ready.get("boot") == boot() or _is_settled(environment, ready)


def is_due(environment: Path, ready: Mapping[str, Any]) -> bool:
    """Whether it was written since this machine's start, and nobody has noted yet that it is on the disk."""
    return ready.get("boot") == boot() and not _is_settled(environment, ready)


def _is_settled(environment: Path, ready: Mapping[str, Any]) -> bool:
    with suppress(FileNotFoundError):
        return place(environment).read_text() == _name(ready)
    return False


def place_for(environment: Path, usable: Callable[[Record], bool]) -> Path:
    """Where the environment is, or is to be built: a place that holds nothing which another may be using.

    That is `environment`, unless what is there cannot be used here, but was built by another machine or is used by a
    run that has not ended; then it is a place beside it, found by the same rule.
    """
    names = (hashlib.sha256(f"{environment.name} {n}".encode()).hexdigest()[:16] for n in itertools.count(1))
    places = itertools.chain([environment], (environment.with_name(name) for name in names))
    return next(place for place in places if _may_have(place, usable))


def _may_have(environment: Path, usable: Callable[[Record], bool]) -> bool:
    ready = record_of(environment)
    if ready is None or usable(ready):
        return True
    return ready.get("host") == host() and not _has_users(environment)


def _has_users(environment: Path) -> bool:
    from trainkit.prepare.inventory import users

    return environment.name in users(environment.parent.parent)[0]


def begin(environment: Path, ready: Mapping[str, Any]) -> threading.Thread:
    """Have it brought to the disk, and note that; the process that asks does not end before."""
    thread = threading.Thread(target=_settle, args=(place(environment), _name(ready)), name="trainkit-settling")
    thread.start()
    return thread


def place(environment: Path) -> Path:
    """The file that says that an environment is on the disk: beside it, so that one may remove it at any time."""
    return environment.with_name(f".{environment.name}.settled")


def _name(ready: Mapping[str, Any]) -> str:
    """Which of an environment's builds a record is of."""
    return str(ready.get("built"))


def _settle(path: Path, name: str) -> None:
    os.sync()
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):  # all of it was removed meanwhile
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(name)
        os.replace(partial, path)
