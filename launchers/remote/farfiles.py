"""What is done on a host with files, for jobs without a shared disk: sent there together with `far`.

    DIRECTORY/code/DIGEST/      a job's code, kept for the next job that has the same; what is old is removed
    DIRECTORY/runs/RUN.ATTEMPT/ a run directory as the agent and the ranks see it, removed once it was fetched; one that
                                nobody could fetch or remove is removed when it is old and no agent of it lives

Everything is made under a hidden name and renamed, so it is whole or not there. Several hosts may have one DIRECTORY
in common (a shared home): who comes first makes it, the others find it.
"""
# ruff: noqa: UP006, UP031, UP035

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Tuple

from trainkit.boot import processes

from . import far
from .far import Request, act

_KEPT_SECONDS = 30 * 24 * 3600.0  # code that no job has used for so long is removed
SENT = ".sent.json"  # what the run directory held at first, so that only the rest goes back
_END_BYTES = 1024  # zeros, with which a whole archive ends
_OURS = ("outputs", "logs")  # of the code directory: links to the run's own


@act
def put_run(request: Request, rest: BinaryIO) -> Request:
    """Unpack a run directory; says where it is, and whether its code is here too."""
    base = os.path.expanduser(request["directory"])
    if not os.path.isabs(base):
        raise far.Refused("%s does not say where to put files" % request["directory"])
    run = os.path.join(base, "runs", request["name"])
    if not os.path.exists(run):
        with _making(run) as partial:
            unpack(rest, partial)
            _rewrite_job(partial, run, request)
            sent = {path: [status.st_size, status.st_mtime_ns] for path, status in _files(partial)}
            far.write(os.path.join(partial, SENT), json.dumps(sent))
        forget_old(os.path.dirname(run))
    cached = os.path.join(base, "code", request["code"])
    if os.path.isdir(cached):
        _place_code(cached, run)
    archive = _archive(base, str(request.get("image", "")))
    return {"run_dir": run, "has_code": os.path.isdir(cached), "archive": archive}


def _archive(base: str, image: str) -> str:
    """Where an image's archive is kept; its folder is made, and what no job has used for long is removed from it."""
    if not image:
        return ""
    folder = os.path.join(base, "images")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    forget_old(folder)
    return os.path.join(folder, hashlib.sha256(image.encode()).hexdigest()[:32] + ".tar")


@act
def image(request: Request, rest: BinaryIO) -> Request:
    """Whether this host lacks both an image and its archive."""
    archive = request["archive"]
    if os.path.exists(archive):
        os.utime(archive)
        return {"lacks": False}
    try:
        argv = [request["engine"], "image", "inspect", request["image"]]
        return {"lacks": subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True).returncode != 0}
    except FileNotFoundError:
        raise far.Refused("it has no %s, which runs the job's image. Install it there" % request["engine"]) from None


@act
def put_code(request: Request, rest: BinaryIO) -> Request:
    """Unpack code that this host did not have, for a run that it has."""
    folder = os.path.join(os.path.expanduser(request["directory"]), "code")
    cached = os.path.join(folder, request["code"])
    with _making(cached) as partial:
        unpack(rest, partial)
    _place_code(cached, request["run_dir"])
    forget_old(folder)
    return {}


def forget_old(folder: str) -> None:
    """Remove what no job has used for long, but no run directory of an agent that lives."""
    for name in os.listdir(folder):
        other = os.path.join(folder, name)
        try:
            if time.time() - _used(other) > _KEPT_SECONDS and not _lives(other):
                shutil.rmtree(other, ignore_errors=True) if os.path.isdir(other) else os.unlink(other)
        except OSError:  # another host, which has this folder too, was faster
            continue


def _used(path: str) -> float:
    """When something was used last: of a run directory, when its agents or ranks have written last."""
    written = [path, *_of_agents(path, "nodes/*"), *_of_agents(path, "logs/*")]
    return max(os.stat(each).st_mtime for each in written)


def _lives(path: str) -> bool:
    """Whether an agent, on any host that sees it, holds its lock in this run directory."""
    for lock in _of_agents(path, "nodes/*.lock"):
        try:
            handle = processes.hold_lock(Path(lock))
        except OSError:  # nobody can tell
            return True
        if handle is None:
            return True
        os.close(handle)
    return False


def _of_agents(run: str, pattern: str) -> List[str]:
    return glob.glob(os.path.join(glob.escape(run), "attempts/*", pattern))


def _rewrite_job(partial: str, run: str, request: Request) -> None:
    """The job as it is here."""
    path = os.path.join(partial, "attempts", str(request["attempt"]), "job.json")
    job = far.read(path)
    if job.get("container") and request.get("image"):
        job["container"]["archive"] = _archive(os.path.dirname(os.path.dirname(run)), request["image"])
    job.update(run_dir=run, shared=False, boot=os.path.join(run, request["boot"]) if request["boot"] else "")
    os.unlink(path)
    far.write(path, json.dumps(job))


def beside(path: str) -> str:
    """A new hidden directory beside `path`."""
    parent, name = os.path.split(path)
    os.makedirs(parent, mode=0o700, exist_ok=True)
    partial = os.path.join(parent, ".%s.%s.%d" % (name, socket.gethostname(), os.getpid()))
    shutil.rmtree(partial, ignore_errors=True)
    os.mkdir(partial, 0o700)
    return partial


