"""A run's source code, recorded once and laid out for every run as files of its own.

An unchanged tree is known by the inode numbers and times of its files: nothing of it is read again. Every run gets
real copies: whatever a job does in its code directory, it cannot reach the store or another run. What goes is decided
in `trainkit.tree`, how it is stored in `trainkit.packs`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainkit.errors import SnapshotException
from trainkit.ignore import AMLIGNORE, GITIGNORE
from trainkit.packs import Changed, Snapshot, Store
from trainkit.tree import KEY_BYTES, Tree, holds_private_key, read_tree, secret_words

__all__ = ["DEFAULT_LIMIT_BYTES", "File", "Listing", "Snapshot", "check_limits", "listing", "restore", "take"]

DEFAULT_LIMIT_BYTES = 300_000_000
_ATTEMPTS = 3
_NAMED = 10  # of the largest things, in an error


class File(NamedTuple):
    """One file of a listing."""

    path: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """What a snapshot would hold, and what it would not: "path: why" lines."""

    files: list[File]
    left_out: list[str]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def take(
    source: Path,
    code: Path,
    store: Path,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    limit_files: int | None = None,
    root: Path | None = None,
) -> Snapshot:
    """Record `source` in `store` and lay it out as the new directory `code`; `root` is the workspace's root.

    Raises SnapshotException, leaving no `code`, where the tree is too large or something in it cannot be recorded.
    """
    source = _existing(source)
    snapshot = _recorded(source, Store(Path(store)), limit_bytes, limit_files, root)
    restore(store, snapshot.id, code)
    return snapshot


def restore(store: Path, snapshot_id: str, destination: Path) -> None:
    """Lay out a recorded snapshot as the new directory `destination`.

    Raises SnapshotException, leaving no `destination`, where there is no such snapshot or its files are damaged.
    """
    destination = Path(destination).absolute()
    if os.path.lexists(destination):
        raise SnapshotException(f"{destination} exists; a snapshot is laid out as a new directory.")
    try:
        Store(Path(store)).lay_out(snapshot_id, destination)
    except BaseException as error:
        shutil.rmtree(destination, ignore_errors=True)
        if isinstance(error, OSError):
            raise SnapshotException(
                f"The snapshot {snapshot_id} could not be laid out: {error.filename or destination}: {error.strerror}."
            ) from error
        raise


def listing(source: Path, root: Path | None = None) -> Listing:
    """What `take` would record of `source`; nothing is written, and no limit applies."""
    source = _existing(source)
    tree = read_tree(source, root)
    files, left_out = [], tree.left_out + tree.ignored
    for entry in tree.entries:
        if entry.kind == "file" and not entry.asked and entry.bytes <= KEY_BYTES and _is_key(source / entry.path):
            left_out.append(secret_words(entry.path))
        elif entry.kind != "directory":
            files.append(File(entry.path, entry.bytes))
    return Listing(files, sorted(left_out))


def check_limits(source: Path, tree: Tree, limit_bytes: int, limit_files: int | None = None) -> None:
    """Raise SnapshotException where the tree is too large, naming what is largest in it."""
    remedy = f"Leave out what the script does not need with lines in {source / AMLIGNORE} (or {GITIGNORE}), or raise"
    if tree.bytes > limit_bytes:
        biggest = sorted(tree.entries, key=lambda entry: -entry.bytes)[:_NAMED]
        lines = "".join(f"\n  {megabytes(entry.bytes):>12}  {entry.path}" for entry in biggest if entry.bytes)
        raise SnapshotException(
            f"{source} holds {megabytes(tree.bytes)} in {tree.files:,} files; a snapshot takes at most "
            f'{megabytes(limit_bytes)}. Its biggest files:{lines}\n{remedy} "snapshot_limit_bytes" in config.json.'
        )
    if limit_files is not None and tree.files > limit_files:
        counts: dict[str, int] = {}
        for entry in tree.entries:
            if entry.kind != "directory":
                folder = os.path.dirname(entry.path) or "."
                counts[folder] = counts.get(folder, 0) + 1
        fullest = sorted(counts, key=lambda folder: -counts[folder])[:_NAMED]
        lines = "".join(f"\n  {counts[folder]:>12,}  {folder}" for folder in fullest)
        raise SnapshotException(
            f"{source} holds {tree.files:,} files; a snapshot takes at most {limit_files:,}. Its fullest directories:"
            f'{lines}\n{remedy} "snapshot_limit_files" in config.json.'
        )


def megabytes(size: int) -> str:
    """A size for people: "412.3 MB", or kilobytes where it is small."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _existing(source: Path) -> Path:
    source = Path(source).absolute()
    if not source.is_dir():
        what = "is not a directory" if source.exists() else "does not exist"
        raise SnapshotException(f"The source directory {source} {what}; name the directory that holds the script.")
    return source


def _recorded(source: Path, store: Store, limit_bytes: int, limit_files: int | None, root: Path | None) -> Snapshot:
    """The snapshot of `source` as it is now; a file that changes meanwhile is tried again."""
    changed: Changed | None = None
    for _ in range(_ATTEMPTS):
        try:
            tree = read_tree(source, root)
        except SnapshotException as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            changed = Changed(error.__cause__.filename)  # it vanished between its directory's listing and its turn
            continue
        check_limits(source, tree, limit_bytes, limit_files)
        try:
            return store.known(source, tree) or store.record(source, tree)
        except Changed as error:
            changed = error
        except OSError as error:
            raise SnapshotException(
                f"The snapshot of {source} could not be recorded: {error.filename or store.path}: {error.strerror}."
            ) from error
    raise SnapshotException(
        f"{changed} changes while it is recorded. Wait until it is complete, or leave it out with a line in "
        f"{source / AMLIGNORE}."
    )


def _is_key(file: Path) -> bool:
    with open(file, "rb") as opened:
        return holds_private_key(file.name, opened.read(KEY_BYTES))
