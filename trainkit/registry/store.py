"""The model registry's files: `models/<name>/<version>/` with `model.json` and `files/`, under a workspace's root.

A version is made whole in `models/.new` and appears by one rename, its number chosen under a lock: whoever dies before
leaves nothing visible, and whoever comes next sweeps up what it left. Its files are copies, read-only, each with the
sha256 that every download checks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from trainkit.boot.rundir import make_private, publish, read_json, replace
from trainkit.errors import ModelNotFoundException, WebserviceException, WorkspaceException

Record = dict[str, Any]  # the content of a model.json
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-\._]{0,254}")
_VERSION = re.compile(r"[1-9][0-9]*")
_CHUNK_BYTES = 1 << 20


def check_name(name: object) -> str:
    """`name` where it is a valid model name; WebserviceException otherwise."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise WebserviceException(
        f"Error, provided model name is invalid. {name!r} was given; a name has 1 to 255 letters (a-z, A-Z), digits, "
        "'-', '.' or '_', and starts with a letter or a digit."
    )


def check_file_name(name: str) -> str:
    """`name` where it stays inside the model's folder: relative, without `.`, `..` or empty parts."""
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise WebserviceException(
            f"A model's file cannot be named {name!r}: a name is relative, as in 'outputs/model.pt', without '..'."
        )
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as e:
        raise WebserviceException(f"A model's file cannot be named {name!r}: the name is not valid UTF-8.") from e
    return name


def files_under(folder: Path, prefix: str = "") -> dict[str, Path]:
    """The regular files below `folder`, as `{prefix/relative name: path}`; a link or a device among them is refused."""
    found: dict[str, Path] = {}
    for directory, folders, names in os.walk(folder, onerror=_refuse):
        for name in sorted(folders + names):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found[(PurePosixPath(prefix) / path.relative_to(folder).as_posix()).as_posix()] = path
            elif not stat.S_ISDIR(mode):
                raise _irregular(path)
    return found


def _refuse(error: OSError) -> None:
    raise WebserviceException(f"{error.filename} cannot be read: {error.strerror}.") from error


def _irregular(path: Path) -> WebserviceException:
    kind = "a link" if path.is_symlink() else "not a regular file"
    return WebserviceException(f"{path} is {kind}; a model holds regular files only: put a copy in its place.")


