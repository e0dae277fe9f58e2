"""What /proc says of other processes; nothing where one is gone, or is another user's."""

from __future__ import annotations

import os
from typing import Dict, List


def stat_of(pid: int) -> List[str]:
    """The fields of /proc/PID/stat from the state on; empty where there is no such process."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state_of(pid: int) -> str:
    """The state of a process in one letter: T is stopped, Z has ended; X where it is gone."""
    return (stat_of(pid) or ["X"])[0]


def parent_of(pid: int) -> int:
    """The pid of a process's parent; 0 where there is no such process."""
    fields = stat_of(pid)
    return int(fields[1]) if fields else 0


def children_of(pid: int) -> List[int]:
    """The pids of what a process's first thread has started."""
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def words_of(pid: int) -> List[str]:
    """The command line that a process was started with."""
    return _texts(pid, "cmdline")


def environment_of(pid: int) -> Dict[str, str]:
    """The environment that a process was started with."""
    pairs = (text.partition("=") for text in _texts(pid, "environ"))
    return {name: value for name, equals, value in pairs if equals}


def _texts(pid: int, name: str) -> List[str]:
    try:
        with open("/proc/%d/%s" % (pid, name), "rb") as file:
            texts = os.fsdecode(file.read()).split("\0")
    except OSError:
        return []
    return texts if texts[-1] else texts[:-1]
