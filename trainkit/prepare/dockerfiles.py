"""A Dockerfile's outside images: found, and replaced by the ones that their names were resolved to. Pure text.

Only what says where images come from is understood: FROM with the ARGs before the first, and --from of COPY, ADD and
of RUN's mounts. Everything else is the engine's, and is passed on as it is.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trainkit.errors import UserErrorException

_DIRECTIVE = re.compile(r"^#\s*(\w+)\s*=\s*(\S+)\s*$")
_FROM = re.compile(r"^FROM\s+(?:--platform=(\S+)\s+)?([^\s-]\S*)(?:\s+AS\s+(\S+))?$", re.IGNORECASE)
_ARG = re.compile(r"""([A-Za-z_]\w*)(?:=("[^"]*"|'[^']*'|\S*))?""")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?:(:?[-+])([^}]*))?\}|(\w+))")
_COPIED = re.compile(r"(?<=\s)--from=(\S+)")
_MOUNTED = re.compile(r"(?<=\s)--mount=\S*?\bfrom=([^\s,]+)")
_HEREDOC = re.compile(r"(?<!<)<<(-?)(['\"]?)([A-Za-z_]\w*)\2")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class _Statement:
    """One instruction: its lines, and its text with continued lines joined."""

    first: int
    end: int  # the line after its last
    text: str

    @property
    def word(self) -> str:
        return self.text.split(None, 1)[0].upper()


@dataclass(frozen=True)
class _Place:
    """Where a Dockerfile names an image that it does not make itself."""

    statement: _Statement
    image: str  # with ARGs filled in
    written: str
    stage: str  # what FROM calls it; "" for a name in --from


def images_in(text: str) -> list[str]:
    """The names of the images that a Dockerfile builds on or copies from, each once.

    Raises UserErrorException that names the line, where it cannot be told which image is meant.
    """
    return list(dict.fromkeys(place.image for place in _places(text)))


def with_images(text: str, images: Mapping[str, str]) -> str:
    """The Dockerfile with each image's name replaced; every line keeps its number."""
    lines = text.splitlines()
    for place in _places(text):
        first, end = place.statement.first, place.statement.end
        new = images[place.image]
        if place.statement.word == "FROM":
            stage = f" AS {place.stage}" if place.stage else ""
            lines[first:end] = [f"FROM {new}{stage}", *[""] * (end - first - 1)]
        else:
            old = re.compile(rf"(?<=\bfrom=){re.escape(place.written)}(?=[\s,]|$)")
            lines[first:end] = [old.sub(new, line) for line in lines[first:end]]
    return "\n".join(lines) + "\n"


def _places(text: str) -> list[_Place]:
    places: list[_Place] = []
    arguments: dict[str, str | None] = {}
    stages: list[str] = []
    for statement in _statements(text):
        if statement.word == "ARG" and not stages:
            arguments.update(_arguments(statement, arguments))
        elif statement.word == "FROM":
            place = _base(statement, arguments)
            if place.image.lower() not in stages and place.image != "scratch":
                places.append(place)
            stages.append(place.stage.lower() or str(len(stages)))
        elif statement.word in ("COPY", "ADD", "RUN"):
            for found in (_MOUNTED if statement.word == "RUN" else _COPIED).findall(statement.text):
                if found.lower() not in stages and not found.isdigit():
                    places.append(_Place(statement, found, found, ""))
    if not stages:
        raise UserErrorException("The Dockerfile has no FROM: its first line says which image it builds on.")
    return places


def _base(statement: _Statement, arguments: Mapping[str, str | None]) -> _Place:
    """What a FROM builds on."""
    number = statement.first + 1
    match = _FROM.match(statement.text.strip())
    if match is None:
        raise UserErrorException(
            f"Line {number} of the Dockerfile is not understood: {statement.text.strip()!r}. Write FROM IMAGE, or FROM "
            "IMAGE AS STAGE."
        )
    machine = "linux/" + _MACHINES.get(platform.machine(), platform.machine())
    if match[1] and match[1] not in (machine, "$BUILDPLATFORM", "${BUILDPLATFORM}", "$TARGETPLATFORM"):
        raise UserErrorException(
            f"Line {number} of the Dockerfile asks for the platform {match[1]}, but this machine is {machine} and "
            "trainkit builds for no other: leave --platform out."
        )
    return _Place(statement, _filled(match[2], arguments, number), match[2], match[3] or "")


def _arguments(statement: _Statement, known: Mapping[str, str | None]) -> dict[str, str | None]:
    """What an ARG before the first FROM defines; None for one without a default."""
    found: dict[str, str | None] = {}
    for name, value in _ARG.findall(statement.text.split(None, 1)[1] if " " in statement.text else ""):
        plain = value.strip("\"'")
        has_value = bool(value) or f"{name}=" in statement.text
        found[name] = _filled(plain, {**known, **found}, statement.first + 1) if has_value else known.get(name)
    return found


def _filled(text: str, arguments: Mapping[str, str | None], number: int) -> str:
    """A text with its variables' values. Raises UserErrorException for one without."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match[1] or match[4], match[2] or "", match[3] or ""
        known = arguments.get(name)
        is_set = bool(known) if operator.startswith(":") else known is not None
        if operator.endswith("+"):
            return word if is_set else ""
        if is_set:
            return str(known)
        if operator.endswith("-"):
            return word
        raise UserErrorException(
            f"Line {number} of the Dockerfile uses ${name}, which has no value there: give it one before the first "
            f"FROM, as in 'ARG {name}=value', or write the image's name out."
        )

    return _VARIABLE.sub(value, text.strip("\"'"))


def _statements(text: str) -> Iterator[_Statement]:
    """The instructions, without comments, and without what here-documents hold."""
    lines = text.splitlines()
    escape, number = "\\", 0
    while number < len(lines) and (directive := _DIRECTIVE.match(lines[number])):
        escape = directive[2] if directive[1].lower() == "escape" else escape
        number += 1
    while number < len(lines):
        first, parts = number, list[str]()
        while number < len(lines):
            line = lines[number].strip()
            number += 1
            if not line or line.startswith("#"):
                if parts:
                    continue  # a comment within an instruction
                break
            parts.append(line.removesuffix(escape).strip())
            if not line.endswith(escape):
                break
        if not parts:
            continue
        joined = " ".join(parts)
        if joined.split(None, 1)[0].upper() in ("RUN", "COPY", "ADD"):
            number = _after_heredocs(joined, lines, number)
        yield _Statement(first, number, joined)


def _after_heredocs(text: str, lines: list[str], number: int) -> int:
    """The line after the here-documents that an instruction begins."""
    for dash, _, word in _HEREDOC.findall(text):
        for end in range(number, len(lines)):
            if (lines[end].lstrip("\t") if dash else lines[end]).rstrip() == word:
                number = end + 1
                break
    return number