@contextlib.contextmanager
def _making(path: str) -> Iterator[str]:
    """A directory to fill, which then gets its name; nothing is left of it where that fails, as a transfer may."""
    partial = beside(path)
    try:
        yield partial
        _settle(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _settle(partial: str, path: str) -> None:
    """Give a directory its name, unless another host was faster."""
    try:
        os.rename(partial, path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not os.path.isdir(path):
            raise


def _place_code(cached: str, run: str) -> None:
    """A copy of its own for the run, which may write into it."""
    os.utime(cached)
    code = os.path.join(run, "code")
    if os.path.exists(code):
        return
    partial = beside(code)
    os.rmdir(partial)
    shutil.copytree(cached, partial, symlinks=True)
    for name in _OURS:
        os.makedirs(os.path.join(run, name), mode=0o700, exist_ok=True)
        if not os.path.lexists(os.path.join(partial, name)):
            os.symlink(os.path.join(run, name), os.path.join(partial, name))
    _settle(partial, code)


def unpack(archive: BinaryIO, folder: str) -> None:
    """Unpack a tar archive of files, directories and links; what would leave the folder is refused."""
    links: List[Tuple[str, str]] = []
    reader = _Reader(archive)
    with tarfile.open(fileobj=reader, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            path = _inside(folder, member.name)
            if member.isdir():
                os.makedirs(path, mode=0o700, exist_ok=True)
            elif member.isreg():
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                os.chmod(path, 0o700 if member.mode & 0o100 else 0o600)
                os.utime(path, (member.mtime, member.mtime))
            elif member.issym():
                if os.path.isabs(member.linkname):
                    raise far.Refused("the archive's link %s leaves the folder" % member.name)
                _inside(folder, os.path.join(os.path.dirname(member.name), member.linkname))
                links.append((member.linkname, path))
            else:
                raise far.Refused("the archive's %s is neither a file, a directory nor a link" % member.name)
    if reader.last != bytes(_END_BYTES):  # tarfile takes one that is cut off between two members for whole
        raise far.Refused("the archive did not arrive whole")
    for target, path in links:  # last: nothing is written through them
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.symlink(target, path)


class _Reader:
    """Reads an archive, and remembers with which bytes it ended."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive, self.last = archive, b""

    def read(self, count: int) -> bytes:
        data = self._archive.read(count)
        self.last = (self.last + data)[-_END_BYTES:]
        return data


def _inside(folder: str, name: str) -> str:
    path = os.path.normpath(os.path.join(folder, name))
    if os.path.isabs(name) or not (path + "/").startswith(folder.rstrip("/") + "/"):
        raise far.Refused("the archive's %s leaves the folder" % name)
    return path


@act
def changes(request: Request, rest: BinaryIO) -> Request:
    """The files that were written here, unless they are those that the asker knows; and the checkpoints that are."""
    run = request["run_dir"]
    sent: Dict[str, Any] = far.read(os.path.join(run, SENT)) or {}
    digest, names = hashlib.sha256(), []
    for path, status in _files(run):
        stamp = [status.st_size, status.st_mtime_ns]
        if sent.get(path) != stamp:
            names.append(path)
            digest.update(("%s\0%s\0" % (path, stamp)).encode("utf-8", "surrogateescape"))
    told = digest.hexdigest()
    checkpoints = sorted({os.path.dirname(n) for n in names if n.startswith("checkpoints/")})
    if told == request["known"]:
        return {"digest": told, "names": None, "checkpoints": checkpoints}
    return {"digest": told, "names": names, "checkpoints": checkpoints}


def _files(run: str) -> Iterator[Tuple[str, os.stat_result]]:
    """Files and links of a run directory that may go back: not the code, nor what is in the making."""
    for folder, folders, files in os.walk(run):
        relative = os.path.relpath(folder, run)
        top = relative.split("/")[0]
        free = top in ("outputs", "logs", "uploads")  # the script's own: here hidden files are files as any
        if relative == ".":
            folders[:] = [name for name in folders if name not in ("code", "boot")]
        folders[:] = sorted(name for name in folders if free or not name.startswith("."))
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted(files + linked):
            if (name.startswith(".") and not free) or name.endswith((".lock", ".beat")):
                continue
            try:
                yield os.path.normpath(os.path.join(relative, name)), os.lstat(os.path.join(folder, name))
            except FileNotFoundError:  # it was in the making
                continue


@act
def clean(request: Request, rest: BinaryIO) -> Request:
    """Remove run directories that were fetched."""
    for run in request["run_dirs"]:
        if os.path.basename(os.path.dirname(run)) == "runs":
            shutil.rmtree(run, ignore_errors=True)
    return {}


@act
def tell(request: Request, rest: BinaryIO) -> Request:
    """Write files that are not there yet, and wait for one to appear; its text, or None."""
    for path, text in request.get("files", {}).items():
        far.write(path, text)
    deadline = time.monotonic() + request.get("seconds", 0.0)
    while request.get("awaited") and time.monotonic() < deadline:
        if far.read(request["awaited"]) is not None:
            with open(request["awaited"]) as file:
                return {"text": file.read()}
        time.sleep(0.02)
    return {"text": None}
