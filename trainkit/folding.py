"""Several ranks' lines of the same moments as one text: lines that some of them share are said once. Pure functions.

What every rank printed keeps its order. Between ranks the order is that of the moments; lines that are identical join
the first of them, at most a window away.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from trainkit import sharedlines

_STEPS = 8
_AHEAD = 64  # lines of a group that are looked at for who has to go on first


class Part(NamedTuple):
    """Whole lines of one rank. Turns count up; `time` is when they were noted."""

    turn: int
    time: float
    rank: int
    text: bytes


# When, which ranks, and the whole lines that all of them printed. A plain tuple, for there are millions.
Block = tuple[float, tuple[int, ...], bytes]


def plainly(parts: Sequence[Part]) -> list[Block]:
    """Nothing folded."""
    return [(part.time, (part.rank,), part.text) for part in parts]


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

    def own(self) -> Block | None:
        """The lines of this turn before the next shared one, told."""
        stop = min(self.ends[self.at], self.shared[self.next] if self.next < len(self.shared) else len(self.lines))
        if stop == self.line:
            return None
        block = (self.parts[self.at].time, self.ranks, _text(self.lines[self.line : stop]))
        self.pass_to(stop)
        return block

    def rest(self) -> list[Part]:
        """What was not told, as parts of each of the ranks."""
        found = []
        start = self.line
        for part, end in list(zip(self.parts, self.ends, strict=True))[self.at :]:
            text = _text(self.lines[start:end]) if self.lines else part.text
            start = end
            found += [Part(part.turn, part.time, rank, text) for rank in self.ranks]
        return found


def _text(lines: Sequence[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


def fold(parts: Sequence[Part], settled: float = float("inf")) -> tuple[list[Block], list[Part]]:
    """The parts as blocks, and those of later turns than `settled` which wait for what other ranks print next."""
    by_rank: dict[int, list[Part]] = {}
    for part in parts:
        if part.text:
            by_rank.setdefault(part.rank, []).append(part)
    same: dict[bytes, list[int]] = {}
    for rank in sorted(by_rank):
        own = by_rank[rank]
        same.setdefault(own[0].text if len(own) == 1 else b"".join(part.text for part in own), []).append(rank)
    groups = [_Group(by_rank[ranks[0]], ranks) for ranks in same.values()]
    if len(groups) == 1 and len(groups[0].ranks) > 1:
        return [(part.time, groups[0].ranks, part.text) for part in groups[0].parts], []
    if len(groups) > 1 and _find_shared(groups, list(same)):
        blocks = _merge(groups, settled)
    else:
        blocks = _apart(groups, settled)
    rest = [part for group in groups for part in group.rest()]
    return blocks, sorted(rest, key=lambda part: (part.turn, part.rank))


def _find_shared(groups: Sequence[_Group], texts: Sequence[bytes]) -> bool:
    """Give the groups their texts' lines and the numbers of those that others have too; whether there are any."""
    split = [text.split(b"\n")[:-1] for text in texts]
    shared = sharedlines.numbers(split)
    if not any(shared):
        return False
    for group, lines, own in zip(groups, split, shared, strict=True):
        group.lines, group.shared = lines, own
    return True


def _apart(groups: Sequence[_Group], settled: float) -> list[Block]:
    """Groups that share nothing, turn by turn."""
    told = []
    for number, group in enumerate(groups):
        count = sum(part.turn <= settled for part in group.parts)
        told += [(part.turn, number, part) for part in group.parts[:count]]
        group.pass_to(group.ends[count - 1] if count else 0)
    told.sort(key=lambda item: item[:2])
    return [(part.time, groups[number].ranks, part.text) for _, number, part in told]


def _merge(groups: Sequence[_Group], settled: float) -> list[Block]:
    """Groups that share lines, up to what is settled: by long strides where they go on alike, else step by step."""
    blocks: list[Block] = []
    steps = _STEPS
    while any(group.live and group.turn <= settled for group in groups):
        alike = _together(groups)
        blocks += alike or _in_turn(groups, settled, steps)
        steps = _STEPS if alike else 2 * steps
    return blocks


