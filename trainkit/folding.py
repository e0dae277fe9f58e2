"""Several ranks' lines of the same moments as one text: lines that some of them share are said once. Pure functions.

What every rank printed keeps its order. Between ranks the order is that of the moments; lines that are identical join
the first of them, at most a window away.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import accumulate, chain, groupby, pairwise
from typing import NamedTuple

from trainkit import sharedlines

_STEPS = 8
_SOME = 4096  # blocks that are handed on at a time, while their lines are still in the processor's cache
_AHEAD = 64  # lines of a group that are looked at for who has to go on first


class Part(NamedTuple):
    """Whole lines of one rank. Turns count up; `time` is when they were noted."""

    turn: int
    time: float
    rank: int
    text: bytes


@dataclass
class Blocks:
    """Blocks in the order in which they are told: when, which ranks, and the whole lines that all of them printed.

    As columns, for there are millions.
    """

    times: list[float] = field(default_factory=list)
    ranks: list[tuple[int, ...]] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[float, tuple[int, ...], bytes]]:
        return zip(self.times, self.ranks, self.texts, strict=True)

    def add(self, time: float, ranks: tuple[int, ...], text: bytes) -> None:
        """One more."""
        self.times.append(time)
        self.ranks.append(ranks)
        self.texts.append(text)


def _of_parts(parts: Sequence[Part], ranks: list[tuple[int, ...]]) -> Blocks:
    """Parts as they are, each of these ranks."""
    return Blocks([part.time for part in parts], ranks, [part.text for part in parts])


def plainly(parts: list[Part], settled: float = float("inf")) -> Iterator[Blocks]:
    """Nothing folded, and nothing waits."""
    yield _of_parts(parts, [(part.rank,) for part in parts])
    parts.clear()


class _Group:
    """Ranks with the same text, and how far it was told: `line` is the next line's number, `at` its parts' index."""

    def __init__(self, parts: Sequence[Part], ranks: Sequence[int]) -> None:
        self.parts, self.ranks = parts, tuple(ranks)
        self.ends = list(accumulate(part.text.count(b"\n") for part in parts))
        self.lines: list[bytes] = []
        self.shared: list[int] = []  # lines that other groups have too, by number
        self.line = self.at = self.next = 0
        self.counts: Counter[bytes] = Counter()

    @property
    def turn(self) -> int:
        return self.parts[self.at].turn

    @property
    def live(self) -> bool:
        return self.at < len(self.parts)

    def head(self) -> bytes | None:
        """The next line, where it is a shared one."""
        if self.next < len(self.shared) and self.shared[self.next] == self.line:
            return self.lines[self.line]
        return None

    def shared_now(self) -> list[int]:
        """The shared lines of this turn that were not told."""
        return self.shared[self.next : bisect_left(self.shared, self.ends[self.at], self.next)]

    def pass_to(self, line: int) -> None:
        """Say that all before this line was told."""
        self.line = line
        while self.at < len(self.parts) and self.ends[self.at] <= line:
            self.at += 1

    def tell_own(self, blocks: Blocks) -> bool:
        """Tell the lines of this turn before the next shared one; whether there are any."""
        stop = min(self.ends[self.at], self.shared[self.next] if self.next < len(self.shared) else len(self.lines))
        if stop == self.line:
            return False
        blocks.add(self.parts[self.at].time, self.ranks, b"".join(self.lines[self.line : stop]))
        self.pass_to(stop)
        return True

    def rest(self) -> list[Part]:
        """What was not told, as parts of each of the ranks."""
        found = []
        start = self.line
        for part, end in list(zip(self.parts, self.ends, strict=True))[self.at :]:
            text = b"".join(self.lines[start:end]) if self.lines else part.text
            start = end
            found += [Part(part.turn, part.time, rank, text) for rank in self.ranks]
        return found


def fold(parts: list[Part], settled: float = float("inf")) -> Iterator[Blocks]:
    """The parts as blocks, some at a time; to be read to its end.

    Then `parts` holds only those of later turns than `settled` which wait for what other ranks print next.
    """
    by_rank: dict[int, list[Part]] = {}
    for part in parts:
        if part.text:
            by_rank.setdefault(part.rank, []).append(part)
    texts = {rank: b"".join([part.text for part in by_rank[rank]]) for rank in sorted(by_rank)}
    same = sorted([*ranks] for _, ranks in groupby(sorted(texts, key=texts.__getitem__), key=texts.__getitem__))
    groups = [_Group(by_rank[ranks[0]], ranks) for ranks in same]
    if len(groups) == 1 and len(groups[0].ranks) > 1:
        own = groups[0].parts
        yield _of_parts(own, [groups[0].ranks] * len(own))
        parts.clear()
        return
    if len(groups) > 1 and _find_shared(groups, [texts[ranks[0]] for ranks in same]):
        yield from _merge(groups, settled)
    else:
        yield _apart(groups, settled)
    rest = [part for group in groups for part in group.rest()]
    parts[:] = sorted(rest, key=lambda part: (part.turn, part.rank))


def _find_shared(groups: Sequence[_Group], texts: Sequence[bytes]) -> bool:
    """Give the groups their texts' lines and the numbers of those that others have too; whether there are any."""
    split = [BytesIO(text).readlines() for text in texts]
    shared = sharedlines.numbers(split)
    if not any(shared):
        return False
    for group, lines, own in zip(groups, split, shared, strict=True):
        group.lines, group.shared = lines, own
    return True


def _apart(groups: Sequence[_Group], settled: float) -> Blocks:
    """Groups that share nothing, turn by turn."""
    told = []
    for number, group in enumerate(groups):
        count = sum(part.turn <= settled for part in group.parts)
        told += [(part.turn, number, part) for part in group.parts[:count]]
        group.pass_to(group.ends[count - 1] if count else 0)
    told.sort(key=lambda item: item[:2])
    return _of_parts([part for _, _, part in told], [groups[number].ranks for _, number, _ in told])


