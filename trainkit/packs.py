"""The store of snapshots: contents recorded once, laid out as often as asked.

    <store>/<id>.json            the manifest: [path, kind, bytes, executable, sha256 or a link's target, place] lists
    <store>/<id>.pack            the contents of all small files, each at its place, in the order of their paths
    <store>/objects/<sha256>     one large file, shared by all snapshots that hold it
    <store>/index/<...>.json     of one source directory: its last snapshot, and by what it is known to be unchanged

A snapshot's id is its manifest's digest, so that equal trees are one snapshot. Files are synced and renamed into
place, the manifest last: what has an id is whole. Laying out makes real copies (clones, where the file system can
share blocks until one is written to) and compares every small file with its digest.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from trainkit.boot.rundir import make_private, read_json, replace, sweep
from trainkit.errors import SnapshotException, WorkspaceException
from trainkit.tree import KEY_BYTES, Entry, Tree, holds_private_key, secret_words

PACKED_BYTES = 1 << 20  # files up to this size go into the pack
_RULES = 1  # raise it when `trainkit.tree` decides differently, so that no index of before is believed
_SETTLED_NS = 100_000_000  # a file changed this shortly before could change again without its time showing it
_COPY_BYTES = 1 << 24


@dataclass(frozen=True)
class Snapshot:
    """What was recorded; `left_out` names, a line each, what a user may expect there and will not find."""

    id: str
    files: int
    bytes: int
    left_out: list[str]


class Changed(Exception):
    """A file changed or vanished while it was read; its argument is the file's path."""


