"""Which rank holds the others up: simulated runs, healthy ones by the thousand and ones in which something stops."""

from __future__ import annotations

import bisect
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from trainkit.boot import pulse as p
from trainkit.boot.pulse import Pulse
from trainkit.boot.stuck import DUMP_SECONDS, LEAST_SECONDS, READ_SECONDS, TIMES, History, Stuck, stuck

FOREVER = 1e9


@dataclass
class Rank:
    """One simulated rank: what it said when."""

    number: int
    now: float = 0.0
    sums: int = 0
    step: int = 0
    ticks: int = 0
    first: float = 0.0  # how long its first step took
    begun: float = 0.0  # when the one in which it is began
    timed: int = 0
    took: float = 0.0
    longest: float = 0.0
    said: list[tuple[float, Pulse]] = field(default_factory=list)

    def say(self, phase: int) -> None:
        pulse = Pulse(self.number, phase, self.step, self.step, self.sums, self.ticks, self.took)
        self.said.append((self.now, pulse._replace(timed=self.timed, first=self.first)))

    def stepped(self) -> None:
        self.step += 1
        if self.step == 1:
            self.first = self.now - self.begun
        else:
            self.timed, self.took = self.timed + 1, self.took + self.now - self.begun
            self.longest = max(self.longest, self.now - self.begun)
        self.begun = self.now
        self.say(p.DATA)

    def at(self, time: float) -> Pulse:
        return self.said[max(0, bisect.bisect_right(self.said, (time, Pulse(99, 0, 0, 0, 0, 0))) - 1)][1]


class Simulation:
    """A fit on several ranks: steps of random length, evaluations, checkpoints of rank 0; one may stop somewhere."""

    def __init__(self, seed: int, stops: tuple[int, int, int] | None = None) -> None:
        """`stops` is the rank, the step, and the phase in it, in which it moves no more."""
        self.random = random.Random(seed)
        self.stops, self.stopped = stops, FOREVER
        self.ranks = [Rank(n) for n in range(self.random.choice((2, 3, 4, 8)))]
        self.mean = self.random.choice((0.02, 0.2, 1.0, 4.0))
        self.spread = self.random.choice((0.05, 0.3))
        self._run(steps=self.random.randint(8, 60) if stops is None else stops[1])

    def _run(self, steps: int) -> None:
        for rank in self.ranks:
            rank.say(p.STARTING)
            rank.now += self.random.uniform(1, 20)  # to import, to build
        self._exchange(p.STARTING)
        for rank in self.ranks:
            rank.begun = rank.now
        for step in range(1, steps + 1):
            first = self.random.uniform(0, 40) if step == 1 else 0.0  # to compile
            for rank in self.ranks:
                if self._does(rank, p.DATA, self._time(0.2), step) or self._does(
                    rank, p.COMPUTING, self._time(0.7) + first, step
                ):
                    continue
            self._exchange(p.UPDATING)
            if self.stopped < FOREVER:
                return
            for rank in self.ranks:
                rank.now += self._time(0.1)
                rank.stepped()
            if step % 10 == 0:
                self._between()
        for rank in self.ranks:
            rank.say(p.ENDED)

    def _does(self, rank: Rank, phase: int, seconds: float, step: int) -> bool:
        """Whether the rank stops in this phase instead of coming to its end."""
        rank.say(phase)
        if self.stops == (rank.number, step, phase):
            self.stopped, rank.now = rank.now, FOREVER
            return True
        if rank.now < FOREVER:
            rank.now += seconds
        return False

    def _time(self, share: float) -> float:
        return self.mean * share * self.random.lognormvariate(0, self.spread)

    def _exchange(self, after: int) -> None:
        """All wait for the last one."""
        for rank in self.ranks:
            if rank.now < FOREVER:
                rank.sums += 1
                rank.say(p.WAITING)
        end = max(rank.now for rank in self.ranks) + self.random.uniform(0.0005, 0.01)
        for rank in self.ranks:
            rank.now = end
            if end < FOREVER:
                rank.say(after)

    def _between(self) -> None:
        """An evaluation, and a checkpoint that rank 0 writes while the others wait."""
        batches, seconds = self.random.randint(1, 20), self.random.uniform(0.01, 2.0)
        for rank in self.ranks:
            rank.say(p.EVALUATING)
            for _ in range(batches):
                rank.now += seconds * self.random.uniform(0.5, 1.5)
                rank.ticks += 1
                rank.say(p.EVALUATING)
        self._exchange(p.RESTING)
        self.ranks[0].say(p.SAVING)
        self.ranks[0].now += self.random.choice((0.1, 3.0, 50.0))
        self._exchange(p.DATA)
        for rank in self.ranks:  # nothing of that is part of a step
            rank.begun = rank.now

    def watched(self, until: float) -> tuple[Stuck | None, float]:
        """The first verdict of a head that looks about once a second, and when it came."""
        history, now = History(), self.random.uniform(0, 1)
        while now < until:
            history.note([rank.at(now) for rank in self.ranks], now)
            verdict = stuck(history.pulses, history, now)
            if verdict is not None:
                return verdict, now
            now += self.random.uniform(0.95, 1.05)
        return None, now

    @property
    def end(self) -> float:
        return max(rank.said[-1][0] for rank in self.ranks) + 15


