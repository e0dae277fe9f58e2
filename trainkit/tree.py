"""What of a source directory goes into a snapshot: one walk that follows no link and opens no file but ignore files.

Left out without a word: what .gitignore and .amlignore files at any level name, version control's own folders,
`__pycache__`, virtual environments, the workspace's root. Left out and named: what looks like a secret, pipes and
devices, links that lead nowhere, and `outputs` and `logs` at the top, whose places the job's own folders take.

A link to something inside the tree stays a link; one to a file outside is recorded as that file, so that the snapshot
is whole; one to a directory outside is refused, because the job would work on what nobody recorded.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from trainkit.errors import SnapshotException
from trainkit.ignore import AMLIGNORE, GITIGNORE, Rules, read_rules

SECRETS = re.compile(
    r"\.env|\.env\.(?!example$|sample$|template$|dist$).+|_?\.?netrc|\.pypirc|\.npmrc|\.git-credentials|\.pgpass|"
    r"\.htpasswd|\.dockercfg|kaggle\.json|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|.+\.(p12|pfx|ppk|kdbx|jks|keystore)"
)
SECRET_FOLDERS = (".ssh", ".gnupg", ".aws", ".kube")
KEY_BYTES = 1 << 16  # no private key is larger
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File")
_NEVER = {
    ".git": "version control",
    ".hg": "version control",
    ".svn": "version control",
    "__pycache__": "Python's cache",
    ".trainkit": "a workspace's root",
}
_OWN = ("outputs", "logs")


class Entry(NamedTuple):
    """One thing that goes: `path` is relative with "/", `stamp` changes whenever the content may have."""

    path: str
    kind: str  # "file", "link" or "directory"
    bytes: int
    executable: bool
    target: str  # of a link, relative to the directory that holds it
    stamp: tuple[int, ...]
    asked: bool  # a line of .amlignore takes it back with "!": not even a secret's look keeps it out


class Tree(NamedTuple):
    """All that goes, in the order of paths; and what does not, as "path: why" lines."""

    entries: list[Entry]
    left_out: list[str]  # what a user should hear of
    ignored: list[str]  # the rest; a directory stands for everything in it

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(e.bytes for e in self.entries)

    @property
    def files(self) -> int:
        """How many files and links."""
        return sum(e.kind != "directory" for e in self.entries)


def read_tree(source: Path, root: Path | None = None) -> Tree:
    """Walk `source`; `root` is the workspace's root, wherever it lies.

    Raises SnapshotException where something cannot be read, or a link leads to a directory outside.
    """
    try:
        walk = _Walk(source, root)
        while walk.waiting:
            walk.visit(*walk.waiting.pop())
    except OSError as error:
        raise SnapshotException(
            f"{error.filename or source} cannot be read ({error.strerror}). Make it readable, or leave it out with a "
            f"line in {source / AMLIGNORE}."
        ) from error
    walk.entries.sort()
    return Tree(walk.entries, sorted(walk.left_out), sorted(walk.ignored))


def secret_name(name: str) -> bool:
    """Whether a file's name says that it holds a password, a token or a private key."""
    return SECRETS.fullmatch(name) is not None


def holds_private_key(name: str, head: bytes) -> bool:
    """Whether a file is a private key: it begins as one, or is named .pem or .key and has one anywhere in `head`."""
    if name.endswith((".pem", ".key")):
        return _PRIVATE_KEY.search(head, 0, KEY_BYTES) is not None
    return head[:1] in (b"-", b"P") and _PRIVATE_KEY.match(head) is not None


def secret_words(path: str) -> str:
    """The line that says so of a file left out as a secret."""
    return f'{path}: looks like a secret (a line "!{path}" in {AMLIGNORE} sends it all the same)'


