"""What a training loop is told from outside its script: where to go on from, and what to write down.

All of it comes by environment variables, read here alone, so that it works under any launcher and by hand.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterator, Mapping, NamedTuple, Optional

from trainkit.errors import RunEnvironmentException

RESUME_FROM = "TRAINKIT_RESUME_FROM"  # a run's directory, a folder of checkpoints, or one checkpoint
TRACE = "TRAINKIT_TRACE"  # a folder: every rank writes there what each of its first steps computed
TRACE_STEPS = "TRAINKIT_TRACE_STEPS"
ATTEMPT = "TRAINKIT_ATTEMPT"
DEFAULT_TRACE_STEPS = 5


class Settings(NamedTuple):
    """Texts are empty where nothing was asked for."""

    resume_from: str = ""
    trace: str = ""
    trace_steps: int = DEFAULT_TRACE_STEPS
    attempt: int = 1  # how often the job was started, this time included


def settings_from(env: Mapping[str, str]) -> Settings:
    """The settings of an environment. Raises RunEnvironmentException where a number is none."""
    numbers = {TRACE_STEPS: DEFAULT_TRACE_STEPS, ATTEMPT: 1}
    for name in numbers:
        text = env.get(name, "")
        if text:
            if not text.isdigit() or int(text) < 1:
                raise RunEnvironmentException("%s=%r is no whole number of at least 1; unset it." % (name, text))
            numbers[name] = int(text)
    return Settings(env.get(RESUME_FROM, ""), env.get(TRACE, ""), numbers[TRACE_STEPS], numbers[ATTEMPT])


def settings() -> Settings:
    """The settings of this process."""
    return settings_from(os.environ)


@contextmanager
def resuming_from(path: Optional["os.PathLike[str]"]) -> Iterator[None]:
    """Loops that are fitted meanwhile go on from there; None changes nothing."""
    before = os.environ.get(RESUME_FROM)
    if path is not None:
        os.environ[RESUME_FROM] = os.fspath(path)
    try:
        yield
    finally:
        if path is not None:
            os.environ.pop(RESUME_FROM)
            if before is not None:
                os.environ[RESUME_FROM] = before


def in_job() -> bool:
    """Whether this process is a rank of a job."""
    from trainkit.boot.worlds import RUN_DIR

    return bool(os.environ.get(RUN_DIR))
