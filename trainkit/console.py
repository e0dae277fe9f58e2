"""What `wait_for_completion(show_output=True)` prints: the run's logs as they are written, then a summary.

The form is the one that users of the Azure ML SDK v1 know: RunId, Web View, a "Streaming ..." line before each log.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from trainkit import outcome, runfiles
from trainkit.boot.rundir import TERMINAL, RunDir, read_json
from trainkit.ranklog import RankLog, log_of, readable
from trainkit.rundetails import look, url
from trainkit.sentences import describe

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.01, 0.2
_LOOK_SECONDS = 2.0  # how often a waiter sees to it that the run is looked after
_CHUNK_BYTES = 1 << 16


def wait(run_dir: RunDir, step: Callable[[], bool] = lambda: False) -> None:
    """Return once the run has ended. `step` is called again and again; it returns whether there was something new."""
    pause, looked = _SHORTEST_SECONDS, time.monotonic()
    while not run_dir.state.exists():
        news = step()
        if time.monotonic() - looked > _LOOK_SECONDS:
            look(run_dir)
            looked = time.monotonic()
        pause = _SHORTEST_SECONDS if news else min(_LONGEST_SECONDS, pause * 1.2)
        time.sleep(pause)
    while step():
        pass


class _Follower:
    """The growing text of one log."""

    def __init__(self, log: RankLog) -> None:
        self._log = log
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def more(self) -> str:
        """What was added since the last call, at most a chunk."""
        return self._decode(self._log.text(self._log.size(), _CHUNK_BYTES))


class Console:
    """Prints one run's progress on a text stream."""

    def __init__(self, run_dir: RunDir, out: TextIO) -> None:
        self.run_dir, self.out = run_dir, out
        self._followed: dict[Path, _Follower] = {}
        self._shown: Path | None = None  # the log whose text is being printed
        self._fresh_line = True
        self._said = ""

    def begin(self) -> None:
        """The head: which run, and where it can be looked at."""
        self._write(f"RunId: {self.run_dir.path.name}\nWeb View: {url(self.run_dir)}\n")

    def step(self) -> bool:
        """Print what is new; returns whether there was something."""
        news = self._stage()
        for name, log in (
            (runfiles.BUILD_LOG, RankLog(self.run_dir.prepare_log)),
            *((runfiles.DRIVER_LOG, log_of(attempt, 0)) for attempt in readable(self.run_dir)[-1:]),
        ):
            path = log.path
            if path not in self._followed and not path.exists():
                continue
            text = self._followed.setdefault(path, _Follower(log)).more()
            if path != self._shown and (text or name == runfiles.DRIVER_LOG):
                self._title(f"Streaming {name}")
                self._shown = path
                news = True
            if text:
                self._write(text)
                news = True
        return news

    def _stage(self) -> bool:
        """Say why the job is not running yet, once for each reason."""
        if self._shown is not None and self._shown != self.run_dir.prepare_log:
            return False
        status, words = outcome.status_of(self.run_dir.path)
        line = f"{status}: {words}"
        if status not in ("Preparing", "Queued") or not words or line == self._said:
            return False
        self._said = line
        self._own_line()
        self._write(f"{line}\n")
        return True

    def end(self) -> None:
        """The summary, with the cause where the run failed."""
        status, _ = outcome.status_of(self.run_dir.path)
        assert status in TERMINAL
        self._title("Execution Summary")
        self._write(f"RunId: {self.run_dir.path.name}\nWeb View: {url(self.run_dir)}\nStatus: {status}\n")
        verdict = (read_json(self.run_dir.state, "status") or {}).get("verdict")
        if verdict:
            log = f"\nLog: {verdict['log']}" if verdict.get("log") else ""
            self._write(f"Error: {verdict.get('summary') or describe(verdict)}{log}\n")
        self._write("\n")

    def _title(self, text: str) -> None:
        self._own_line()
        self._write(f"\n{text}\n{'=' * len(text)}\n")

    def _own_line(self) -> None:
        if not self._fresh_line:
            self._write("\n")

    def _write(self, text: str) -> None:
        try:
            self.out.write(text)
        except UnicodeEncodeError:  # a terminal with a small alphabet
            encoding = self.out.encoding or "ascii"
            self.out.write(text.encode(encoding, "replace").decode(encoding))
        self.out.flush()
        self._fresh_line = text.endswith("\n")
