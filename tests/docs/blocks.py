"""The code blocks of a page of documentation, and what their fences ask for. The convention is in CONTRIBUTING.md."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

RUNNABLE = ("python", "bash", "console")
_OPTIONS = ("file", "exit", "raises")
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: its text and where the text's first line is."""

    page: Path
    line: int
    language: str
    text: str
    output: bool = False  # shown, not run
    options: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether a test executes it, or writes it as a file."""
        return "file" in self.options or (self.language in RUNNABLE and not self.output)


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of `page`, in order. Raises ValueError where a fence says what the convention doesn't know."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, start, lines = fence, number + 1, []
        elif opened is not None and fence and len(fence["ticks"]) >= len(opened["ticks"]) and not fence["info"].strip():
            found.append(_block(page, start, opened["info"], lines))
            opened = None
        elif opened is not None:
            lines.append(line.removeprefix(opened["indent"]))
    if opened is not None:
        raise ValueError(f"{page}:{start - 1}: this block is not closed")
    return found


def _block(page: Path, line: int, info: str, lines: list[str]) -> Block:
    words = shlex.split(info)
    language = words[0] if words else ""
    options: dict[str, str] = {}
    output = False
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if word == "output":
            output = True
        elif equals and name in _OPTIONS:
            options[name] = value
        else:
            raise ValueError(f"{page}:{line - 1}: {word!r} after {language!r}; possible: output, file=, exit=, raises=")
    if not language:
        raise ValueError(f"{page}:{line - 1}: name this block's language; `text` is for output")
    return Block(page, line, language, "\n".join(lines) + "\n", output, options)


def commands(text: str) -> list[str]:
    """The commands of a console block: what follows `$ `, with its continuation lines; all else is output."""
    found: list[str] = []
    continued = False
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif continued:
            found[-1] += "\n" + line.removeprefix("> ")
        else:
            continue
        continued = found[-1].endswith("\\")
    return found
