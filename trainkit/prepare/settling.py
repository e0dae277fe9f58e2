"""What was built comes to the disk behind the job that uses it: nobody waits for hundreds of megabytes to be written.

Until that is done, which `envs/.DIGEST.settled` says, a record counts only while the machine stays up: a loss of power
could have taken part of what it speaks of.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def boot() -> str:
    """Which start of the machine this is; part of an environment's record."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_whole(environment: Path, ready: Mapping[str, Any]) -> bool:
    """Whether nothing of the environment can have been lost since its record was written."""
    if ready.get("boot") == boot():
        return True
    with suppress(FileNotFoundError):
        return place(environment).read_text() == _name(ready)
    return False


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
