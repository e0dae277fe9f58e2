"""What an attempt is started with: what its ranks are told of their run, its agents' key; its pulse."""

from __future__ import annotations

import os
import time
from pathlib import Path

from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.job import Job

SILENCE_SECONDS = 20.0  # of a head that gave signs of life before


def environment(run: RunDir, root: Path, job: Job) -> dict[str, str]:
    """What every rank is told about its run, beside the user's own variables."""
    record = read_json(run.run) or {}
    workspace = record.get("workspace") or {}
    return {
        **job.environment,
        "TRAINKIT_ROOT": str(root),
        "AZUREML_ARM_WORKSPACE_NAME": str(workspace.get("name", "")),
        "AZUREML_WORKSPACE_ID": str(workspace.get("name", "")),
        "AZUREML_ARM_SUBSCRIPTION": str(workspace.get("subscription_id", "")),
        "AZUREML_ARM_RESOURCEGROUP": str(workspace.get("resource_group", "")),
    }


def write_key(path: Path) -> None:
    """A new secret for the agents of one attempt, in a private file."""
    if path.exists():
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(32))


class Life:
    """The signs of life that the head's agent leaves in its attempt's folder, as this process sees them."""

    def __init__(self, run: RunDir, attempt: AttemptDir) -> None:
        self._run, self._attempt, self._over = run, attempt, 0
        self._last, self._seen, self._looked = "", time.monotonic(), 0.0

    def begin_again(self) -> None:
        """The job waits to be started: signs of its attempts so far count no more."""
        self._over = self._over or max(attempt.number for attempt in self._run.attempts())

    def lost(self) -> str:
        """Why the head has to be given up; empty while it lives, has said how it ended, or never gave a sign."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return ""
        gap, self._looked = now - self._looked, now
        newest = self._run.attempts()[-1]
        if newest.number > self._attempt.number and newest.handle.exists():  # the cluster has started the job again
            self._attempt, self._over = newest, 0
            self._last, self._seen = "", now
        if self._attempt.number <= self._over and self._attempt.beat.exists():
            return ""
        try:
            sign = self._attempt.beat.read_text()
        except OSError:
            sign = ""
        if not sign or sign != self._last or gap > SILENCE_SECONDS / 2:  # this process itself may have slept
            self._last, self._seen = sign, now
        if now - self._seen < SILENCE_SECONDS or self._attempt.agent_end(0).exists():
            return ""
        name = (read_json(self._attempt.agent(0)) or {}).get("name", "the head")
        return f"node 0 ({name}) was lost: its agent has given no sign of life for {SILENCE_SECONDS:g} s"
