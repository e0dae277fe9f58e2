"""Which rank holds the others up: decided by the head's agent from the pulses of all ranks, and by nothing else.

Pure, but for the memory of how long each rank's steps took. A rank is stuck when others wait in an exchange that it has
not begun and it has not moved for longer than its own steps ever explain. Nobody is stuck in a first step, which loads,
compiles and tunes; for the second one, the first is the measure.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from trainkit.boot.pulse import ENDED, EVALUATING, OWN, RESTING, SAVING, STARTING, WAITING, Pulse

LEAST_SECONDS, TIMES = 10.0, 3.0  # a rank is named within so long, or within so many times its 99th percentile step
READ_SECONDS = 1.0  # between two looks at a page
DUMP_SECONDS = 1.0  # for a rank to leave its stacks
# From a rank's last move to the look that sees it, from the limit to the next look, and until the stacks are there.
_UNSEEN_SECONDS = 2 * READ_SECONDS + DUMP_SECONDS
_REMEMBERED = 512  # steps of each rank
_FEW = 10  # steps: a percentile of fewer says little of what is to come
_PATIENCE = {  # for what is no part of a step: nobody knows how long it takes before it was seen
    EVALUATING: 60.0,
    SAVING: 180.0,
    RESTING: 180.0,
    OWN: 60.0,
}
_ALL_WAIT_SECONDS = 30.0  # for an exchange that all have begun: then it is the network that is slow


class Stuck(NamedTuple):
    """The verdict: these ranks do not move, for so long, and hold up those; in one sentence."""

    ranks: Tuple[int, ...]
    seconds: float
    held_up: Tuple[int, ...]
    words: str


class _Rank:
    """What is remembered of one rank."""

    def __init__(self, pulse: Pulse, now: float) -> None:
        self.last, self.moved = pulse._replace(timed=0, took=0.0), now
        self.steps: Deque[float] = deque(maxlen=_REMEMBERED)
        self.gaps: Dict[int, Deque[float]] = {}  # by phase: how long nothing was heard in it
        self.note(pulse, now)

    def note(self, pulse: Pulse, now: float) -> None:
        """A new word of the rank."""
        before = self.last
        if pulse.made < before.made or pulse.step - pulse.made != before.step - before.made:  # another fit
            self.steps.clear()
            before = before._replace(timed=0, took=0.0)
        if pulse.timed > before.timed:
            self.steps.append((pulse.took - before.took) / (pulse.timed - before.timed))
        if pulse[1:6] != before[1:6]:
            if before.phase in _PATIENCE:
                self.gaps.setdefault(before.phase, deque(maxlen=_REMEMBERED)).append(now - self.moved)
            self.moved = now
        self.last = pulse

    def patience(self) -> Optional[float]:
        """How long the rank may stand still; None where nothing is known of that."""
        phase = self.last.phase
        if phase in _PATIENCE:
            return max(_PATIENCE[phase], TIMES * _high(self.gaps.get(phase, ())))
        if phase in (STARTING, ENDED) or self.last.made < 1:
            return None
        few = 1 + 1 / self.last.timed if 0 < self.last.timed < _FEW else 1.0
        usual = _high(self.steps) if self.steps else self.last.first
        return max(LEAST_SECONDS, TIMES * few * usual) - _UNSEEN_SECONDS


class History:
    """How the ranks of one attempt have moved so far."""

    def __init__(self) -> None:
        self._ranks: Dict[int, _Rank] = {}

    def note(self, pulses: Iterable[Pulse], now: float) -> None:
        """What ranks say, at a time of the caller's clock; those that say nothing have not moved."""
        for pulse in pulses:
            known = self._ranks.get(pulse.rank)
            if known is None:
                self._ranks[pulse.rank] = _Rank(pulse, now)
            else:
                known.note(pulse, now)

    @property
    def pulses(self) -> List[Pulse]:
        """The last word of every rank."""
        return [known.last for known in self._ranks.values()]

    def still_for(self, rank: int, now: float) -> float:
        """For how many seconds a rank has not moved."""
        return now - self._ranks[rank].moved

    def patience(self, rank: int) -> Optional[float]:
        """How long a rank may stand still; None where that is not known."""
        return self._ranks[rank].patience()


