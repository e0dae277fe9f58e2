"""Builds an image from a Dockerfile's text, and says which step failed, and why, where one does.

Writes a temporary folder, which goes again, and into the engine's store. What the Dockerfile builds on has to be there
under the names that it uses.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.engines import ImageEngine
from trainkit.prepare.installer import Installer
from trainkit.sentences import last_line

_PATIENCE_SECONDS = {"podman": 30.0}  # to end a build without leaving anything; a daemon sees to that by itself
_STOP_SECONDS = 60.0
_LINES = 60
_LAST_LINES, _LINE_CHARACTERS = 5, 240  # of what a step printed, in a verdict

# docker without BuildKit: "Step 3/5 : RUN x"; podman: "STEP 3/5: RUN x"; BuildKit: "#7 [2/3] RUN x", "#7 [stage 2/3] …"
_STEP = re.compile(r"^(?:\[\d+/\d+\] )?(?:Step|STEP) (\d+)/(\d+) ?: (.*)$")
_KIT_STEP = re.compile(r"^#(\d+) \[(?:\S+ )?(\d+)/(\d+)\] (.*)$")
_KIT_ERROR = re.compile(r"^#(\d+) ERROR:? (.*)$")
_KIT_SAID = re.compile(r"^#(\d+) \d+\.\d+ (.*)$")  # only what a step prints has its time
_STATUS = re.compile(
    r"(?:^The command '.* returned a non-zero code|^Error: .*exit status|^subprocess exited with status|exit code)"
    r":? (\d+)$"
)
_NOISE = re.compile(
    r"Removing intermediate container|The command '|subprocess exited with status| ---> |-->|"
    r"Error: (?:error )?building at STEP|Error: error while running runtime|exit status \d+$|level=|time=|WARNING|$"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def build_image(
    engine: ImageEngine, kind: str, dockerfile: str, context: Path | None, tag: str, installer: Installer
) -> str:
    """The id of the image that `dockerfile` makes, which also gets the name `tag`.

    Raises EnvironmentBuildError with the step that failed; where it is cancelled, nothing of the build stays.
    """
    with tempfile.TemporaryDirectory(prefix="trainkit-") as folder:
        work = Path(folder)
        (work / "Dockerfile").write_text(dockerfile, encoding="utf-8", errors="surrogateescape")
        (work / "empty").mkdir()
        argv = engine.build(str(work / "Dockerfile"), str(context or work / "empty"), tag, str(work / "id"))
        patience = _PATIENCE_SECONDS.get(kind, 0.0)
        watched = [sys.executable, "-m", "trainkit.ending", str(os.getpid()), str(patience), *argv]
        result = installer.run(watched, work, stop_seconds=_STOP_SECONDS)
        if result.code:
            raise EnvironmentBuildError(verdict(result.output, context is not None), tail(result.output))
        try:
            return (work / "id").read_text(encoding="ascii").strip()
        except OSError as error:
            raise EnvironmentBuildError(
                f"{kind} built an image, but did not say which: {error}.", tail(result.output)
            ) from error


def tail(output: str) -> str:
    """The last of what a builder printed."""
    return "\n".join(output.splitlines()[-_LINES:])


class FailedStep(NamedTuple):
    """The step of a build that failed; all empty but `said` where the build came to none."""

    number: str
    total: str  # how many steps there are
    words: str  # the step itself
    status: str  # of the command that it ran; empty for other steps
    said: tuple[str, ...]  # the last lines that it printed itself; else the builder's last, unless there is a status


def verdict(output: str, has_context: bool) -> str:
    """Which step of a build failed, how, and the last that it said."""
    step = failing_step(output)
    reason = " | ".join(line[:_LINE_CHARACTERS] for line in step.said).rstrip(".")
    if not step.words:
        return f"The image could not be built: {reason or 'see what it printed'}."
    failed = "failed" + (f" with exit status {step.status}" if step.status else "") + (f": {reason}" if reason else "")
    text = f"The image could not be built: step {step.number} of {step.total}, {step.words!r}, {failed}."
    if step.words.split(None, 1)[0].upper() in ("COPY", "ADD") and not has_context:
        text += " There is no build context, so no file of this machine can be copied: set docker.build_context."
    return text


def failing_step(output: str) -> FailedStep:
    """The step that failed, by what a builder printed."""
    lines = _COLOURS.sub("", output).splitlines()
    failed = next((match for line in reversed(lines) if (match := _KIT_ERROR.match(line))), None)
    if failed is not None:
        return _failing_kit_step(lines, failed[1], failed[2])
    step, said = ("", "", ""), [""]
    for line in lines:
        begun = _STEP.match(line)
        if begun:
            step, said = (begun[1], begun[2], begun[3]), []
        elif not _NOISE.match(line):
            said.append(line.strip())
    status = next((match[1] for line in reversed(lines) if _NOISE.match(line) and (match := _STATUS.search(line))), "")
    if not any(said) and not status:
        last = last_line("\n".join(lines))
        said = [last.partition(f'building at STEP "{step[2]}": ')[2] or last]
    return FailedStep(*step, status if step[2] else "", _last_of(said))


def _failing_kit_step(lines: list[str], number: str, error: str) -> FailedStep:
    """The same for BuildKit, which numbers what it does, and lets it run side by side."""
    step, lines_said = ("", "", ""), []
    for line in lines:
        begun, said = _KIT_STEP.match(line), _KIT_SAID.match(line)
        if begun and begun[1] == number:
            step = (begun[2], begun[3], begun[4])
        elif said and said[1] == number:
            lines_said.append(said[2].strip())
    status = _STATUS.search(error)
    if not any(lines_said) and not status:
        lines_said = [error]
    return FailedStep(*step, status[1] if status else "", _last_of(lines_said))


def _last_of(lines: list[str]) -> tuple[str, ...]:
    return tuple([line for line in lines if line][-_LAST_LINES:])
