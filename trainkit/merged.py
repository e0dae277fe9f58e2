"""What all ranks of an attempt printed, as one text in the order of time.

    for line in merged(run.directory, attempt=1):
        print(line.time, line.ranks, line.text)

The nodes' agents note ten times a second how far each log has grown (`trainkit.boot.lognotes`). Lines that several
ranks printed at the same moment come once, with all these ranks. Files it may touch: it only reads the run's.
"""

from __future__ import annotations

import heapq
import time as clock
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, chain, groupby, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from trainkit.boot.attempts import overtaken
from trainkit.boot.lognotes import NOTE_SECONDS
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.errors import UserErrorException
from trainkit.folding import Blocks, Part, fold, plainly
from trainkit.ranklog import Notes, RankLog, logged, rank_logs

_TURNS = 10  # of a window: identical lines that are less than a second apart are one
_BEHIND = 3  # turns that notes of another node may come late, while they are followed
_QUIET_TURNS = 2  # without a note end a window
_LATE_TURNS = 1  # a window's last one waits for what the next window brings
_PIECE_BYTES = 1 << 17  # of one log in a turn
_ALL_PIECES_BYTES = 1 << 24
_ENDLESS = 1 << 62
_UNNOTED_SECONDS = 1.0  # what grew so long ago and was not noted is taken as it is


class Line(NamedTuple):
    """One line; `time` (seconds since the epoch, by the head's clock) is when it was there, to a tenth of a second."""

    time: float
    ranks: tuple[int, ...]
    text: str


class Due(NamedTuple):
    """At this moment (in tenths of a second) a rank's log had this size."""

    tick: int
    rank: int
    size: int


def merged(run_dir: str | Path, attempt: int | None = None, folded: bool = True) -> Iterator[Line]:
    """The lines that all ranks of an attempt (the newest) have printed so far, in the order of time.

    Every rank's lines come in its own order and none is lost; identical lines of several ranks at the same moment come
    once, unless `folded` is False. Raises UserErrorException where there is no such attempt.
    """
    for blocks in Merger(attempt_of(run_dir, attempt), folded).all():
        for time, ranks, data in blocks:
            for text in data.decode("utf-8", "replace").split("\n")[:-1]:
                yield Line(time, ranks, text)


def attempt_of(run_dir: str | Path, number: int | None) -> AttemptDir:
    """One of a run's attempts, without a number the newest launched. Raises UserErrorException where there is none."""
    found = logged(RunDir(run_dir), number)
    if found is None:
        there = RunDir(run_dir).attempts()
        words = f"its attempts are {there[0].number} to {there[-1].number}" if there else "no attempt of it has begun"
        raise UserErrorException(f"{Path(run_dir).name} has no attempt {number or 1}: {words}.")
    return found


@lru_cache
def label(ranks: tuple[int, ...]) -> bytes:
    """What stands before a line: [3], or [0-2,5 x4] for several ranks."""
    if len(ranks) == 1:
        return b"[%d] " % ranks[0]
    words = []
    for _, run in groupby(enumerate(ranks), key=lambda item: item[1] - item[0]):
        members = [rank for _, rank in run]
        words.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return f"[{','.join(words)} x{len(ranks)}] ".encode()


def text_of(blocks: Blocks) -> bytes:
    """Blocks as they are printed: the label before each line."""
    labels = {ranks: label(ranks) for ranks in set(blocks.ranks)}
    before = [labels[ranks] for ranks in blocks.ranks]
    texts = blocks.texts.copy()
    for number, lines in enumerate(map(bytes.count, texts, repeat(b"\n"))):
        if lines > 1:
            texts[number] = texts[number][:-1].replace(b"\n", b"\n" + before[number]) + b"\n"
    return b"".join(chain.from_iterable(zip(before, texts, strict=True)))