def stuck(pulses: Iterable[Pulse], history: History, now: float, names: Mapping[int, str] = {}) -> Optional[Stuck]:
    """The ranks that hold the others up, or None where all is well. `names` are those of the ranks' nodes."""
    alive = sorted(p for p in pulses if p.phase != ENDED)
    waiting = [p for p in alive if p.phase == WAITING]
    if waiting:
        furthest = max(p.sums for p in waiting)
        behind = [p for p in alive if p.sums < furthest]
    else:  # on a GPU a rank may wait for others while it seems to compute
        furthest = max((p.sums for p in alive), default=0)
        behind = [p for p in alive if p.sums < furthest]
        if not all(_overdue(p, history, now) for p in alive):
            return None
    culprits = [p for p in behind if _overdue(p, history, now)]
    held_up = [p for p in (waiting or alive) if p.sums == furthest]
    if culprits and all(_has_waited(p, history, now) for p in held_up):
        return _verdict(culprits, held_up, history, now, names)
    if waiting and len(waiting) == len(alive) > 1 and not behind:
        return _all_wait(waiting, history, now)
    return None


def _overdue(pulse: Pulse, history: History, now: float) -> bool:
    still = history.still_for(pulse.rank, now)
    if still < LEAST_SECONDS - _UNSEEN_SECONDS:
        return False
    patience = history.patience(pulse.rank)
    return patience is not None and still >= patience


def _has_waited(pulse: Pulse, history: History, now: float) -> bool:
    """Whether a rank has stood still for longer than a step takes: else it is the news of others that is late."""
    patience = max(LEAST_SECONDS - _UNSEEN_SECONDS, history.patience(pulse.rank) or 0.0)
    return history.still_for(pulse.rank, now) >= (patience + _UNSEEN_SECONDS) / TIMES


def _verdict(
    culprits: List[Pulse], held_up: List[Pulse], history: History, now: float, names: Mapping[int, str]
) -> Stuck:
    first = culprits[0]
    seconds = history.still_for(first.rank, now)
    ranks = tuple(p.rank for p in culprits)
    doing = "its process is stopped (SIGSTOP)" if first.state in "Tt" else "it was %s" % first.words
    if first.phase == WAITING:
        doing = "it waits in exchange %d, they in %d: the ranks make different calls" % (first.sums, held_up[0].sums)
    where = " on %s" % names[first.rank] if first.rank in names else ""
    also = "" if len(ranks) == 1 else " (and so do %s)" % _ranks(ranks[1:])
    after = " after step %d" % first.step if first.step else ""
    words = "Rank %d%s has not moved for %.0f s%s; %s%s. %s for it." % (
        first.rank, where, seconds, after, doing, also,
        _ranks(p.rank for p in held_up).capitalize() + (" waits" if len(held_up) == 1 else " wait"),
    )  # fmt: skip
    return Stuck(ranks, seconds, tuple(p.rank for p in held_up), words)


def _all_wait(waiting: List[Pulse], history: History, now: float) -> Optional[Stuck]:
    """All are in the same exchange, and it does not end: nobody's script is at fault."""
    for pulse in waiting:
        patience = history.patience(pulse.rank)
        if patience is None or history.still_for(pulse.rank, now) < max(_ALL_WAIT_SECONDS, patience):
            return None
    seconds = min(history.still_for(p.rank, now) for p in waiting)
    ranks = tuple(p.rank for p in waiting)
    words = "All ranks have waited for each other for %.0f s in the same exchange, after step %d: " % (
        seconds, waiting[0].step,
    )  # fmt: skip
    return Stuck(ranks, seconds, ranks, words + "it is the network, or the library that uses it.")


def _high(values: Iterable[float]) -> float:
    """The 99th percentile; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if ordered else 0.0


def _ranks(numbers: Iterable[int]) -> str:
    """ "rank 3", "ranks 0, 1 and 5 more"."""
    some = list(numbers)
    if len(some) == 1:
        return "rank %d" % some[0]
    more = " and %d more" % (len(some) - 8) if len(some) > 8 else ""
    return "ranks %s%s" % (", ".join(map(str, some[:8])), more)
