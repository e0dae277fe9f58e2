"""The head agent's sign of life, in a file: for a driver that shares its disk and has no other way to see it."""

from __future__ import annotations

import time
from contextlib import suppress

from trainkit.boot.attempts import overtaken
from trainkit.boot.part import Part
from trainkit.boot.rundir import AttemptDir, RunDir

SIGN_SECONDS = 2.0


class LifeSign(Part):
    """Writes the time into attempts/K/nodes/0.beat; ends a job that was given up."""

    def __init__(self, run: RunDir, attempt: AttemptDir) -> None:
        self._run, self._attempt, self._given = run, attempt, 0.0

    def step(self) -> None:
        """Give a sign, if it is time to."""
        now = time.monotonic()
        if now - self._given < SIGN_SECONDS:
            return
        self._given = now
        with suppress(OSError):  # a full disk
            self._attempt.beat.write_text("%.3f" % now)
        with suppress(OSError):  # of a shared disk: it is looked at again
            if overtaken(self._run, self._attempt):
                self.ended_by = "the job was started again without this node"
            elif self._run.state.exists():
                self.ended_by = "the run has ended without this job, which had been given up"
