"""Requirement lines as pip writes them: read from files, checked, and told apart by package name.

A line is a requirement ("timm>=1.0", "pkg @ file:///...") or one of a few options ("--find-links DIR"). Everything
that an environment needs is in the lines themselves, so that they can be stored, compared and given to the installer
as one file; nothing of them ever becomes a command line argument.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainkit.errors import UserErrorException

OPTIONS = ("--index-url", "--extra-index-url", "--find-links", "--no-index", "--no-binary", "--only-binary")
_SHORT = {"-i": "--index-url", "-f": "--find-links"}
_NAME = re.compile(r"^\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*(.*)$", re.DOTALL)
_AFTER_NAME = re.compile(r"^(?:$|[=<>!~;@(])")
_EXACT = re.compile(r"^={2,3}\s*([^\s,;*]+)\s*(?:;.*)?$")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
_MAX_DEPTH = 10


@dataclass(frozen=True)
class Requirement:
    """One line: `name` is normalised ("" for an option), `pin` the exact version asked for, or ""."""

    line: str
    name: str = ""
    specifier: str = ""
    pin: str = ""


def normalised(name: str) -> str:
    """A package's name as registries compare it: "Foo_Bar" and "foo-bar" are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(line: str) -> Requirement:
    """The meaning of one line; raises UserErrorException where it is none that can be installed."""
    text = line.strip()
    if not text or any(c in text for c in "\n\r\0"):
        raise UserErrorException(f"{line!r} is no pip requirement: give one package a string, such as 'timm>=1.0'.")
    if _CREDENTIALS.search(text) and "git@" not in text:
        raise UserErrorException(
            "A pip package's address holds a user name or password, and requirements are stored with the run. Take it "
            "out of the address: put the credentials into ~/.netrc, from where the installer reads them."
        )
    if text.startswith("-"):
        return Requirement(_option(text))
    match = _NAME.match(text)
    if match is None or not _AFTER_NAME.match(match[3]) or re.match(r"^=[^=]", match[3]):
        raise UserErrorException(
            f"{text!r} is no pip requirement: write 'name', 'name==1.2' or 'name @ address'; to install a local "
            "package write 'name @ file:///absolute/path'."
        )
    exact = _EXACT.match(match[3])
    return Requirement(text, normalised(match[1]), match[3].strip(), exact[1] if exact else "")


def _option(text: str) -> str:
    """An option line with its long name; refuses those that would reach outside the environment."""
    head, value = re.match(r"^([^\s=]+)[\s=]?(.*)$", text).groups()  # type: ignore[union-attr]
    name = _SHORT.get(head, head)
    if name not in OPTIONS:
        raise UserErrorException(
            f"The pip option {head!r} is not possible here; possible are {', '.join(OPTIONS)}. Instead of '-r FILE' "
            "use pip_requirements_file=, instead of '-e DIR' copy the package into the source directory."
        )
    if not value.strip() and name != "--no-index":
        raise UserErrorException(f"The pip option {head!r} needs a value, as in '{head} VALUE'.")
    return f"{name} {value.strip()}".strip()


def read_file(path: Path) -> list[str]:
    """The lines of a requirements file, with those it includes by -r; paths in it become absolute.

    Raises UserErrorException naming file and line where one cannot be used.
    """
    return list(_read(path, ()))


def _read(path: Path, seen: tuple[Path, ...]) -> Iterator[str]:
    if path in seen or len(seen) > _MAX_DEPTH:
        raise UserErrorException(f"The pip requirements file {path} includes itself.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise UserErrorException(f"The pip requirements file {path} cannot be read: {e}.") from e
    for number, line in _logical_lines(text):
        try:
            yield from _one(line, path, seen)
        except UserErrorException as e:
            raise UserErrorException(f"{path}, line {number}: {e.message}") from e


def _one(line: str, path: Path, seen: tuple[Path, ...]) -> Iterator[str]:
    included = re.match(r"^(?:-r|--requirement)[\s=]+(.+)$", line)
    if included:
        yield from _read((path.parent / included[1].strip()).resolve(), (*seen, path))
        return
    folder = re.match(r"^(?:-f|--find-links)[\s=]+(.+)$", line)
    if folder and "://" not in folder[1]:
        line = f"--find-links {(path.parent / folder[1].strip()).resolve()}"
    yield parse(line).line


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their number, without comments, and with those that end in a backslash joined."""
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start if pending else number
        line = re.sub(r"(^|\s)#.*$", "", line)
        if line.endswith("\\"):
            pending += line[:-1].strip() + " "
            continue
        whole, pending = (pending + line.strip()).strip(), ""
        if whole:
            yield start, whole
    if pending.strip():
        yield start, pending.strip()


def check(lines: Iterable[object], what: str = "pip_packages") -> tuple[str, ...]:
    """The lines, each checked; a package named twice is refused unless both lines are the same."""
    if isinstance(lines, (str, bytes)):
        raise UserErrorException(f"{what} is a list of strings, such as ['timm>=1.0'], not {lines!r}.")
    result: dict[str, None] = {}
    by_name: dict[str, Requirement] = {}
    for line in lines:
        if not isinstance(line, str):
            raise UserErrorException(f"{what} holds strings, such as 'timm>=1.0', but {line!r} is none.")
        requirement = parse(line)
        before = by_name.setdefault(requirement.name, requirement) if requirement.name else requirement
        if before.line != requirement.line and ";" not in before.line + requirement.line:
            raise UserErrorException(f"{what} asks for both {before.line!r} and {requirement.line!r}; keep one.")
        result[_absolute(requirement.line)] = None
    return tuple(result)


def links_folder(line: str) -> str:
    """The folder of this machine that the option --find-links names; "" for any other line."""
    match = re.match(r"^--find-links (file://(?:localhost)?)?(/.*)$", line)
    if match is None:
        return ""
    return urllib.parse.unquote(match[2]) if match[1] else match[2]


def _absolute(line: str) -> str:
    """A folder of packages by its absolute path, since the installer works elsewhere."""
    option, _, value = line.partition(" ")
    if option != "--find-links" or "://" in value:
        return line
    return f"{option} {Path(value).resolve()}"
