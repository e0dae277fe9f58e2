"""What is done on a host for environments that it lacks: sent there together with `far` and `farfiles`.

ENVIRONMENT/               at the same path as where it was built first; counts once rebuilt.json is in it
DIRECTORY/programs/uv-...  uv, on hosts that have none; removed where no build has used it for long
"""
# ruff: noqa: UP006, UP031, UP035

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import time
from typing import BinaryIO, List

from . import far, farfiles
from .far import Request, act

REBUILT = "rebuilt.json"
_READY = ("ready.json", REBUILT)  # the first is written where the environment was built by the library itself
_WHEELS = "@WHEELS@"
_TOLD_LINES = 12  # of uv's words
_KEPT_SECONDS = 30 * 24 * 3600.0


@act
def environment(request: Request, rest: BinaryIO) -> Request:
    """Whether an environment is here; this host's own uv, and what was sent here."""
    if not os.access(request["python"], os.X_OK):
        raise far.Refused(
            "it has no %s, the Python that the environment is made with. Install it there at the same path"
            % request["python"]
        )
    try:
        programs = os.listdir(_programs(request))
    except OSError:
        programs = []
    there = _there(request["environment"])
    if there and os.path.exists(os.path.join(request["environment"], REBUILT)):
        os.utime(os.path.join(request["environment"], REBUILT))  # it was used now
    return {"there": there, "uv": _own_uv(), "programs": programs}


@act
def build(request: Request, rest: BinaryIO) -> Request:
    """Build an environment from its requirements and the wheels that come along, unless it is here."""
    programs = _programs(request)
    work = farfiles.beside(os.path.join(programs, "build"))
    try:
        farfiles.unpack(rest, work)
        sent, kept = os.path.join(work, request["uv"]), os.path.join(programs, request["uv"])
        if os.path.exists(sent):
            os.replace(sent, kept)
        if os.path.exists(kept):
            os.utime(kept)  # it is used now
        farfiles.forget_old(programs)  # builds that were killed, and another version's uv
        _build(request, _own_uv() or kept, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {}


def _programs(request: Request) -> str:
    return os.path.join(os.path.expanduser(request["directory"]), "programs")


def _there(place: str) -> bool:
    return os.access(os.path.join(place, "bin", "python"), os.X_OK) and any(
        os.path.exists(os.path.join(place, name)) for name in _READY
    )


def _own_uv() -> str:
    homes = [os.path.expanduser("~/.local/bin"), os.path.expanduser("~/.cargo/bin"), "/usr/local/bin"]
    return shutil.which("uv") or shutil.which("uv", path=os.pathsep.join(homes)) or ""


def _build(request: Request, uv: str, work: str) -> None:
    """Under the lock that builders of this environment hold, whoever they are."""
    place = request["environment"]
    lock = _open_lock(place)
    try:
        _wait_for(lock, place, time.monotonic() + request["seconds"])
        if _there(place):
            return
        shutil.rmtree(place, ignore_errors=True)
        file = os.path.join(work, "requirements.lock")
        with open(file, "w", encoding="utf-8") as text:
            text.write(request["requirements"].replace(_WHEELS, os.path.join(work, "wheels")))
        os.makedirs(os.path.join(work, "wheels"), mode=0o700, exist_ok=True)
        plain = ["--color", "never", "--no-progress"]
        python, interpreter = request["python"], os.path.join(place, "bin", "python")
        _run([uv, "venv", *plain, "--no-project", "--no-python-downloads", "--python", python, place], place, lock)
        _run([uv, "pip", "install", *plain, "--no-deps", "--python", interpreter, "-r", file], place, lock)
        os.sync()  # the record must not reach the disk before what it speaks of
        far.write(os.path.join(place, REBUILT), json.dumps({"python": python, "time": time.time()}))
        _forget_old(os.path.dirname(place))
    finally:
        os.close(lock)


def _open_lock(place: str) -> int:
    parent, name = os.path.split(place)
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        return os.open(os.path.join(parent, ".%s.lock" % name), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise far.Refused(
            "the folder %s cannot be made there (%s), and an environment works at one path only. Make it there, or "
            "put the workspace at a path that all hosts let you write to" % (parent, os.strerror(error.errno or 0))
        ) from error


def _wait_for(lock: int, place: str, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK or time.monotonic() > deadline:
                raise far.Refused("another process builds %s for too long" % place) from error
        time.sleep(0.1)


def _forget_old(folder: str) -> None:
    """Remove environments that were built here so, that no job has used for long, and that no process runs in."""
    for name in os.listdir(folder):
        place = os.path.join(folder, name)
        try:
            unused = time.time() - os.stat(os.path.join(place, REBUILT)).st_mtime
        except OSError:  # it was made otherwise, or by another host that has this folder too
            continue
        if unused > _KEPT_SECONDS and not _in_use(place + "/"):
            shutil.rmtree(place, ignore_errors=True)


def _in_use(place: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as file:
                if os.fsencode(place) in file.read():
                    return True
        except OSError:  # it has ended
            continue
    return False


def _run(argv: List[str], place: str, lock: int) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", pass_fds=(lock,)
    )
    if done.returncode:
        shutil.rmtree(place, ignore_errors=True)
        lines = done.stdout.decode("utf-8", "replace").splitlines()[-_TOLD_LINES:]
        raise far.Refused("it cannot be built there: %s" % " ".join(" ".join(lines).split()))
