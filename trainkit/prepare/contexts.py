"""A folder that an image is built from: the digest of what a builder sees of it, and a folder with nothing else.

The digest covers names, kinds, permissions and contents. A file's content is read once: an unchanged file is known by
its inode, size and times, from a list kept in `envs/`, which is corrected where laying out the folder changes a time.
The workspace's own root, wherever it lies, is never seen: every run writes there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from trainkit.boot.rundir import make_private, read_json, replace
from trainkit.errors import EnvironmentBuildError
from trainkit.hashing import file_sha256
from trainkit.ignore import translate

FOLDER = ".contexts"  # in envs/
_SETTLED_NS = 2_000_000_000  # a file this young may change again without its times telling


class _Rule(NamedTuple):
    """A line of an ignore file; `regex` matches a path, and all that lies below it."""

    keeps: bool
    regex: re.Pattern[str]


class _Item(NamedTuple):
    """A file, link or folder: `stamp` changes whenever a file's content may have."""

    path: str
    mode: int
    target: str
    stamp: tuple[int, ...]


def context_digest(
    folder: Path, envs: Path, ignore_files: tuple[str, ...] = (".dockerignore",), follows: bool = False
) -> str:
    """64 hex digits; the first of `ignore_files` that is there says what the builder does not see.

    `follows` says that what links lead to is seen in their place, as `copied` does it. Raises EnvironmentBuildError
    where something cannot be read.
    """
    started = time.time_ns()
    root = os.path.realpath(folder)
    index = _index(root, envs)
    try:
        items = _seen(root, envs, ignore_files, follows)
        shape = _hash(repr(items))
        known = read_json(index) or {}
        if known.get("shape") == shape:
            return str(known["digest"])
        contents = _contents(root, items, known.get("files", {}))
    except OSError as error:
        raise EnvironmentBuildError(
            f"{error.filename or root} cannot be read ({error.strerror}), but the image is to be built from it. Make "
            f"it readable, or leave it out with a line in {os.path.join(root, '.dockerignore')}."
        ) from error
    digest = _hash("\n".join(f"{i.mode:o} {i.path}\0{i.target}\0{contents.get(i.path, '')}" for i in items))
    before = known.get("files", {})
    settled = [
        item
        for item in items
        if not item.stamp or max(item.stamp[2:]) < started - _SETTLED_NS or _is_known(item, before)
    ]
    files = {i.path: [*i.stamp, contents[i.path]] for i in settled if i.stamp}
    whole = {"shape": shape, "digest": digest} if len(settled) == len(items) else {}
    replace(index, {**whole, "files": files})
    return digest


@contextmanager
def staged(folder: Path, envs: Path, place: Path, ignore_files: tuple[str, ...] = (".dockerignore",)) -> Iterator[Path]:
    """What a builder sees of `folder`, laid out as the new folder `place`: files as further links to the same ones.

    Raises EnvironmentBuildError where something cannot be read.
    """
    root = os.path.realpath(folder)
    remove_tree(place)
    items: list[_Item] = []
    try:
        try:
            items = _seen(root, envs, ignore_files)
            _stage(root, items, str(make_private(place)))
        except OSError as error:
            raise EnvironmentBuildError(f"{folder} cannot be made ready to build from: {error}.") from error
        yield place
    finally:
        remove_tree(place)
        with suppress(OSError):  # then all is read once more
            _note_links(items, _seen(root, envs, ignore_files), _index(root, envs))


def copied(folder: Path, envs: Path, place: Path) -> None:
    """Copy what `context_digest` covers where it follows links; what a link leads to lies in the link's place."""
    root = os.path.realpath(folder)
    make_private(place)
    for item in _seen(root, envs, (), follows=True):
        path = place / item.path
        if item.stamp:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(os.path.join(root, item.path), path)
        else:
            path.mkdir(parents=True, exist_ok=True)


def _note_links(before: list[_Item], now: list[_Item], index: Path) -> None:
    """Keep what is known of the files of `before`: a further link to a file, which is gone again, changed its ctime."""
    known = (read_json(index) or {}).get("files", {})
    stamps = {item.path: item.stamp for item in now}
    files = {
        item.path: [*stamps[item.path], known[item.path][-1]]
        for item in before
        if _is_known(item, known) and stamps.get(item.path, ())[:3] == item.stamp[:3]
    }
    replace(index, {"files": files})


def _index(root: str, envs: Path) -> Path:
    """Where what is known of a folder's files is kept."""
    return make_private(envs / FOLDER) / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"