@pytest.mark.parametrize("part", range(4))
def test_no_alarm_in_thousands_of_healthy_runs(part: int) -> None:
    for seed in range(part * 500, part * 500 + 500):
        run = Simulation(seed)
        verdict, now = run.watched(run.end)
        assert verdict is None, f"seed {seed} at {now:.1f} s: {verdict}"


def test_a_rank_that_stops_is_named_in_time() -> None:
    """Whichever it is, wherever it stops from the second step on: of a second step the first is the measure."""
    for seed in range(600):
        which = random.Random(seed)
        where = (which.randrange(2), which.randint(2, 60), which.choice((p.DATA, p.COMPUTING)))
        run = Simulation(seed, where)
        rank, few = run.ranks[where[0]], 1.0 if where[1] > 30 else 2.0
        allowed = max(LEAST_SECONDS, TIMES * (rank.first if where[1] == 2 else few * rank.longest))
        allowed -= DUMP_SECONDS  # the rest is for the stacks
        verdict, now = run.watched(run.stopped + 10 * allowed)
        assert verdict is not None and verdict.ranks == (where[0],), f"seed {seed}: {verdict}"
        others = tuple(rank.number for rank in run.ranks if rank.number != where[0])
        assert verdict.held_up == others
        assert now - run.stopped <= allowed + 0.2, f"seed {seed}: after {now - run.stopped:.1f} s of {allowed:.1f}"


def after(seconds: float, *pulses: Pulse, steps: int = 3) -> Stuck | None:
    """The verdict when ranks that made steps of a second have stood still for so long, in these places."""
    history = History()
    for step in range(steps + 1):
        history.note([Pulse(n.rank, p.DATA, step, step, step, 0) for n in pulses], float(step))
    history.note(pulses, steps + 1.0)
    return stuck(history.pulses, history, steps + 1.0 + seconds, {1: "node2"})


def stood(rank: int, step: int, first: float, each: float) -> Pulse:
    """A rank at its work after so many steps."""
    timed = max(0, step - 1)
    return Pulse(rank, p.DATA, step, step, step, 0, timed * each, timed=timed, first=first if step else 0.0)


def stepped(steps: int, each: float, but: Mapping[int, float] = {}) -> tuple[History, float]:
    """Two ranks' history of steps of this length, those named of another one; and when the last was over."""
    history, now, sum_of_timed = History(), 0.0, 0.0
    for step in range(steps + 1):
        took = but.get(step, each) if step else 0.0
        now, sum_of_timed = now + took, sum_of_timed + (took if step > 1 else 0.0)
        history.note([stood(n, step, each, each)._replace(took=sum_of_timed) for n in range(2)], now)
    return history, now


def waits(rank: int, sums: int) -> Pulse:
    return Pulse(rank, p.WAITING, 4, 4, sums, 0)


def test_the_sentence() -> None:
    verdict = after(12.0, waits(0, 9), Pulse(1, p.DATA, 4, 4, 8, 0), waits(2, 9))
    assert verdict is not None and verdict.ranks == (1,) and verdict.held_up == (0, 2)
    assert verdict.words == (
        "Rank 1 on node2 has not moved for 12 s after step 4; it was waiting for data. Ranks 0, 2 wait for it."
    )
    stopped = after(12.0, waits(0, 9), Pulse(1, p.COMPUTING, 4, 4, 8, 0, state="T"))
    assert stopped is not None and "its process is stopped (SIGSTOP). Rank 0 waits for it." in stopped.words
    own = after(70.0, waits(0, 9), Pulse(1, p.OWN, 4, 4, 8, 0, name="tokenising"))
    assert own is not None and 'after step 4; it was in "tokenising". Rank 0 waits' in own.words


def test_who_is_not_stuck() -> None:
    assert after(5.0, waits(0, 9), Pulse(1, p.DATA, 4, 4, 8, 0)) is None
    assert after(60.0, Pulse(0, p.DATA, 4, 4, 8, 0), Pulse(1, p.DATA, 4, 4, 8, 0)) is None  # nobody waits for anybody
    assert after(60.0, waits(0, 9), Pulse(1, p.ENDED, 4, 4, 8, 0)) is None
    assert after(60.0, waits(0, 9), Pulse(1, p.SAVING, 4, 4, 8, 0)) is None
    assert after(600.0, waits(0, 1), Pulse(1, p.COMPUTING, 0, 0, 0, 0), steps=0) is None  # a first step
    assert stuck([], History(), 0.0) is None


