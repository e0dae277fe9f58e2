"""Growing logs, printed as they grow: one rank's as it is, several ranks' as lines with the rank in front."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path

from trainkit.boot.rundir import RunDir

ALL = "all"
_CHUNK_BYTES = 1 << 20


class Tail:
    """One growing file. With a prefix, its text comes as whole lines, each with the prefix in front."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._at = 0
        self._unfinished = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def more(self) -> str:
        """What was added since this was asked last, at most a chunk; nothing where there is no file yet."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                data = file.read(_CHUNK_BYTES)
        except FileNotFoundError:
            return ""
        self._at += len(data)
        text = self._decode(data)
        return self._lines(text) if self.prefix else text

    def rest(self) -> str:
        """All that is left, also a last line that nothing ended."""
        found = []
        while text := self.more():
            found.append(text)
        if self._unfinished:
            found.append(self._lines("\n"))
        return "".join(found)

    def _lines(self, text: str) -> str:
        *whole, self._unfinished = (self._unfinished + text).split("\n")
        return "".join(f"{self.prefix}{line}\n" for line in whole)


class Follower:
    """Prints what preparing a run's environment prints, then the logs of the chosen ranks of its newest attempt."""

    def __init__(self, path: Path, rank: str) -> None:
        self.run = RunDir(path)
        self.rank = rank
        self.printed = False
        self._tails: dict[Path, Tail] = {}

    def step(self) -> bool:
        """Print what is new; whether there was anything."""
        return self._print("".join([tail.more() for tail in self._found()]))

    def finish(self) -> None:
        """Print all that is left, one rank after the other."""
        for tail in self._found():
            self._print(tail.rest())

    def _print(self, text: str) -> bool:
        if text:
            self.printed = True
            sys.stdout.write(text)
            sys.stdout.flush()
        return bool(text)

    def _found(self) -> list[Tail]:
        """The tails of all logs that are there by now, and of those that were."""
        self._tails.setdefault(self.run.prepare_log, Tail(self.run.prepare_log))
        for rank, log in rank_logs(self.run, self.rank).items():
            if log not in self._tails:
                self._tails[log] = Tail(log, f"[{rank}] " if self.rank == ALL else "")
        return list(self._tails.values())


def rank_logs(run: RunDir, rank: str) -> dict[int, Path]:
    """The logs of one rank, or of all, of the newest attempt."""
    attempts = run.attempts()
    if not attempts:
        return {}
    numbers = [log.stem.rpartition("-")[2] for log in attempts[-1].logs.glob("rank-*.log")]
    found = sorted(int(number) for number in numbers if number.isdigit() and rank in (ALL, number))
    return {number: attempts[-1].rank_log(number) for number in found}