def _merge(groups: Sequence[_Group], settled: float) -> Iterator[Blocks]:
    """Groups that share lines, up to what is settled: by long strides where they go on alike, else step by step."""
    blocks = Blocks()
    steps = _STEPS
    while any(group.live and group.turn <= settled for group in groups):
        before = len(blocks)
        _together(groups, blocks)
        if len(blocks) > before:
            steps = _STEPS
        else:
            _in_turn(groups, settled, steps, blocks)
            steps *= 2
        if len(blocks) >= _SOME:
            yield blocks
            blocks = Blocks()
    yield blocks


def _together(groups: Sequence[_Group], blocks: Blocks) -> None:
    """Where all groups have the same shared lines in the same order: what each has before one, then that one.

    Only as far as their present turns go, which are at most one apart.
    """
    turns = [group.turn for group in groups if group.live]
    turn = min(turns)
    if len(turns) < len(groups) or max(turns) - turn > 1:
        return
    ahead = [group.shared_now() for group in groups]
    first = groups[0]
    alike = all(group.shared is first.shared and group.next == first.next for group in groups)
    if alike:
        places = [min(ahead, key=len)] * len(groups)
    else:
        places = sharedlines.begin_alike(ahead, [group.lines for group in groups])
    if places[0]:
        tell = _in_step if alike and all(group.line == first.line for group in groups) else _to_the_next
        tell(groups, places, blocks)
    for group, numbers, own in zip(groups, places, ahead, strict=True):
        if numbers:
            group.next += len(numbers)
            group.pass_to(numbers[-1] + 1)
        if len(numbers) == len(own) and group.live and group.turn == turn:
            group.tell_own(blocks)


def _time(groups: Sequence[_Group]) -> float:
    """When the lines were printed that all these groups have next."""
    return min(group.parts[group.at].time for group in groups)


def _all_ranks(groups: Sequence[_Group]) -> tuple[int, ...]:
    return tuple(sorted(rank for group in groups for rank in group.ranks))


def _in_step(groups: Sequence[_Group], places: Sequence[list[int]], blocks: Blocks) -> None:
    """What each group has before shared lines, which are at the same places in all of them, then those."""
    time, ranks, first = _time(groups), _all_ranks(groups), groups[0]
    own = [(last + 1, place) for last, place in pairwise([first.line - 1, *places[0]]) if place > last + 1]
    ends = [*(start for start, _ in own), places[0][-1] + 1]
    if ends[0] > first.line:
        blocks.add(time, ranks, b"".join(first.lines[first.line : ends[0]]))
    shared = [(stop, end) for (_, stop), end in zip(own, ends[1:], strict=True)]
    columns = [*(_texts(group.lines, own) for group in groups), _texts(first.lines, shared)]
    blocks.times += [time] * (len(columns) * len(own))
    blocks.ranks += [*(group.ranks for group in groups), ranks] * len(own)
    blocks.texts += chain.from_iterable(zip(*columns, strict=True))


def _texts(lines: Sequence[bytes], stretches: Sequence[tuple[int, int]]) -> list[bytes]:
    """The text of each stretch of lines."""
    return [lines[start] if stop == start + 1 else b"".join(lines[start:stop]) for start, stop in stretches]


def _to_the_next(groups: Sequence[_Group], places: Sequence[Sequence[int]], blocks: Blocks) -> None:
    """The same, where the places differ."""
    time, ranks, waiting = _time(groups), _all_ranks(groups), list[bytes]()
    starts = [group.line for group in groups]
    each = [(number, group.ranks, group.lines) for number, group in enumerate(groups)]
    for numbers in zip(*places, strict=True):
        for index, own, lines in each:
            number, start = numbers[index], starts[index]
            if number > start:
                if waiting:
                    blocks.add(time, ranks, b"".join(waiting))
                    waiting = []
                blocks.add(time, own, b"".join(lines[start:number]))
            starts[index] = number + 1
        waiting.append(groups[0].lines[numbers[0]])
    blocks.add(time, ranks, b"".join(waiting))


def _in_turn(groups: Sequence[_Group], settled: float, steps: int, blocks: Blocks) -> None:
    """Turn by turn each group's own lines, then shared ones: first those that nobody else has only later."""
    for group in groups:
        ahead = group.shared[group.next : group.next + max(_AHEAD, steps)]
        group.counts = Counter([group.lines[number] for number in ahead])
    for _ in range(steps):
        live = [group for group in groups if group.live]
        turn = min((group.turn for group in live), default=settled + 1)
        if turn > settled or not live:
            break
        first = [group for group in live if group.turn == turn]
        if sum(group.tell_own(blocks) for group in first) == 0:
            _tell_shared(live, first, blocks)


def _tell_shared(live: Sequence[_Group], first: Sequence[_Group], blocks: Blocks) -> None:
    """The next shared line, of all groups that have it next. All of `first` have one."""
    holders: dict[bytes, list[_Group]] = {}
    for group in live:
        if (line := group.head()) is not None:
            holders.setdefault(line, []).append(group)
    choices = dict.fromkeys(group.lines[group.line] for group in first)
    ordered = sorted(choices, key=lambda line: -len(holders[line]))
    ready = (line for line in ordered if sum(1 for group in live if group.counts[line]) == len(holders[line]))
    chosen = next(ready, ordered[0])
    blocks.add(_time(holders[chosen]), _all_ranks(holders[chosen]), chosen)
    for group in holders[chosen]:
        group.counts[chosen] -= 1
        group.next += 1
        group.pass_to(group.line + 1)