def test_news_that_are_late_accuse_nobody() -> None:
    """A node's agent that waits for a disk passes nothing on, and its ranks train on."""
    history = History()
    for look in range(20):
        now = float(look)
        done = int(now / 0.5)
        history.note([Pulse(0, p.WAITING, done, done, done + 1, 0, done * 0.5, timed=done)], now)
        if look < 5:
            history.note([stood(1, done, 0.5, 0.5)], now)
        assert stuck(history.pulses, history, now) is None, look


def test_ranks_that_make_different_calls() -> None:
    verdict = after(12.0, waits(0, 9), waits(1, 8))
    assert verdict is not None and verdict.ranks == (1,)
    assert "exchange 8, they in 9: the ranks make different calls" in verdict.words


def test_ranks_that_wait_for_the_device_while_they_seem_to_compute() -> None:
    verdict = after(12.0, Pulse(0, p.UPDATING, 4, 4, 9, 0), Pulse(1, p.DATA, 4, 4, 8, 0))
    assert verdict is not None and verdict.ranks == (1,) and verdict.held_up == (0,)


def test_all_wait_for_each_other() -> None:
    assert after(20.0, waits(0, 9), waits(1, 9)) is None
    verdict = after(40.0, waits(0, 9), waits(1, 9))
    assert verdict is not None and "the network" in verdict.words and verdict.ranks == (0, 1)


def test_long_steps_are_given_their_time() -> None:
    for steps, limit in ((2, 120.0), (3, 90.0), (5, 75.0), (9, 67.5), (11, 60.0), (200, 60.0)):
        history, now = stepped(steps, 20.0)
        history.note([waits(0, steps + 1)], now + 1)
        assert history.patience(1) == pytest.approx(limit - 2 * READ_SECONDS - DUMP_SECONDS), steps
        assert stuck(history.pulses, history, now + limit - 3.1) is None, steps
        assert stuck(history.pulses, history, now + limit - 2.9) is not None, steps


def test_the_bound_is_the_99th_percentile_and_not_the_longest() -> None:
    history, now = stepped(201, 20.0, {100: 90.0})
    assert history.patience(1) == TIMES * 20.0 - 2 * READ_SECONDS - DUMP_SECONDS
    history, now = stepped(50, 20.0, {25: 90.0})
    assert history.patience(1) == TIMES * 90.0 - 2 * READ_SECONDS - DUMP_SECONDS


def test_looks_between_steps_do_not_make_them_longer() -> None:
    """Steps of 4.5 s are seen as ones of 4 and of 5 s."""
    history = History()
    for look in range(100):
        history.note([stood(0, int(look / 4.5), 4.5, 4.5)], float(look))
    assert history.patience(0) == pytest.approx(TIMES * 4.5 - 2 * READ_SECONDS - DUMP_SECONDS)


@pytest.mark.parametrize("steps_seen", [0, 1])
def test_a_stop_in_the_second_step_is_named_after_three_times_the_first(steps_seen: int) -> None:
    """Also where the first one was over before anybody looked."""
    for first, limit in ((0.05, 10.0), (30.0, 90.0)):
        history = History()
        if steps_seen == 0:
            history.note([Pulse(n, p.STARTING, 0, 0, 0, 0) for n in range(2)], 0.0)
        behind = Pulse(1, p.COMPUTING, 1, 1, 1, 0, first=first)
        history.note([waits(0, 2)._replace(step=1, made=1, first=first), behind], first)
        now = first + limit - 2 * READ_SECONDS - DUMP_SECONDS
        assert stuck(history.pulses, history, now - 0.1) is None
        verdict = stuck(history.pulses, history, now + 0.1)
        assert verdict is not None and verdict.ranks == (1,) and "after step 1;" in verdict.words


def test_another_fit_has_steps_of_its_own() -> None:
    history, now = stepped(30, 1.0)
    history.note([Pulse(n, p.DATA, 0, 0, 30, 0) for n in range(2)], now + 5)
    assert history.patience(1) is None  # its first step
    history.note([stood(n, 1, 40.0, 0.0) for n in range(2)], now + 45)
    assert history.patience(1) == TIMES * 40.0 - 2 * READ_SECONDS - DUMP_SECONDS


@pytest.mark.parametrize(("phase", "seconds"), [(p.EVALUATING, 60), (p.OWN, 60), (p.SAVING, 180), (p.RESTING, 180)])
def test_what_is_no_part_of_a_step_has_more_time(phase: int, seconds: float) -> None:
    assert after(seconds - 1, waits(0, 9), Pulse(1, phase, 4, 4, 8, 0)) is None
    assert after(seconds + 1, waits(0, 9), Pulse(1, phase, 4, 4, 8, 0)) is not None


def test_a_resumed_fit_begins_anew() -> None:
    """Step 1000 of the fit may be the first of this process: it compiles."""
    history = History()
    history.note([Pulse(n, p.COMPUTING, 1000, 0, 1, 0) for n in range(2)], 0.0)
    history.note([Pulse(0, p.WAITING, 1000, 0, 2, 0)], 1.0)
    assert stuck(history.pulses, history, 500.0) is None