def _together(groups: Sequence[_Group]) -> list[Block]:
    """Where all groups have the same shared lines in the same order: what each has before one, then that one.

    Only as far as their present turns go, which are at most one apart.
    """
    turns = [group.turn for group in groups if group.live]
    if len(turns) < len(groups) or max(turns) - min(turns) > 1:
        return []
    ranks = tuple(sorted(rank for group in groups for rank in group.ranks))
    time = min(group.parts[group.at].time for group in groups)
    places = [group.shared_now() for group in groups]
    first = groups[0]
    alike = all(group.shared is first.shared and group.next == first.next for group in groups)
    if alike:
        places = [min(places, key=len)] * len(groups)
    else:
        places = sharedlines.begin_alike(places, [group.lines for group in groups])
    tell = _in_step if alike and all(group.line == first.line for group in groups) else _to_the_next
    blocks = tell(groups, places, time, ranks)
    for group, numbers in zip(groups, places, strict=True):
        if numbers:
            group.next += len(numbers)
            group.pass_to(numbers[-1] + 1)
        if group.live and group.turn == min(turns) and not group.shared_now():
            blocks += filter(None, (group.own(),))
    return blocks


def _in_step(groups: Sequence[_Group], places: Sequence[list[int]], time: float, ranks: tuple[int, ...]) -> list[Block]:
    """What each group has before shared lines, which are at the same places in all of them, then those."""
    blocks, waiting = list[Block](), list[bytes]()
    each = [(group.ranks, group.lines) for group in groups]
    first, start = groups[0].lines, groups[0].line
    for place in places[0]:
        if place > start:
            if waiting:
                blocks.append((time, ranks, _text(waiting)))
                waiting = []
            if place == start + 1:
                blocks += [(time, own, lines[start] + b"\n") for own, lines in each]
            else:
                blocks += [(time, own, _text(lines[start:place])) for own, lines in each]
        waiting.append(first[place])
        start = place + 1
    if waiting:
        blocks.append((time, ranks, _text(waiting)))
    return blocks


def _to_the_next(
    groups: Sequence[_Group], places: Sequence[Sequence[int]], time: float, ranks: tuple[int, ...]
) -> list[Block]:
    """The same, where the places differ."""
    blocks, waiting = list[Block](), list[bytes]()
    starts = [group.line for group in groups]
    each = [(number, group.ranks, group.lines) for number, group in enumerate(groups)]
    for numbers in zip(*places, strict=True):
        for index, own, text in each:
            number, start = numbers[index], starts[index]
            if number > start:
                if waiting:
                    blocks.append((time, ranks, _text(waiting)))
                    waiting = []
                blocks.append((time, own, text[start] + b"\n" if number == start + 1 else _text(text[start:number])))
            starts[index] = number + 1
        waiting.append(groups[0].lines[numbers[0]])
    if waiting:
        blocks.append((time, ranks, _text(waiting)))
    return blocks


def _in_turn(groups: Sequence[_Group], settled: float, steps: int) -> list[Block]:
    """Turn by turn each group's own lines, then shared ones: first those that nobody else has only later."""
    for group in groups:
        ahead = group.shared[group.next : group.next + max(_AHEAD, steps)]
        group.counts = Counter([group.lines[number] for number in ahead])
    blocks: list[Block] = []
    for _ in range(steps):
        live = [group for group in groups if group.live]
        turn = min((group.turn for group in live), default=settled + 1)
        if turn > settled or not live:
            break
        first = [group for group in live if group.turn == turn]
        told = [block for group in first if (block := group.own()) is not None]
        blocks += told or [_shared(live, first)]
    return blocks


def _shared(live: Sequence[_Group], first: Sequence[_Group]) -> Block:
    """The next shared line, of all groups that have it next. All of `first` have one."""
    holders: dict[bytes, list[_Group]] = {}
    for group in live:
        if (line := group.head()) is not None:
            holders.setdefault(line, []).append(group)
    choices = dict.fromkeys(group.lines[group.line] for group in first)
    ordered = sorted(choices, key=lambda line: -len(holders[line]))
    ready = (line for line in ordered if sum(1 for group in live if group.counts[line]) == len(holders[line]))
    chosen = next(ready, ordered[0])
    time = min(group.parts[group.at].time for group in holders[chosen])
    for group in holders[chosen]:
        group.counts[chosen] -= 1
        group.next += 1
        group.pass_to(group.line + 1)
    return time, tuple(sorted(rank for group in holders[chosen] for rank in group.ranks)), chosen + b"\n"
