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

from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.engines import ImageEngine
from trainkit.prepare.installer import Installer

_PATIENCE_SECONDS = {"podman": 30.0}  # to end a build without leaving anything; a daemon sees to that by itself
_STOP_SECONDS = 60.0
_LINES = 60

# docker without BuildKit: "Step 3/5 : RUN x"; podman: "STEP 3/5: RUN x"; BuildKit: "#7 [2/3] RUN x", "#7 [stage 2/3] …"
_STEP = re.compile(r"^(?:\[\d+/\d+\] )?(?:Step|STEP) (\d+)/(\d+) ?: (.*)$")
_KIT_STEP = re.compile(r"^#(\d+) \[(?:\S+ )?(\d+)/(\d+)\] (.*)$")
_KIT_ERROR = re.compile(r"^#(\d+) ERROR:? (.*)$")
_KIT_SAID = re.compile(r"^#(\d+) \d+\.\d+ (.*)$")  # only what a step prints has its time
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


def verdict(output: str, has_context: bool) -> str:
    """Which step of a build failed, and the last that it said."""
    number, total, step, said = failing_step(output)
    reason = said or "see what it printed"
    if not step:
        return f"The image could not be built: {reason.rstrip('.')}."
    text = f"The image could not be built: step {number} of {total}, {step!r}, failed: {reason.rstrip('.')}."
    if step.split(None, 1)[0].upper() in ("COPY", "ADD") and not has_context:
        text += " There is no build context, so no file of this machine can be copied: set docker.build_context."
    return text


def failing_step(output: str) -> tuple[str, str, str, str]:
    """The number of the step that failed, how many there are, the step, and the last line that it printed itself."""
    lines = _COLOURS.sub("", output).splitlines()
    failed = next((match for line in reversed(lines) if (match := _KIT_ERROR.match(line))), None)
    if failed is not None:
        return _failing_kit_step(lines, failed[1], failed[2])
    step, last = ("", "", ""), ""
    for line in lines:
        begun = _STEP.match(line)
        if begun:
            step, last = (begun[1], begun[2], begun[3]), ""
        elif not _NOISE.match(line):
            last = line.strip()
    if not last:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return (*step, last.partition(f'building at STEP "{step[2]}": ')[2] or last)


def _failing_kit_step(lines: list[str], number: str, error: str) -> tuple[str, str, str, str]:
    """The same for BuildKit, which numbers what it does, and lets it run side by side."""
    step, last = ("", "", ""), ""
    for line in lines:
        begun, said = _KIT_STEP.match(line), _KIT_SAID.match(line)
        if begun and begun[1] == number:
            step = (begun[2], begun[3], begun[4])
        elif said and said[1] == number:
            last = said[2].strip() or last
    return (*step, last or error)
