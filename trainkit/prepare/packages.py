"""Packages into an environment, with uv: builds only, and sources where there is no other way.

An environment that stands on another interpreter's packages gets only what differs from them: while uv installs, their
records lie among its own (`trainkit.prepare.layer.seen`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from trainkit.errors import EnvironmentBuildError
from trainkit.prepare import locks
from trainkit.prepare.base import Base, base_of
from trainkit.prepare.installer import Installer, uv
from trainkit.prepare.verdicts import explain, without_build
from trainkit.requirements import normalised, parse

_INSTALLED = re.compile(r"^ \+ (\S+?)==(\S+)(?: \(from (.*)\))?$", re.MULTILINE)
_QUIET = ("--color", "never", "--no-progress")
_MOST_FROM_SOURCE = 20


class Packages:
    """Installs requirement lines into the environment of `interpreter`; `work` is a folder for uv's files."""

    def __init__(self, installer: Installer, lines: Sequence[str], interpreter: str, work: Path) -> None:
        self.installer = installer
        self.interpreter = interpreter
        self.work = work
        parsed = [parse(line) for line in lines]
        self.options = [r.line for r in parsed if not r.name]
        self.requirements = [r for r in parsed if r.name]
        self.from_source = [normalised(o.split()[1]) for o in self.options if o.startswith("--no-binary ")]

    @cached_property
    def base(self) -> Base:
        """The facts of the interpreter."""
        return base_of(self.interpreter)

    def install(self) -> list[str]:
        """All that is asked for and not there, with its needs; returns the exact lines of what was installed."""
        lines = [r.line for r in self.requirements]
        own = {r.name for r in self.requirements}
        while True:
            argv = self._argv(["install", "--python", self.interpreter, *self._sources()], lines)
            result = self.installer.run(argv, self.work)
            if result.code == 0:
                found = _INSTALLED.findall(result.output)
                return [f"{name} @ {url}" if url else f"{name}=={version}" for name, version, url in found]
            names = [n for n in without_build(result.output) if n not in self.from_source]
            if not names or len(self.from_source) + len(names) > _MOST_FROM_SOURCE:
                break
            if any(name in own and self.lowest_build(name) for name in names):
                break  # builds are published: another version is quicker, and surer, than a compiler
            self.installer.say(f"{', '.join(names)}: there is no build of what is needed; building from source.")
            self.from_source += names
        raise EnvironmentBuildError(explain(result.output, self), result.output)

    def locked(self, exact: Sequence[str]) -> str:
        """Exact lines as a requirements file of their own, with the hashes that their source tells.

        What the installer has just read of the source is in its cache, so that nobody is asked.
        """
        options = [option for option in self.options if not option.startswith(("--no-binary", "--only-binary"))]
        options += ["--only-binary :all:", *(f"--no-binary {name}" for name in dict.fromkeys(self.from_source))]
        argv = ["compile", "--quiet", "--offline", "--no-deps", "--generate-hashes", "--no-header", "--no-annotate"]
        argv = self._argv([*argv, "--python", self.interpreter, *self._sources()], exact)
        result = self.installer.ask(argv, self.work) if exact else None
        lines = result.output.splitlines() if result and result.code == 0 else sorted(exact)
        return "\n".join([*options, *locks.with_hashes(lines, self.options)]) + "\n"

    def install_lock(self, text: str, offline: bool) -> bool:
        """Install what a lock names, all or nothing; False where that cannot be."""
        file = self.work / locks.PIP
        file.write_text(text, encoding="utf-8")
        words = ["--no-deps", "--python", self.interpreter, *(["--offline"] if offline else []), "-r", str(file)]
        return self.installer.run([uv(), "pip", "install", *_QUIET, *words], self.work).code == 0

    def has_build(self, requirement: str) -> bool:
        """Whether some version that the line allows has a build for this interpreter."""
        return bool(self._resolved(requirement, "highest"))

    def lowest_build(self, name: str, above: str = "") -> str:
        """The lowest version (above another) that has a build for this interpreter, or ""."""
        return self._resolved(f"{name}>{above}" if above else name, "lowest")

    def newest_build(self, name: str) -> str:
        """The highest version that has a build for this interpreter, or ""."""
        return self._resolved(name, "highest")

    def _resolved(self, line: str, resolution: str) -> str:
        plain = ("--no-deps", "--no-header", "--no-annotate", "--resolution", resolution)
        argv = self._argv(["compile", *plain, "--python", self.interpreter, "--only-binary", ":all:"], [line])
        result = self.installer.ask(argv, self.work)
        match = re.search(r"^[\w.-]+==(\S+)", result.output, re.MULTILINE)
        return match[1] if result.code == 0 and match else ""

    def _sources(self) -> list[str]:
        words = ["--only-binary", ":all:"]
        for name in self.from_source:
            words += ["--no-binary", name]
        return words

    def _argv(self, words: Sequence[str], lines: Sequence[str]) -> list[str]:
        """`uv pip WORDS` with the lines in a file, so that none can become an option."""
        file = self.work / "requirements.txt"
        file.write_text("\n".join([*self.options, *lines]) + "\n", encoding="utf-8")
        target = [str(file)] if words[0] == "compile" else ["-r", str(file)]
        return [uv(), "pip", words[0], *_QUIET, *words[1:], *target]
