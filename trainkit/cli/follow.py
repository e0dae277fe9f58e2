"""Growing logs, printed as they grow: one rank's as it is, several ranks' in the order of time."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.folding import Blocks
from trainkit.merged import Merger, first_cause, label, text_of
from trainkit.ranklog import RankLog, log_of, logged, rank_logs

ALL = "all"
_CHUNK_BYTES = 1 << 20
_MERGED = "the logs of all ranks, in the order of time:"


class Chosen(NamedTuple):
    """Which logs: of one rank, or of all (also where none is named); of an attempt, or of the newest launched."""

    rank: str = ""
    attempt: int | None = None
    folded: bool = True


NEWEST = Chosen()


class Tail:
    """One growing file, as text."""

    def __init__(self, log: RankLog) -> None:
        self._log = log
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def more(self) -> str:
        """What was added since this was asked last, at most a chunk; nothing where there is no file yet."""
        return self._decode(self._log.text(self._log.size(), _CHUNK_BYTES))


class Follower:
    """Prints what preparing a run's environment prints, then the chosen logs."""

    def __init__(self, path: Path, chosen: Chosen = NEWEST) -> None:
        self.run = RunDir(path)
        self.chosen = chosen
        self.printed = False
        self._tails: dict[Path, Tail] = {}
        self._merger: Merger | None = None
        self._several = world_of(path) > 1 if not chosen.rank else chosen.rank == ALL

    def step(self) -> bool:
        """Print what is new; whether there was anything."""
        return self._print(self._prepared()) | (self._blocks(final=False) if self._several else self._raw())

    def finish(self) -> None:
        """Print all that is left, also last lines that nothing ended."""
        while self._print(self._prepared()):
            pass
        if self._several:
            self._blocks(final=True)
        else:
            while self._raw():
                pass

    def pin_cause(self) -> None:
        """Print first why the attempt failed, where it did and several ranks' logs would hide it."""
        attempt = self._attempt()
        if self._several and attempt is not None:
            rank, lines = first_cause(self.run.path, attempt)
            before = label((rank,)).decode() if rank is not None else ""
            if lines:
                first, *others = lines
                text = "".join(f"{before}{line}\n" for line in (f"first cause: {first}", *others))
                self._print(f"{text}\n{_MERGED}\n")

    def _print(self, text: str) -> bool:
        if text:
            self.printed = True
            sys.stdout.write(text)
            sys.stdout.flush()
        return bool(text)

    def _attempt(self) -> AttemptDir | None:
        """The chosen attempt, once it is there."""
        return logged(self.run, self.chosen.attempt)

    def _prepared(self) -> str:
        if self.chosen.attempt is not None:
            return ""
        return self._tails.setdefault(self.run.prepare_log, Tail(RankLog(self.run.prepare_log))).more()

    def _raw(self) -> bool:
        attempt = self._attempt()
        if attempt is None:
            return False
        rank = int(self.chosen.rank or 0)
        log = attempt.rank_log(rank)
        if log not in self._tails:
            self._tails[log] = Tail(log_of(attempt, rank))
        return self._print("".join([tail.more() for tail in self._tails.values()]))

    def _blocks(self, final: bool) -> bool:
        attempt, before = self._attempt(), self._merger
        if attempt is None:
            return False
        news = False
        if before is None or before.attempt.number != attempt.number:
            if before is not None:
                news = self._write(before.all())
            self._merger = Merger(attempt, self.chosen.folded)
        assert self._merger is not None
        return self._write(self._merger.all() if final else self._merger.new()) or news

    def _write(self, blocks: Iterable[Blocks]) -> bool:
        news = False
        for some in blocks:
            sys.stdout.write(text_of(some).decode("utf-8", "replace"))
            news = True
        if news:
            self.printed = True
            sys.stdout.flush()
        return news


def world_of(path: Path) -> int:
    """How many ranks a run has."""
    record: dict[str, Any] = read_json(RunDir(path).run) or {}
    return int(record.get("nodes") or 1) * int(record.get("ranks_per_node") or 1)


def whole(path: Path, chosen: Chosen) -> dict[str, str]:
    """The whole texts of the chosen logs: by rank, and `prepare` where something was prepared."""
    run = RunDir(path)
    found = {}
    if run.prepare_log.exists() and chosen.attempt is None:
        found["prepare"] = run.prepare_log.read_text(encoding="utf-8", errors="replace")
    attempt = logged(run, chosen.attempt)
    if attempt is None:
        return found
    for rank in rank_logs(attempt):
        if chosen.rank in ("", ALL, str(rank)):
            found[str(rank)] = log_of(attempt, rank).rest().decode("utf-8", "replace")
    return found
