"""Where testbeds live on this machine, who belongs to one, and how one ends without leaving anything.

A testbed is a folder in `BASE`, locked for as long as somebody wants it. Its processes are those whose mounts carry its
name: every node has a private mount namespace, so that holds for whatever a node starts, and no number that the kernel
may use again is kept anywhere. As a program (`python keeper.py FOLDER [--detached]`) this file waits for the end of
the testing process, seen as the end of its standard input, or for SIGTERM, and then ends the testbed: even a testing
process that was killed leaves none behind. Only the standard library is used.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BASE = Path("/var/tmp/trainkit-testbeds")  # on a disk, and not hidden by the /tmp of a node
END_SECONDS = 20.0


def pids() -> list[int]:
    """The ids of all processes, as this process sees them."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def namespace(pid: int, kind: str) -> str:
    """The name of a process's namespace of a kind ("pid", "mnt", "net"); "" when the process has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


def members(mark: str) -> list[int]:
    """The living processes in whose mounts `mark` occurs: a testbed's name, or NAME/NODE."""
    decided = {namespace(os.getpid(), "mnt"): False, "": False}
    found = []
    for pid in pids():
        mounts = namespace(pid, "mnt")
        if mounts not in decided:
            try:
                decided[mounts] = f" {mark}" in Path(f"/proc/{pid}/mountinfo").read_text()
            except OSError:
                continue  # it ended meanwhile
        if decided[mounts]:
            found.append(pid)
    return found


def end(folder: Path) -> None:
    """Kill every process of the testbed in `folder`, with which its namespaces end, and remove the folder."""
    deadline = time.monotonic() + END_SECONDS
    left = members(f"{folder.name}/")
    while left:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} of the testbed {folder} do not end")
        time.sleep(0.005)
        left = members(f"{folder.name}/")
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _base() -> Iterator[Path]:
    """BASE, made if need be, with its lock held; it goes when it is empty."""
    while True:
        BASE.mkdir(exist_ok=True)
        descriptor = os.open(BASE, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if BASE.exists() and os.path.samestat(os.fstat(descriptor), os.stat(BASE)):
            break
        os.close(descriptor)
    try:
        yield BASE
    finally:
        try:
            BASE.rmdir()
        except OSError:
            pass  # other testbeds stand
        os.close(descriptor)


def locked(folder: Path) -> int | None:
    """An open file that holds the lock of a testbed's folder, or None while somebody else does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def claim() -> tuple[Path, int]:
    """A new testbed's folder, BASE/NUMBER-RANDOM, and the open file that holds its lock."""
    sweep()
    with _base() as base:
        taken = {entry.name.partition("-")[0] for entry in base.iterdir()}
        number = next(number for number in range(1, 255) if str(number) not in taken)
        folder = base / f"{number}-{secrets.token_hex(3)}"
        folder.mkdir(mode=0o755)
        descriptor = locked(folder)
        assert descriptor is not None, "a folder with a random name was locked by somebody else"
        return folder, descriptor


def sweep() -> list[Path]:
    """End the testbeds that nobody holds any more (their keeper was killed too); return their folders."""
    swept = []
    with _base() as base:
        for folder in sorted(base.iterdir()):
            descriptor = locked(folder)
            if descriptor is not None:
                end(folder)
                os.close(descriptor)
                swept.append(folder)
    return swept


def dismiss(folder: Path) -> None:
    """End the testbed in `folder`, whoever holds it, and wait until it is gone."""
    deadline = time.monotonic() + END_SECONDS
    while folder.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the keeper of the testbed {folder} does not end it")
        for name in ("detached", "keeper"):
            try:
                pid = int((folder / name).read_text())
                if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGTERM)
            except (OSError, ValueError):
                pass  # not that kind of keeper, or it has ended
        sweep()
        time.sleep(0.01)


def standing() -> list[Path]:
    """The folders of the testbeds on this machine."""
    return sorted(BASE.iterdir()) if BASE.exists() else []


def main(folder: Path, detached: bool) -> None:
    """Wait for the end of standard input, or for SIGTERM when detached, then end the testbed."""
    if detached:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    (folder / ("detached" if detached else "keeper")).write_text(str(os.getpid()))
    if detached:
        signal.sigwait({signal.SIGTERM})
    else:
        sys.stdin.buffer.read()
    end(folder)
    with _base():
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--detached" in sys.argv)