class Merger:
    """Reads an attempt's logs as one: `all` that is there, or what is `new` again and again while they grow."""

    def __init__(self, attempt: AttemptDir, folded: bool = True) -> None:
        self.attempt = attempt
        self._fold = fold if folded else plainly
        self._notes = Notes(attempt)
        self._logs: dict[int, RankLog] = {}
        self._parts: list[Part] = []  # of the window, and what waits for the next
        self._turn = self._window = 0
        self._told = 0.0
        self._due: list[Due] = []
        self._since: dict[int, tuple[int, float]] = {}  # sizes that were seen without a note, and when
        self._heard = 0.0

    def all(self) -> Iterator[Blocks]:
        """Everything that is there now, to the end."""
        self._look()
        ahead = clocks_ahead(self.attempt)
        streams = [self._of_node(node, ahead.get(node, 0.0)) for node in list(self._notes.files)]
        yield from self._windows(heapq.merge(*streams, self._due, self._remainders()))
        yield from self._settle(0, final=True)
        self._due = []
        last = [Part(self._turn, self._told, rank, log.unfinished()) for rank, log in sorted(self._logs.items())]
        yield from self._in_order(self._fold([part for part in last if part.text]))
        self.close()

    def new(self) -> Iterator[Blocks]:
        """What came since this was asked last and is settled: a window's worth, or all once the ranks are quiet."""
        self._look()
        now, ahead = clock.time(), clocks_ahead(self.attempt)
        fresh = [due for node in list(self._notes.files) for due in self._of_node(node, ahead.get(node, 0.0))]
        if fresh:
            self._heard = now
        self._due = sorted((*self._due, *fresh, *self._unnoted(now, {due.rank for due in (*self._due, *fresh)})))
        quiet = now - self._heard > 2 * _BEHIND * NOTE_SECONDS
        latest = self._due[-1].tick - _BEHIND if self._due and not quiet else _ENDLESS
        ready = [due for due in self._due if due.tick <= latest]
        self._due = self._due[len(ready) :]
        yield from self._windows(iter(ready))
        if quiet:
            yield from self._settle(0, final=True)

    def close(self) -> None:
        """Close the files."""
        self._notes.close()
        for log in self._logs.values():
            log.close()

    def _look(self) -> None:
        """Find what appeared since."""
        self._notes.look()
        for rank, path in rank_logs(self.attempt).items():
            if rank not in self._logs:
                self._logs[rank] = RankLog(path, lambda rank=rank: self._notes.place(rank))  # type: ignore[misc]

    def _of_node(self, node: int, ahead: float) -> Iterator[Due]:
        """A node's notes of what is still in the logs, in the order of time even where its clock was set back."""
        places, tick = self._notes.files[node].places(), 0
        for at, rank, beginning, size in self._notes.files[node].more():
            tick = max(tick, int((at - ahead) / NOTE_SECONDS))
            if rank in self._logs and beginning == places[rank].beginning:
                yield Due(tick, rank, size)

    def _remainders(self) -> list[Due]:
        """What nobody noted: printed before the files' last change. Logs without any notes count as of one moment."""
        noted = {rank for file in self._notes.files.values() for rank in file.places()}
        times = {rank: log.modified() for rank, log in self._logs.items()}
        last = max((at for rank, at in times.items() if rank not in noted), default=0.0)
        ticks = {rank: int((at if rank in noted else last) / NOTE_SECONDS) + 2 for rank, at in times.items()}
        return sorted(Due(tick, rank, _ENDLESS) for rank, tick in ticks.items())

    def _unnoted(self, now: float, noted: set[int]) -> Iterator[Due]:
        """What has been in the logs for a while without a note: its agent is gone, or never noted."""
        for rank, log in self._logs.items():
            size, (seen, since) = log.size(), self._since.get(rank, (-1, now))
            if rank in noted or size <= log.at:
                self._since.pop(rank, None)
            elif seen < 0:
                self._since[rank] = (size, now)
            elif now - since > _UNNOTED_SECONDS:
                self._since[rank] = (size, now)
                yield Due(int(now / NOTE_SECONDS), rank, seen)

    def _windows(self, dues: Iterator[Due]) -> Iterator[Blocks]:
        """The blocks of what is due: windows end after some turns, and where all ranks were quiet."""
        before = None
        for tick, group in groupby(dues, key=attrgetter("tick")):
            if before is not None and tick > before + _QUIET_TURNS:
                yield from self._settle(0, final=True)
            before = tick
            pending = [(rank, size) for _, rank, size in group]
            while pending:
                pending = self._round(tick, pending)
                if self._turn - self._window >= _TURNS:
                    yield from self._settle(_LATE_TURNS)

    def _round(self, tick: int, pending: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """One turn: a piece of each log that has more by this moment; those that have still more."""
        most = min(_PIECE_BYTES, _ALL_PIECES_BYTES // max(1, len(pending)))
        left = []
        for rank, size in pending:
            log = self._logs[rank]
            text = log.lines(size, most)
            if text:
                self._parts.append(Part(self._turn, tick * NOTE_SECONDS, rank, text))
            if log.at < size:
                left.append((rank, size))
        self._turn += 1
        return left

    def _settle(self, late: int, final: bool = False) -> Iterator[Blocks]:
        """The blocks of the parts so far; of the last `late` turns only what others had too."""
        self._window = self._turn
        return self._in_order(self._fold(self._parts, float("inf") if final else self._turn - late - 1))

    def _in_order(self, folded: Iterator[Blocks]) -> Iterator[Blocks]:
        """The same, never going back in time."""
        for blocks in folded:
            times = [self._told, *blocks.times]
            if sorted(times) != times:
                times = list(accumulate(times, max))
                blocks.times = times[1:]
            self._told = times[-1]
            if blocks:
                yield blocks


def clocks_ahead(attempt: AttemptDir) -> Mapping[int, float]:
    """How many seconds each node's clock is at least ahead of the head's, as the preflight found; negative: behind."""
    found = read_json(attempt.preflight) or {}
    ahead = {}
    for node, fact in enumerate(found.get("nodes") or []):
        low, high = fact.get("between") or (0.0, 0.0)
        at = fact.get("time") or low
        ahead[node] = at - high if at > high else min(0.0, at - low)
    return ahead


def first_cause(run_dir: str | Path, attempt: AttemptDir) -> tuple[int | None, list[str]]:
    """The rank that failed first and what it said: a sentence, then its traceback or last lines. No lines: none did."""
    from trainkit import outcome

    run = RunDir(run_dir)
    verdict: Mapping[str, Any] | None = None
    if not overtaken(run, attempt):
        verdict = (read_json(run.state, "status") or {}).get("verdict")
    if not verdict:
        records = outcome.records_of(attempt)
        record = outcome.cause(records)
        verdict = outcome.of_rank(record, records) if record else None
    if not verdict:
        return None, []
    words = [str(verdict.get("summary") or "The run failed.")]
    told = str(verdict.get("traceback") or "").rstrip().splitlines() or list(verdict.get("tail") or [])
    return verdict.get("rank"), words + told