def _stage(root: str, items: list[_Item], place: str) -> None:
    modes: dict[str, int] = {}
    for item in items:
        path = os.path.join(place, item.path)
        parent = os.path.dirname(item.path)
        while parent and parent not in modes:  # a folder that is not seen may hold what is
            modes[parent] = os.stat(os.path.join(root, parent)).st_mode
            parent = os.path.dirname(parent)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if item.stamp:
            _link(os.path.join(root, item.path), path)
        elif item.target:
            os.symlink(item.target, path)
        else:
            os.makedirs(path, exist_ok=True)
            modes[item.path] = item.mode
    for name in sorted(modes, reverse=True):
        os.chmod(os.path.join(place, name), stat.S_IMODE(modes[name]))


def remove_tree(place: Path) -> None:
    """Remove a folder, in which folders may be read-only; files may be somebody's too, and stay as they are."""
    for base, folders, _ in os.walk(place):
        for name in folders:
            if not os.path.islink(os.path.join(base, name)):
                with suppress(OSError):
                    os.chmod(os.path.join(base, name), 0o700)
    shutil.rmtree(place, ignore_errors=True)


def _link(source: str, path: str) -> None:
    """One more name for a file; a copy where there can be none: on another disk, or of somebody else's file."""
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, path)


def _seen(root: str, envs: Path, ignore_files: tuple[str, ...], follows: bool = False) -> list[_Item]:
    """All that a builder sees, in order."""
    own = os.stat(envs.parent)
    return sorted(_walk(root, _rules(root, ignore_files), (own.st_dev, own.st_ino), follows))


def _is_known(item: _Item, known: dict[str, list[int | str]]) -> bool:
    before = known.get(item.path)
    return bool(item.stamp) and before is not None and tuple(before[:-1]) == item.stamp


def _contents(root: str, items: list[_Item], known: dict[str, list[int | str]]) -> dict[str, str]:
    """The digest of each file's content."""
    found = {}
    for item in items:
        if item.stamp:
            path = os.path.join(root, item.path)
            found[item.path] = str(known[item.path][-1]) if _is_known(item, known) else file_sha256(path)
    return found


def _walk(root: str, rules: list[_Rule], never: tuple[int, int], follows: bool) -> list[_Item]:
    """All that the builder sees; the folder `never` (device, inode) is not entered.

    Where links are followed, those that lead nowhere, or to what they lie in, are left out.
    """
    items: list[_Item] = []
    top = os.stat(root)
    waiting = [("", frozenset({(top.st_dev, top.st_ino)}))]
    reenters = any(rule.keeps for rule in rules)
    while waiting:
        base, above = waiting.pop()
        with os.scandir(os.path.join(root, base) if base else root) as entries:
            for entry in entries:
                path = base + entry.name
                left_out = _left_out(path, rules)
                if left_out and not entry.is_dir(follow_symlinks=follows):
                    continue
                if follows and not os.path.exists(entry.path):
                    continue
                status = entry.stat(follow_symlinks=follows)
                if stat.S_ISDIR(status.st_mode):
                    here = (status.st_dev, status.st_ino)
                    if here == never or here in above:
                        continue
                    if not left_out or reenters:
                        waiting.append((path + "/", above | {here}))
                if left_out:
                    continue
                if stat.S_ISREG(status.st_mode):
                    stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                    items.append(_Item(path, status.st_mode, "", stamp))
                elif stat.S_ISLNK(status.st_mode):
                    items.append(_Item(path, status.st_mode, os.readlink(entry.path), ()))
                elif stat.S_ISDIR(status.st_mode):
                    items.append(_Item(path, status.st_mode, "", ()))
    return items


def _left_out(path: str, rules: list[_Rule]) -> bool:
    """What the last line that speaks of a path says of it."""
    return next((not rule.keeps for rule in reversed(rules) if rule.regex.fullmatch(path)), False)


def _rules(root: str, ignore_files: tuple[str, ...]) -> list[_Rule]:
    """The lines of the first ignore file that is there."""
    for name in ignore_files:
        try:
            text = Path(root, name).read_text(encoding="utf-8-sig", errors="surrogateescape")
        except FileNotFoundError:
            continue
        return [rule for line in text.splitlines() if (rule := _rule(line)) is not None]
    return []


def _rule(line: str) -> _Rule | None:
    """A line as docker reads it: paths from the folder's top, a folder with all that it holds."""
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    keeps = line.startswith("!")
    glob = os.path.normpath(line.lstrip("!").strip()).lstrip("/")
    pattern = None if glob in ("", ".") else translate(glob)
    return None if pattern is None else _Rule(keeps, re.compile(f"{pattern}(?:/.*)?", re.DOTALL))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
