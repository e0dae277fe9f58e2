"""Which container engine prepares and runs a job's image, and what preparation needs an engine to be able to do.

Asks engines whether they answer; starts nothing that stays.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainkit.boot.plugins import ENGINES, engine, found
from trainkit.errors import UnsupportedJob
from trainkit.job import Engine

__all__ = ["Answer", "ImageEngine", "ask", "choose_engine", "image_engine"]

PREFERRED = ("docker", "podman", "apptainer")  # in this order, where nobody names one
ASK_SECONDS = 60.0  # for a question about what is in the engine's store
ANSWER_SECONDS = 10.0  # a daemon that is being started by its socket takes a while
_LINES = 3  # of what an engine says, in an error
_WITHOUT_ROOT = "rootlesskit"  # a part of docker's daemon
_REMEDY = (
    " Install docker or podman, start docker's daemon and see that this user may use it, or take the image out of the "
    "environment to run on this machine's Python."
)


class ImageEngine(Engine, Protocol):
    """An engine that can also fetch and build images."""

    def version(self) -> list[str]:
        """Print the engine's version, as the first word; fails where the engine does not answer."""
        ...

    def pull(self, image: str, access: Sequence[str] = ()) -> list[str]:
        """Ask the image's registry for it, and fetch what is not here; `access` are words that say as whom."""
        ...

    def tag(self, image: str, name: str) -> list[str]:
        """Give an image one more name."""
        ...

    def untag(self, name: str) -> list[str]:
        """Take a name from an image, and the image where that was its last."""
        ...

    def build(self, dockerfile: str, context: str, name: str, id_file: str) -> list[str]:
        """Build an image, name it, and write its id to `id_file`."""
        ...

    def probe(self, image: str, program: str, arguments: Sequence[str]) -> list[str]:
        """Run one program of an image to see what it prints."""
        ...


@dataclass(frozen=True)
class Answer:
    """How a short question to an engine ended."""

    code: int
    output: str
    error: str

    @property
    def words(self) -> str:
        """The last of what the engine said, in one line."""
        lines = [line.strip() for line in (self.error or self.output).splitlines() if line.strip()]
        return " ".join(lines[-_LINES:])


def ask(argv: Sequence[str], seconds: float) -> Answer:
    """Run a command to its end; one that cannot be run or takes too long has failed, and says so."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        return Answer(127, "", f"{argv[0]} cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"{argv[0]} did not answer within {seconds:.0f} s")
    return Answer(done.returncode, done.stdout, done.stderr)


def image_engine(name: str) -> ImageEngine:
    """The engine of this name. Raises UnsupportedJob where it is not installed, or cannot prepare images."""
    chosen = engine(name)
    if not _prepares(chosen):
        raise UnsupportedJob(f"{_only_runs(name)} Ask for docker or podman.")
    return chosen  # type: ignore[return-value]  # it has just been looked at


def _prepares(chosen: Engine) -> bool:
    return all(hasattr(chosen, needed) for needed in ("version", "pull", "tag", "untag", "build", "probe"))


def _only_runs(name: str) -> str:
    return f"trainkit knows how {name} runs images, but neither fetches nor builds them with it."


def choose_engine(asked: str | None = None) -> str:
    """The name of the engine to use: `asked`, or the first that is there and answers.

    Raises UnsupportedJob that says what was asked, what was found, and what to do.
    """
    installed = found(ENGINES)
    if asked:
        if asked not in installed:
            raise UnsupportedJob(
                f"There is no container engine named {asked!r}: trainkit knows {', '.join(sorted(installed))}."
            )
        problem = _problem(asked)
        if problem:
            others = [name for name in _known(installed) if name != asked and not _problem(name)]
            instead = f" {' and '.join(others)} would do: name it, or leave the engine out." if others else _REMEDY
            raise UnsupportedJob(f"The job asks for the container engine {asked}, but {problem}{instead}")
        return asked
    problems = []
    for name in _known(installed):
        problem = _problem(name)
        if not problem:
            return name
        problems.append(problem)
    raise UnsupportedJob(f"The job runs in a container, but no engine answers here: {' '.join(problems)}{_REMEDY}")


def _known(installed: Iterable[str]) -> list[str]:
    """The engines by preference; a stranger's come last, in the order of their names."""
    names = sorted(installed)
    return [name for name in PREFERRED if name in names] + [name for name in names if name not in PREFERRED]


def _problem(name: str) -> str:
    """Why an engine cannot be used, as a sentence; "" for one that answers."""
    chosen = engine(name)
    if shutil.which(chosen.program) is None:
        return f"{chosen.program} is not on the PATH."
    if not _prepares(chosen):
        return _only_runs(name)
    answer = ask(image_engine(name).version(), ANSWER_SECONDS)
    if answer.code == 0:
        version, *parts = answer.output.split() or [""]
        if name == "docker" and _WITHOUT_ROOT in parts:
            return "docker's daemon runs without root here, where containers cannot have your user's ids."
        return _too_old(name, version)
    return f"{chosen.program} does not answer ({answer.words.rstrip('.') or 'it said nothing'})."


def _too_old(name: str, version: str) -> str:
    """Why a version will not do, as a sentence; "" for one that does."""
    oldest = {"docker": (20, 10), "podman": (4, 0)}.get(name)
    try:
        parts = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return ""
    if oldest is None or parts >= oldest:
        return ""
    return f"{name} {version} is too old: {oldest[0]}.{oldest[1]} or later is needed."
