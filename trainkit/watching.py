"""Watches a job until it has ended, or has to be given up: by its launcher's words, and by its head's signs of life."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from trainkit.boot.attempts import launched
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.errors import TrainkitError
from trainkit.job import Launcher
from trainkit.restarts import begun

CANCEL_AGAIN_SECONDS = 6.0
SILENCE_SECONDS = 20.0  # of a head that gave signs of life before, and of a cluster when all agents have ended
LOST_SECONDS = 10.0  # of a cluster that may have gone with the node that was lost
_STARTING_SECONDS = 3.0
T = TypeVar("T")


def watch(run: RunDir, attempt: AttemptDir, launcher: Launcher, say: Callable[[str, str], None]) -> tuple[str, str]:
    """Wait for the job's end: why it is lost, where it is, else nothing; and the cluster's words on its end."""
    handle = str((read_json(attempt.handle, "handle") or {})["handle"])
    again = getattr(launcher, "again", None)  # of one whose cluster starts a job again by itself
    asked, start, pause, life, queued = 0.0, time.monotonic(), 0.01, Life(run, attempt, say), False
    while True:
        status = launcher.poll(handle)
        if status.phase == "ended":
            _seen(life.follow, None)
            return "", status.words
        if status.phase == "lost":
            return status.words or "the cluster no longer knows the job", ""
        if status.phase == "queued":
            say("Queued", status.words)
            if not queued:
                life.begin_again()
        elif queued:
            say("Running", status.words)
        queued = status.phase == "queued"
        if not queued and (silent := _seen(life.lost, "")):
            if not again or _seen(run.cancel.exists, False) or not again(handle):
                _cancel(launcher, handle)
                return silent, ""
            life.begin_again()
        if not queued and getattr(launcher, "shared_disk", True) and _seen(partial(life.over, not again), False):
            _cancel(launcher, handle)
            return "", status.words
        if _seen(run.cancel.exists, False) and time.monotonic() - asked > CANCEL_AGAIN_SECONDS:
            asked = time.monotonic()
            _cancel(launcher, handle)
        time.sleep(pause)
        pause = 0.01 if time.monotonic() - start < _STARTING_SECONDS else min(0.25, pause * 1.2)


def _seen(look: Callable[[], T], unknown: T) -> T:
    """What a look at the run's files says; `unknown` where their disk does not answer just now."""
    try:
        return look()
    except OSError:
        return unknown


def _cancel(launcher: Launcher, handle: str) -> None:
    """Ask for the job's end. Of a job that is given up agents that do not hear of it see that its run has ended."""
    try:
        launcher.cancel(handle)
    except TrainkitError as error:
        print(f"{time.strftime('%H:%M:%S')} the job could not be ended: {error.message}", flush=True)


class Life:
    """The signs of life that the head's agent leaves in its attempt's folder, as this process sees them."""

    def __init__(self, run: RunDir, attempt: AttemptDir, say: Callable[[str, str], None]) -> None:
        self._run, self._attempt, self._say, self._void = run, attempt, say, ""
        self._last, self._seen, self._looked = "", time.monotonic(), 0.0
        self._nodes, self._ended = 0, 0.0  # how many agents there are; since when all of them have said how they ended

    def begin_again(self) -> None:
        """The job waits to be started: the last sign of life, and how long ago its agents ended, count no more."""
        self._void, self._ended = self._sign(), 0.0

    def over(self, but_lost: bool) -> bool:
        """Whether all agents have said how they ended, and the cluster, which is slow to, has had its time for that.

        That of the node that the head's agent has lost will not, where `but_lost`.
        """
        if not self._attempt.agent_end(0).exists():
            return False
        self._nodes = self._nodes or int((read_json(self._attempt.job) or {}).get("nodes", 1))
        silent = [node for node in range(self._nodes) if not self._attempt.agent_end(node).exists()]
        lost = (read_json(self._attempt.agent_end(0)) or {}).get("lost") or {} if silent and but_lost else {}
        if silent not in ([], [lost.get("node")]):
            return False
        self._ended = self._ended or time.monotonic()
        return time.monotonic() - self._ended > (LOST_SECONDS if silent else SILENCE_SECONDS)

    def _sign(self) -> str:
        """What the head's agent has written last; empty where it has given no sign yet."""
        try:
            return self._attempt.beat.read_text()
        except OSError:
            return ""

    def follow(self) -> None:
        """Go on with the newest attempt, where the cluster or the agents have started the job again by themselves."""
        for attempt in launched(self._run):
            if attempt.number > self._attempt.number:
                self._attempt, self._nodes, self._ended = attempt, 0, 0.0
                self._last, self._seen = "", time.monotonic()
                if words := begun(self._run, attempt):
                    self._say("Running", words)

    def lost(self) -> str:
        """Why the head has to be given up; empty while it lives, has said how it ended, or never gave a sign."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return ""
        gap, self._looked = now - self._looked, now
        self.follow()
        sign = self._sign()
        if sign and sign == self._void:
            return ""
        if not sign or sign != self._last or gap > SILENCE_SECONDS / 2:  # this process itself may have slept
            self._last, self._seen = sign, now
        if now - self._seen < SILENCE_SECONDS or self._attempt.agent_end(0).exists():
            return ""
        name = (read_json(self._attempt.agent(0)) or {}).get("name", "the head")
        return f"node 0 ({name}) was lost: its agent has given no sign of life for {SILENCE_SECONDS:g} s"
