"""Decoded pictures kept in memory, up to a limit: a share of what this machine or container has left."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

from torch import Tensor

from trainkit.boot.worlds import here
from trainkit.errors import UserErrorException

_SHARE = 0.25  # of the memory that is free when the first picture is kept, for all ranks of this machine together
Limit = bool | int | Literal["auto"]


class Kept:
    """Tensors by number, until they have `most_bytes` together; what comes later is not kept. Safe among threads."""

    def __init__(self, limit: Limit) -> None:
        if not (isinstance(limit, bool) or limit == "auto" or (isinstance(limit, int) and limit > 0)):
            raise UserErrorException(
                f"cache is 'auto', True (keep all), False (keep nothing) or a number of bytes, not {limit!r}."
            )
        self._limit, self._most = limit, None if limit == "auto" else most_bytes(limit)
        self._tensors: dict[int, Tensor] = {}
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, number: int) -> Tensor | None:
        """The tensor of this number, if it was kept."""
        return self._tensors.get(number)

    def put(self, number: int, tensor: Tensor) -> None:
        """Keep this tensor, which nobody may change from now on, if there is room."""
        with self._lock:
            if self._most is None:
                self._most = most_bytes(self._limit)
            size = tensor.untyped_storage().nbytes()
            if number not in self._tensors and self.bytes + size <= self._most:
                self._tensors[number] = tensor
                self.bytes += size


def most_bytes(limit: Limit) -> int:
    """The limit in bytes, of what is free now."""
    if limit == "auto":
        return int(free_bytes() * _SHARE / max(1, here().rank.local_size))
    if isinstance(limit, bool):
        return 1 << 62 if limit else 0
    return limit


def free_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process may still take: what the machine has left, or its control group allows; 0 if unknown."""
    try:
        fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        free = [int(fields["MemAvailable"].split()[0]) * 1024]
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except (OSError, KeyError, ValueError):
        return 0
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            top, limit, used, cached = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        group = top / name.strip("/")
        for folder in (group, *group.parents):  # the tightest on the way up; inside a container only the top is there
            if folder == top.parent:
                break
            try:
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                taken = int((folder / used).read_text()) - int(stat[cached])  # the kernel gives such pages back
                free.append(int((folder / limit).read_text()) - taken)
            except (OSError, KeyError, ValueError):
                continue  # not there, or "max"
    return max(0, min(free))
