"""What a directory's .gitignore and .amlignore files say of a path, exactly as git reads them.

A pattern here matches a path itself, never what lies below it: the walk (`trainkit.tree`) does not enter a directory
that is left out, which is also git's rule that nothing below such a directory can be taken back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from trainkit.errors import SnapshotException

GITIGNORE, AMLIGNORE = ".gitignore", ".amlignore"  # read in this order: the second has the last word

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
_NAMED_CLASS = re.compile(r"\[:(\w+):\]")


class Pattern(NamedTuple):
    """One line of an ignore file."""

    keeps: bool  # the line began with "!"
    directories_only: bool
    whole_path: bool  # else the pattern is compared with a path's last name alone
    regex: re.Pattern[str]


class Rules(NamedTuple):
    """The patterns of one ignore file; paths are relative to the directory that holds it."""

    base: int  # how many characters of a path lead to that directory
    file: str  # the file's own name
    patterns: tuple[Pattern, ...]

    def verdict(self, path: str, is_directory: bool) -> bool | None:
        """True: leave `path` out; False: keep it, a line says so; None: no line speaks of it."""
        relative = path[self.base :]
        name = relative.rpartition("/")[2]
        for pattern in reversed(self.patterns):
            if (is_directory or not pattern.directories_only) and pattern.regex.fullmatch(
                relative if pattern.whole_path else name
            ):
                return not pattern.keeps
        return None


def read_rules(file: Path, base: int) -> Rules:
    """The rules of one ignore file. Raises SnapshotException where it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise SnapshotException(
            f"{file} cannot be read ({error.strerror}), so what to leave out is unknown."
        ) from error
    found = (parse_line(line) for line in text.split("\n"))
    return Rules(base, file.name, tuple(pattern for pattern in found if pattern is not None))


def parse_line(line: str) -> Pattern | None:
    """One line's pattern; None where it is empty, a comment, or something that git lets match nothing."""
    line = _without_trailing_spaces(line[:-1] if line.endswith("\r") else line)
    if not line or line.startswith("#"):
        return None
    keeps = line.startswith("!")
    line = line[keeps:]
    directories_only = line.endswith("/")
    line = line[: -1 if directories_only else None]
    whole_path = "/" in line
    text = translate(line[1:] if line.startswith("/") else line, whole_path)
    if not line or text is None:
        return None
    return Pattern(keeps, directories_only, whole_path, re.compile(text, re.DOTALL))


def _without_trailing_spaces(line: str) -> str:
    """`line` without the spaces at its end that no backslash protects."""
    stripped = line.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and stripped != line else stripped


def translate(glob: str, whole_path: bool = True) -> str | None:
    """A glob in git's language as a regular expression for the full text; None where it can match nothing."""
    parts: list[str] = []
    plain = len(re.split(r"[*?\[\\]", glob, maxsplit=1)[0])  # git compares this much as text, the rest as a new glob
    i = 0
    while i < len(glob):
        character = glob[i]
        if character == "*":
            end = i + len(glob[i:]) - len(glob[i:].lstrip("*"))
            starts, ends = i == plain or glob[i - 1] == "/", end == len(glob) or glob[end] == "/"
            if whole_path and end - i >= 2 and starts and ends:
                parts.append("(?:.*/)?" if end < len(glob) else ".*")
                i = end + 1
                continue
            parts.append("[^/]*")
            i = end
            continue
        if character == "[":
            found = _bracket(glob, i)
            if found is None:
                return None
            text, i = found
            parts.append(text)
            continue
        if character == "\\":
            i += 1
            if i == len(glob):
                return None
            character = re.escape(glob[i])
        else:
            character = "[^/]" if character == "?" else re.escape(character)
        parts.append(character)
        i += 1
    return "".join(parts)


def _bracket(glob: str, start: int) -> tuple[str, int] | None:
    """The set that begins at `start` as a regular expression, and where it ends; None where it never does."""
    i = start + 1
    negated = glob[i : i + 1] in ("!", "^")
    i += negated
    first, members, low = i, "", ""  # `low`: the character that a "-" after it makes a range of
    while i < len(glob) and (glob[i] != "]" or i == first):
        named = _NAMED_CLASS.match(glob, i)
        if named:
            if named[1] not in _CLASSES:
                return None
            members, low, i = members + _CLASSES[named[1]], "", named.end()
            continue
        is_range = glob[i] == "-" and low != "" and glob[i + 1 : i + 2] not in ("", "]")
        i += is_range
        if glob[i] == "\\":
            i += 1
        character = glob[i : i + 1]
        if not is_range:
            members, low = members + re.escape(character), character
        else:  # a range from high to low is only its beginning, which is there already
            members += f"{re.escape(low)}-{re.escape(character)}" if low <= character else ""
            low = ""
        i += 1
    if i >= len(glob):
        return None
    return f"(?!/)[{'^' if negated else ''}{members}]", i + 1
