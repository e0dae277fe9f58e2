"""Requests that an archive goes with: a temporary file that begins with the request, sent to several hosts at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO

from .asking import Line, Reply, encode
from .hosts import Host

SEND_SECONDS = 60.0
_SLOW_BYTES = 1 << 20  # a second: a link slower than this needs a shared disk


class Archive:
    """A temporary file with a request and what `pack` writes after it; gone at the end of its context."""

    def __init__(self, request: Mapping[str, Any], pack: Callable[[BinaryIO], None]) -> None:
        handle, self.path = tempfile.mkstemp(prefix="trainkit-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(encode(request))
                pack(file)
        except BaseException:
            os.unlink(self.path)
            raise

    def __enter__(self) -> str:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.unlink(self.path)


def send(line: Line, hosts: Sequence[Host], path: str, seconds: float = 0.0) -> list[Reply]:
    """Send the file to all of them; they may take so many seconds beyond what sending it takes over a slow link."""
    return line.send(hosts, path, SEND_SECONDS + seconds + os.stat(path).st_size / _SLOW_BYTES)
