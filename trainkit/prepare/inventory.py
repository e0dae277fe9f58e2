"""What `envs/` holds, who uses it, and how it is removed: virtual environments and images alike.

Removing takes from the engine only names that trainkit gave; an image goes with its last name. An environment that a
run not yet ended uses stays, and so does one that may be that of a run which is just being prepared.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.boot.newrun import run_dirs
from trainkit.boot.rundir import RunDir, read_json
from trainkit.errors import TrainkitError
from trainkit.prepare import tags
from trainkit.prepare.contexts import remove_tree
from trainkit.prepare.engines import image_engine
from trainkit.prepare.entries import MAKING, READY, Record, lock_of, record_of
from trainkit.prepare.resolving import facts

__all__ = ["Entry", "entries", "remove", "remove_unfinished", "users"]

IMAGES = ("image", "dockerfile", "packages")  # kinds of entries that are images
_REMOVED = ".removed"


@dataclass(frozen=True)
class Entry:
    """One environment; `used` is when it last was prepared for a job, `runs` are those not yet ended that use it."""

    digest: str
    path: Path
    record: Record = field(repr=False)
    used: float = 0.0
    runs: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it is: "venv", "conda", "image", "dockerfile" or "packages" (an image with packages)."""
        return str(self.record.get("kind", "venv"))

    @property
    def engine(self) -> str:
        """Of an image, else ""."""
        return str(self.record.get("engine", ""))

    @property
    def name(self) -> str:
        """What people call it: of an image that was fetched its own name, else the environment's."""
        bases = self.record.get("bases") or ()
        of = ", ".join(str(base.get("name", "")) for base in bases) if self.kind == "image" else ""
        return of or str(self.record.get("name", ""))

    def bytes(self) -> int | None:
        """Size on disk: of an image that trainkit built, what its engine says; None where nobody answers."""
        own = _bytes_below(self.path)
        if self.kind not in IMAGES:
            return own
        try:
            found = facts(image_engine(self.engine), str(self.record["image"]))
        except TrainkitError:
            return None
        return own + int(found.get("Size", 0)) if found is not None else own

    def to_json(self) -> dict[str, Any]:
        """As plain values, without its size."""
        return {"digest": self.digest, "kind": self.kind, "used": self.used, "runs": list(self.runs), **self.record}


def entries(root: Path) -> list[Entry]:
    """All environments of the workspace's root, the one used last first."""
    using, _ = users(root)
    found = []
    for path in (root / "envs").glob(f"[!.]*/{READY}"):
        record = record_of(path.parent)
        if record is not None:
            digest = path.parent.name
            found.append(Entry(digest, path.parent, record, path.stat().st_mtime, tuple(using.get(digest, ()))))
    return sorted(found, key=lambda entry: -entry.used)


def users(root: Path) -> tuple[dict[str, list[str]], float]:
    """The runs not yet ended by the digest of their environment, and since when one has been without any.

    That is the time at which the oldest run was submitted whose environment is not decided yet; infinite for none.
    """
    using: dict[str, list[str]] = {}
    since = float("inf")
    for experiment in (root / "runs").glob("*"):
        for path in run_dirs(root, experiment.name):
            run = RunDir(path)
            if run.state.exists():
                continue
            prepared = read_json(run.environment)
            if prepared is not None:
                using.setdefault(str(prepared.get("digest", "")), []).append(path.name)
            else:
                with suppress(OSError):
                    since = min(since, path.stat().st_ctime, run.job.stat().st_mtime)
    return using, since


def remove(root: Path, entry: Entry) -> str:
    """Remove an environment; "" or why it stays."""
    with _locked(entry.path) as free:
        if not free:
            return "another process is building it"
        problem = _needed(root, entry.digest, entry.path)
        if problem:
            return problem
        gone = _aside(entry.path)
        remove_tree(gone)  # of a process that was killed
        os.rename(entry.path, gone)
        return _removed(root, entry.path)  # a run may have taken it meanwhile


def remove_unfinished(root: Path, before: float) -> None:
    """Remove what builders that were killed before then have left: folders without a record, that nobody is filling.

    And what those have left that were killed while they removed something.
    """
    for path in (root / "envs").glob("[!.]*"):
        with suppress(OSError):
            if (path / READY).exists() or path.stat().st_mtime > before:
                continue
            with _locked(path) as free:
                if free and not (path / READY).exists() and not _untag(read_json(path / MAKING) or {}):
                    remove_tree(path)
    for gone in (root / "envs").glob(f".*{_REMOVED}"):
        path = gone.with_name(gone.name[1 : -len(_REMOVED)])
        with suppress(OSError), _locked(path) as free:
            if free:
                _removed(root, path)


def _aside(path: Path) -> Path:
    """What an entry is called while it is being removed: nobody finds it there."""
    return path.with_name(f".{path.name}{_REMOVED}")


def _removed(root: Path, path: Path) -> str:
    """Remove what was put aside of the entry `path`, whose lock is held; "", or why it is in its place again."""
    gone = _aside(path)
    if not path.exists() and (gone / READY).exists():  # else what is in its place has the same names
        problem = _needed(root, path.name, gone) or _untag(record_of(gone) or {})
        if problem:
            os.rename(gone, path)
            return problem
    remove_tree(gone)
    return ""


def _needed(root: Path, digest: str, place: Path) -> str:
    """Why the environment that now lies in `place` must stay; "" where it need not."""
    using, since = users(root)
    if digest in using:
        return f"the run {using[digest][0]} uses it"
    try:
        used = (place / READY).stat().st_mtime
    except FileNotFoundError:
        return "it is gone already"
    return "a run that is being prepared may use it" if used >= since else ""


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an entry's lock, unless another does."""
    lock = os.open(lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def _untag(record: Record) -> str:
    """Take trainkit's own names from an image and those below it; "" or why that cannot be done."""
    try:
        return tags.take(image_engine(str(record["engine"])), record) if record.get("tags") else ""
    except TrainkitError as error:
        return error.message


def _bytes_below(folder: Path) -> int:
    """What a folder's files take on the disk; a file of several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(base, name))
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
    return total


def fitting(found: Collection[Entry], text: str) -> list[Entry]:
    """Those that a text means: a digest, the beginning of one, an environment's name, or an image's as it is listed."""
    exact = [entry for entry in found if entry.digest == text]
    return exact or [
        entry for entry in found if entry.digest.startswith(text) or text in (entry.name, entry.record.get("name"))
    ]