class ModelStore:
    """All registered models of one workspace, as files."""

    def __init__(self, root: Path) -> None:
        self.path = Path(root) / "models"
        self._new = self.path / ".new"  # versions in the making, and deleted ones on their way out

    def names(self) -> list[str]:
        """The names that have at least one version."""
        if not self.path.is_dir():
            return []
        return sorted(name for name in os.listdir(self.path) if _NAME.fullmatch(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """The versions of one name, ascending."""
        try:
            found = os.listdir(self.path / check_name(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(entry) for entry in found if _VERSION.fullmatch(entry))

    def directory(self, name: str, version: int) -> Path:
        """Where one version's files are."""
        return self.path / check_name(name) / str(version)

    def read(self, name: str, version: int) -> Record | None:
        """One version's record, or None where there is none."""
        path = self.directory(name, version) / "model.json"
        try:
            record = read_json(path)
            if record is not None:
                for entry in record["files"]:
                    check_file_name(entry["name"])
        except (WorkspaceException, KeyError, TypeError) as e:
            raise WebserviceException(
                f"{path} is damaged ({e.__cause__ or e}): restore it from a copy, or remove the folder {path.parent}."
            ) from e
        return None if record is None else dict(record)

    def add(self, name: str, files: Mapping[str, Path], facts: Mapping[str, Any]) -> Record:
        """Copy `files` (name in the model: where it is) into a new version of `name`; its record.

        Raises WebserviceException, and leaves nothing, where a file is missing, is no regular file, changes meanwhile,
        or does not fit the disk.
        """
        check_name(name)
        _check_names(files)
        with self._staging() as staging:
            model = make_private(staging / "model")
            try:
                entries = [_stored(source, model / "files", file_name) for file_name, source in sorted(files.items())]
                with self._lock():
                    version = self._next(name)
                    record = {"name": name, "version": version, "created": time.time(), **facts, "files": entries}
                    publish(model / "model.json", record)
                    home = make_private(self.path / name)
                    os.rename(model, home / str(version))
                    _sync(home)
            except OSError as e:
                raise _failed(f"Model {name} was not registered", self.path, e) from e
        return record

    def edit(self, name: str, version: int, change: Callable[[Record], object]) -> Record:
        """Let `change` alter one version's record, one caller at a time; the new record."""
        with self._lock():
            record = self.read(name, version)
            if record is None:
                raise ModelNotFoundException(f"Model {name}:{version} is not registered any more.")
            change(record)
            replace(self.directory(name, version) / "model.json", record)
        return record

    def remove(self, name: str, version: int) -> None:
        """Delete one version; its number is never given again."""
        with self._lock():
            if version not in self.versions(name):
                raise ModelNotFoundException(f"Model {name}:{version} is not registered.")
            mark = self.path / name / "last.json"
            replace(mark, {"last": max(version, self._last(name))})
            grave = Path(tempfile.mkdtemp(dir=make_private(self._new)))
            os.rename(self.directory(name, version), grave / "model")
        shutil.rmtree(grave, ignore_errors=True)

    def _last(self, name: str) -> int:
        """The highest version that was ever deleted, 0 for none."""
        return int((read_json(self.path / name / "last.json", "last") or {"last": 0})["last"])

    def _next(self, name: str) -> int:
        return max([self._last(name), *self.versions(name)]) + 1

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        make_private(self.path)
        with _locked(self.path / ".lock"):
            yield

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """A directory for one version in the making, gone in the end; its owner's lock tells it from a dead one's."""
        with contextlib.ExitStack() as stack:
            with self._lock():
                self._sweep()
                path = Path(tempfile.mkdtemp(dir=make_private(self._new)))
                stack.callback(shutil.rmtree, path, ignore_errors=True)
                stack.enter_context(_locked(path / "owner"))
            yield path

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in make_private(self._new).iterdir():
            with contextlib.suppress(OSError), _locked(path / "owner", wait=False):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the flock of `path`; the kernel lets go of it when its holder dies. BlockingIOError where not to wait."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # also for a child that was forked meanwhile
    finally:
        os.close(handle)


def _check_names(files: Mapping[str, Path]) -> None:
    if not files:
        raise WebserviceException("A model has at least one file; none was given.")
    for name in files:
        check_file_name(name)
        for parent in PurePosixPath(name).parents:
            if str(parent) in files:
                raise WebserviceException(f"{str(parent)!r} cannot be a file of the model and the folder of {name!r}.")


def copy_and_hash(source: Path, target: Path, mode: int) -> tuple[int, str]:
    """Copy one regular file to the new file `target`, synced; its bytes and its sha256.

    Raises WebserviceException where `source` is no regular file or changed while it was read.
    """
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):
            raise _irregular(source) from e
        raise
    digest = hashlib.sha256()
    with os.fdopen(handle, "rb") as reader:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise _irregular(source)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
        after = os.fstat(handle)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise WebserviceException(f"{source} changed while it was read; try again when nobody writes to it.")
    return after.st_size, digest.hexdigest()


def _stored(source: Path, folder: Path, name: str) -> dict[str, Any]:
    """Copy `source` into a version in the making; its entry in the record."""
    target = folder / name
    make_private(target.parent)
    try:
        size, sha256 = copy_and_hash(source, target, 0o400)
    except FileNotFoundError as e:
        raise WebserviceException(f"Error, provided model path {source} cannot be found.") from e
    _sync(target.parent)
    return {"name": name, "bytes": size, "sha256": sha256}


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(what: str, path: Path, error: OSError) -> WebserviceException:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WebserviceException(f"{what}: the disk of {path} is full; make room and try again.")
    return WebserviceException(f"{what}: {error.filename or path}: {error.strerror or error}.")