class Store:
    """The snapshots of one workspace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _manifest(self, snapshot_id: str) -> Path:
        return self.path / f"{snapshot_id}.json"

    def _pack(self, snapshot_id: str) -> Path:
        return self.path / f"{snapshot_id}.pack"

    def _object(self, digest: str) -> Path:
        return self.path / "objects" / digest

    def _index(self, source: Path) -> Path:
        name = hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest()
        return self.path / "index" / f"{name}.json"

    def known(self, source: Path, tree: Tree) -> Snapshot | None:
        """The snapshot that was last taken of exactly these files, if it is still there."""
        try:
            found = read_json(self._index(source))
            if not found or found["fingerprint"] != _fingerprint(tree):
                return None
            known = Snapshot(**found["snapshot"])
            whole = _has_size(self._pack(known.id), found["pack_bytes"]) and self._manifest(known.id).is_file()
            return known if whole and all(_has_size(self._object(d), n) for d, n in found["objects"]) else None
        except (OSError, WorkspaceException, ValueError, KeyError, TypeError):
            return None

    def record(self, source: Path, tree: Tree) -> Snapshot:
        """Read every file, and store what is new. Raises Changed, storing nothing under an id."""
        started = time.time_ns()
        for folder in (make_private(self.path / "objects"), self.path):
            sweep(folder, directories=False)
        with _whole_file(self.path) as (pack, keep):
            entries, secrets = self._fill(pack, source, tree)
            pack_bytes = pack.tell()
            manifest = json.dumps({"format": 1, "entries": entries}, separators=(",", ":")).encode("ascii")
            snapshot_id = hashlib.sha256(manifest).hexdigest()
            keep(self._pack(snapshot_id))
        with _whole_file(self.path) as (file, keep):
            file.write(manifest)
            keep(self._manifest(snapshot_id))
        files = sum(entry[1] != "directory" for entry in entries)
        size = sum(entry[2] for entry in entries)
        snapshot = Snapshot(snapshot_id, files, size, sorted(tree.left_out + secrets))
        newest = max((max(entry.stamp[2:]) for entry in tree.entries if entry.stamp), default=0)
        if newest < started - _SETTLED_NS:
            objects = [[entry[4], entry[2]] for entry in entries if entry[1] == "file" and entry[5] < 0]
            replace(
                self._index(source),
                {
                    "fingerprint": _fingerprint(tree),
                    "snapshot": asdict(snapshot),
                    "pack_bytes": pack_bytes,
                    "objects": objects,
                },
            )
        return snapshot

    def _fill(self, pack: IO[bytes], source: Path, tree: Tree) -> tuple[list[list[Any]], list[str]]:
        """The manifest's entries, and a line for each file whose content turned out to be secret."""
        entries: list[list[Any]] = []
        secrets = []
        for entry in tree.entries:
            path, kind, size, executable, target = entry[:5]
            if kind != "file":
                entries.append([path, kind, size, executable, target, -1])
            elif size > PACKED_BYTES:
                entries.append([path, kind, size, executable, self._store_object(source, entry), -1])
            else:
                data = _content(source, entry)
                if size <= KEY_BYTES and not entry.asked and holds_private_key(path, data):
                    secrets.append(secret_words(path))
                    continue
                entries.append([path, kind, size, executable, hashlib.sha256(data).hexdigest(), pack.tell()])
                pack.write(data)
        return entries, secrets

    def _store_object(self, source: Path, entry: Entry) -> str:
        """A large file's digest; its contents are in the store afterwards."""
        with _stable(source, entry) as fd:
            digest = hashlib.sha256()
            while data := os.read(fd, _COPY_BYTES):
                digest.update(data)
            name = digest.hexdigest()
            if not _has_size(self._object(name), entry.bytes):
                with _whole_file(self.path / "objects") as (file, keep):
                    _copy(fd, file.fileno(), entry.bytes)
                    keep(self._object(name))
        return name

    def lay_out(self, snapshot_id: str, destination: Path) -> None:
        """Write a snapshot's files into the new directory `destination`. Raises SnapshotException, FileExistsError."""
        entries = self._entries(snapshot_id)
        os.mkdir(destination, 0o700)
        base = os.path.join(destination, "")
        with open(self._pack(snapshot_id), "rb") as file:
            pack: Any = b""
            if os.fstat(file.fileno()).st_size:
                pack = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            view = memoryview(pack)
            for path, kind, size, executable, content, place in entries:
                if kind == "directory":
                    os.mkdir(base + path, 0o700)
                elif kind == "link":
                    os.symlink(content, base + path)
                else:
                    mode = 0o700 if executable else 0o600
                    fd = os.open(base + path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
                    try:
                        if place < 0:
                            self._copy_object(content, size, fd)
                        else:
                            self._write(view[place : place + size], content, path, snapshot_id, fd)
                    finally:
                        os.close(fd)

    def _write(self, data: memoryview, digest: str, path: str, snapshot_id: str, fd: int) -> None:
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(self._pack(snapshot_id), f"{path} differs from its digest")
        while data:
            data = data[os.write(fd, data) :]

    def _copy_object(self, digest: str, size: int, fd: int) -> None:
        path = self._object(digest)
        if not _has_size(path, size):
            raise self._damaged(path, "it is missing or cut short")
        with open(path, "rb") as file:
            _copy(file.fileno(), fd, size)

    def _entries(self, snapshot_id: str) -> list[list[Any]]:
        """The manifest's entries: what its digest vouches for."""
        path = self._manifest(snapshot_id)
        try:
            data = path.read_bytes() if re.fullmatch("[0-9a-f]{64}", snapshot_id) else None
        except FileNotFoundError:
            data = None
        if data is None:
            raise SnapshotException(f"There is no snapshot {snapshot_id!r} in {self.path}.")
        if hashlib.sha256(data).hexdigest() != snapshot_id:
            raise self._damaged(path, "it differs from its digest")
        entries: list[list[Any]] = json.loads(data)["entries"]
        return entries

    def _damaged(self, path: Path, why: str) -> SnapshotException:
        return SnapshotException(
            f"The stored snapshot is damaged: {path}: {why}. Delete that file, and submit again from the sources."
        )


def _fingerprint(tree: Tree) -> str:
    """Changes whenever the tree's contents may have."""
    return hashlib.sha256(repr((_RULES, tree.entries, tree.left_out)).encode("utf-8", "surrogatepass")).hexdigest()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


@contextmanager
def _whole_file(directory: Path) -> Iterator[tuple[IO[bytes], Any]]:
    """A new file and a function that syncs it and gives it its name; without that call nothing is left."""
    handle, name = tempfile.mkstemp(prefix=".", dir=directory)
    kept = False
    with os.fdopen(handle, "wb", buffering=1 << 20) as file:

        def keep(path: Path) -> None:
            nonlocal kept
            file.flush()
            os.fsync(file.fileno())
            os.replace(name, path)
            kept = True

        try:
            yield file, keep
        finally:
            if not kept:
                os.unlink(name)


@contextmanager
def _stable(source: Path, entry: Entry) -> Iterator[int]:
    """An open file that is what the walk saw, before and after it is read; else raises Changed."""
    path = os.path.join(source, entry.path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise Changed(path) from None
    try:
        _compare(path, entry, fd)
        yield fd
        _compare(path, entry, fd)
    finally:
        os.close(fd)


def _compare(path: str, entry: Entry, fd: int) -> None:
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns) != entry.stamp:
        raise Changed(path)


def _content(source: Path, entry: Entry) -> bytes:
    """A small file's content, all of one moment."""
    with _stable(source, entry) as fd:
        data = os.read(fd, entry.bytes + 1)
    if len(data) != entry.bytes:
        raise Changed(os.path.join(source, entry.path))
    return data


def _copy(original: int, copy: int, size: int) -> None:
    """`size` bytes from the start of one file to another, by the file system itself where it can (a clone)."""
    done = 0
    try:
        while done < size and (count := os.copy_file_range(original, copy, size - done, done, done)):
            done += count
    except OSError:
        pass  # another file system, or an old kernel: the loop below does it, or raises what is really wrong
    os.lseek(copy, done, os.SEEK_SET)
    while done < size and (data := os.pread(original, min(size - done, _COPY_BYTES), done)):
        done += os.write(copy, data)
    if done != size:
        raise OSError(f"a file was cut short while it was copied: {done} of {size} bytes")