class _Walk:
    """The state of one walk."""

    def __init__(self, source: Path, root: Path | None) -> None:
        self.source = os.path.realpath(source)
        self.root = _identity(root) if root else None
        if self.root and self.root == _identity(Path(self.source)):
            raise SnapshotException(
                f"{source} is the workspace's own root; put the scripts into a directory beside it."
            )
        self.waiting: list[tuple[str, tuple[Rules, ...]]] = [("", ())]
        self.entries: list[Entry] = []
        self.left_out: list[str] = []
        self.ignored: list[str] = []

    def visit(self, base: str, rules: tuple[Rules, ...]) -> None:
        """Take in one directory; `base` is its relative path with a "/" at its end, or empty for the top."""
        directory = os.path.join(self.source, base)
        with os.scandir(directory) as found:
            items = list(found)
        names = {item.name for item in items}
        if base and ("pyvenv.cfg" in names or "conda-meta" in names):
            self.ignored.append(f"{base}: a virtual environment")
            return
        if base:
            self.entries.append(Entry(base[:-1], "directory", 0, True, "", (), False))
        for name in (GITIGNORE, AMLIGNORE):
            file = os.path.join(directory, name)
            if name in names and os.path.isfile(file):
                rules = (read_rules(Path(file), len(base)), *rules)
        for item in items:
            self._take(item, base + item.name, rules)

    def _take(self, item: os.DirEntry[str], path: str, rules: tuple[Rules, ...]) -> None:
        """Decide on one directory entry."""
        is_link, is_directory = item.is_symlink(), item.is_dir(follow_symlinks=False)
        shown = path + "/" if is_directory else path
        if item.name in _NEVER:
            self.ignored.append(f"{shown}: {_NEVER[item.name]}")
        elif path in _OWN:
            self.left_out.append(f"{shown}: the job's own {path} folder takes its place")
        elif is_directory and item.name in SECRET_FOLDERS:
            self.left_out.append(f"{shown}: looks like secrets")
        elif (is_directory or is_link) and self.root and self.root == _identity(Path(item.path)):
            self.ignored.append(f"{shown}: the workspace's root")
        else:
            left_out, by = _verdict(rules, path, is_directory)
            asked = left_out is False and by == AMLIGNORE
            if not is_directory and secret_name(item.name) and not asked:
                self.left_out.append(secret_words(path))
            elif left_out:
                self.ignored.append(f"{shown}: {by}")
            elif is_directory:
                self.waiting.append((path + "/", rules))
            elif is_link:
                self._take_link(item, path, rules, asked)
            else:
                self._take_file(path, item.stat(follow_symlinks=False), asked)

    def _take_file(self, path: str, status: os.stat_result, asked: bool) -> None:
        """Take in a regular file; name anything else."""
        if not stat.S_ISREG(status.st_mode):
            self.left_out.append(f"{path}: neither a file nor a directory, but a {_kind(status.st_mode)}")
            return
        stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        executable = bool(status.st_mode & stat.S_IXUSR)
        self.entries.append(Entry(path, "file", status.st_size, executable, "", stamp, asked))

    def _take_link(self, item: os.DirEntry[str], path: str, rules: tuple[Rules, ...], asked: bool) -> None:
        """Take in a symbolic link."""
        target = os.readlink(item.path)
        parent = os.path.dirname(item.path)
        try:
            status: os.stat_result | None = os.stat(item.path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            status = None
        real = os.path.realpath(item.path)
        inside = real == self.source or real.startswith(self.source.rstrip("/") + "/")
        if inside and (status is not None or not os.path.isabs(target)) and real != item.path:
            self.entries.append(Entry(path, "link", 0, False, os.path.relpath(real, parent), (), asked))
        elif status is None:
            self.left_out.append(f"{path}: a link to {target}, which does not exist")
        elif not stat.S_ISDIR(status.st_mode):
            if secret_name(os.path.basename(real)) and not asked:
                self.left_out.append(secret_words(path))
            else:
                self._take_file(path, status, asked)
        elif _verdict(rules, path, True)[0]:
            self.ignored.append(f"{path}: {_verdict(rules, path, True)[1]}")
        elif os.path.isfile(os.path.join(real, "pyvenv.cfg")) or os.path.isdir(os.path.join(real, "conda-meta")):
            self.ignored.append(f"{path}: a virtual environment")
        else:
            raise SnapshotException(
                f"{item.path} is a link to the directory {real}, outside of {self.source}: the job would work on files "
                f"that no snapshot holds. Leave it out with a line {path!r} in {os.path.join(self.source, AMLIGNORE)} "
                f"and give the script the directory's path as an argument, or copy the directory into the source."
            )


def _verdict(rules: tuple[Rules, ...], path: str, is_directory: bool) -> tuple[bool | None, str]:
    """What the innermost ignore file that speaks of `path` says, and that file's name."""
    for one in rules:
        verdict = one.verdict(path, is_directory)
        if verdict is not None:
            return verdict, one.file
    return None, ""


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one directory share; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _kind(mode: int) -> str:
    """A special file's kind, in words."""
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISBLK, "disk"))
    return next((word for test, word in kinds if test(mode)), "device")
