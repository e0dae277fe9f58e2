"""The digest of a folder that an image is built from: names, kinds, permissions and contents of what a builder sees.

A file's content is read once: an unchanged file is known by its inode, size and times, from a list kept in `envs/`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from pathlib import Path
from typing import NamedTuple

from trainkit.boot.rundir import make_private, read_json, replace
from trainkit.errors import EnvironmentBuildError
from trainkit.ignore import translate

FOLDER = ".contexts"  # in envs/
_SETTLED_NS = 2_000_000_000  # a file this young may change again without its times telling
_CHUNK = 1 << 20


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


def context_digest(folder: Path, envs: Path, ignore_files: tuple[str, ...] = (".dockerignore",)) -> str:
    """64 hex digits; the first of `ignore_files` that is there says what the builder does not see.

    Raises EnvironmentBuildError where something cannot be read.
    """
    started = time.time_ns()
    root = os.path.realpath(folder)
    index = make_private(envs / FOLDER) / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"
    try:
        items = sorted(_walk(root, _rules(root, ignore_files)))
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
    settled = [item for item in items if not item.stamp or max(item.stamp[2:]) < started - _SETTLED_NS]
    files = {i.path: [*i.stamp, contents[i.path]] for i in settled if i.stamp}
    whole = {"shape": shape, "digest": digest} if len(settled) == len(items) else {}
    replace(index, {**whole, "files": files})
    return digest


def _contents(root: str, items: list[_Item], known: dict[str, list[int | str]]) -> dict[str, str]:
    """The digest of each file's content."""
    found = {}
    for item in items:
        if item.stamp:
            before = known.get(item.path)
            same = before is not None and tuple(before[:-1]) == item.stamp
            found[item.path] = str(before[-1]) if same and before else _file_hash(os.path.join(root, item.path))
    return found


def _walk(root: str, rules: list[_Rule]) -> list[_Item]:
    """All that the builder sees; no link is followed."""
    items, waiting = [], [""]
    reenters = any(rule.keeps for rule in rules)
    while waiting:
        base = waiting.pop()
        with os.scandir(os.path.join(root, base) if base else root) as entries:
            for entry in entries:
                path = base + entry.name
                left_out = _left_out(path, rules)
                if entry.is_dir(follow_symlinks=False) and (not left_out or reenters):
                    waiting.append(path + "/")
                if left_out:
                    continue
                status = entry.stat(follow_symlinks=False)
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


def _file_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
