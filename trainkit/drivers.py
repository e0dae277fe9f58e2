"""Sees to it that every run that has not ended has a driver: whoever looks has it taken over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from trainkit.boot import processes
from trainkit.boot.rundir import RunDir
from trainkit.errors import TrainkitError
from trainkit.slots import Slots

_STARTING_SECONDS = 2.0
_spawned: list[subprocess.Popen[bytes]] = []  # this process's drivers, kept to be reaped as they end


def spawn(run_dir: str | Path, password: str = "") -> None:
    """Start a detached driver for the run; it ends at once if another one has the run.

    A registry's `password` reaches it through a pipe: it is in no file, environment or command line.
    """
    run = RunDir(run_dir)
    os.close(os.open(run.driver_lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.utime(run.driver_lock)
    _spawned[:] = [driver for driver in _spawned if driver.poll() is None]
    with os.fdopen(os.open(run.driver_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "trainkit.driver", str(run.path)], stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True, cwd=str(run.path), env=_environment(),
        )  # fmt: skip
    assert driver.stdin is not None
    with suppress(BrokenPipeError), driver.stdin as told:  # it has ended already
        told.write(password.encode("utf-8", "surrogatepass"))
    _spawned.append(driver)


def _environment() -> dict[str, str]:
    """A driver's: nothing of who the client is, but of where its cluster is, and of the allocation that it holds."""
    from trainkit.boot.ranks import without_ranks

    kept = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_JOB_ID")
    return {**without_ranks(os.environ), **{name: os.environ[name] for name in kept if name in os.environ}}


def ensure(run_dir: str | Path) -> None:
    """See to it that a run that has not ended has a driver: whoever looks has it taken over."""
    run = RunDir(run_dir)
    if run.state.exists() or not run.job.exists():
        return
    with suppress(OSError):  # deleted, read-only, another user's, no room: whoever can look after it will
        if _just_spawned(run):
            return
        lock = processes.hold_lock(run.driver_lock)
        if lock is not None:
            os.close(lock)
            spawn(run_dir)


def _just_spawned(run: RunDir) -> bool:
    """Whether somebody has started a driver a moment ago, which needs that long to take its lock."""
    try:
        return abs(time.time() - run.driver_lock.stat().st_mtime) < _STARTING_SECONDS
    except FileNotFoundError:
        return False


def adopt(root: str | Path) -> None:
    """`ensure` for every run of a workspace that holds or waits for a place on a target."""
    for directory in Path(root).glob("targets/*"):
        with suppress(OSError, TrainkitError):  # a target whose files are damaged says so to those who use it
            for ticket in Slots(directory, None).tickets():
                ensure(ticket.run_dir)
