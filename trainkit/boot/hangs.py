"""An agent's part in finding ranks that hang: reads its ranks' pages once a second and tells the head what has changed.

The head decides (`trainkit.boot.stuck`), has every node ask its ranks for their stacks, and appends what was found to
hangs.jsonl of the attempt; then `ended_by` says in one sentence why the job should end, where that was asked for.
Nothing here waits: `step` is called in the agent's loop.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence

from trainkit.boot.channel import Channel
from trainkit.boot.part import Part
from trainkit.boot.pulse import ENDED, Pulse, Reader
from trainkit.boot.rundir import AttemptDir, Lines
from trainkit.boot.shims import ranks_below
from trainkit.boot.stuck import DUMP_SECONDS, READ_SECONDS, History, Stuck, stuck
from trainkit.job import Job

PULSE, ASK, STACKS = "pulse", "ask for stacks", "stacks"  # types of messages
_LATE_SECONDS = 3.0  # for one on a node that has other things to do
_GATHER_SECONDS = 4.0  # for all nodes to send them
_MOST_PAUSE_SECONDS = 20.0  # between two searches for ranks, which may have no page: those that a command has made
_MOST_BYTES = 200_000  # of stacks in one message
Message = Dict[str, Any]


class Hangs(Part):
    """One node's watch over its ranks, and at the head over all of them."""

    def __init__(
        self, job: Job, attempt: AttemptDir, node: int, names: Sequence[str],
        send: Callable[[Message, Optional[int]], None], shims: Callable[[], Iterable[int]], end: bool = False,
    ) -> None:  # fmt: skip
        """`shims` gives the processes of this node's ranks; `end` says that a rank that hangs ends the job."""
        self.job, self.attempt, self.node, self.names = job, attempt, node, tuple(names)
        self.send, self.shims, self.end = send, shims, end
        self.readers: Dict[int, Reader] = {}  # by rank
        self._told: Dict[int, Pulse] = {}
        self._looked = 0.0
        self._search_at, self._pause = 0.0, READ_SECONDS / 2
        self._asked = 0.0  # when this node's ranks were asked for their stacks
        self._history = History()
        self._found: Optional[Stuck] = None  # whose stacks are being gathered, since
        self._since = 0.0
        self._stacks: Dict[int, Dict[str, str]] = {}  # by node
        self._reported: Dict[int, Pulse] = {}  # the last word of ranks that were named

    def step(self) -> None:
        """Look, tell and decide, if it is time to."""
        now = time.monotonic()
        if self._asked and now - self._asked >= DUMP_SECONDS:
            self._answer(now - self._asked >= _LATE_SECONDS)
        if self._found is not None and (len(self._stacks) == self.job.nodes or now - self._since > _GATHER_SECONDS):
            self._record(self._found)
            self._found = None
        if now - self._looked < READ_SECONDS:
            return
        self._looked = now
        changed = self._read(now)
        if self.node == 0:
            self._history.note(changed, now)
            self._decide(now)
        elif changed:
            self.send({"type": PULSE, "ranks": [list(pulse) for pulse in changed]}, 0)

    def take(self, node: int, message: Message) -> bool:
        """Take in a message of another node's watch; whether it was one."""
        kind = message.get("type")
        if kind == PULSE:
            self._history.note([Pulse(*values) for values in message["ranks"]], time.monotonic())
        elif kind == ASK:
            self._ask()
        elif kind == STACKS:
            self._stacks[node] = dict(message["ranks"])
        else:
            return False
        return True

    def close(self) -> None:
        """Let go of the ranks' pages."""
        for reader in self.readers.values():
            reader.close()
        self.readers.clear()

    def _read(self, now: float) -> List[Pulse]:
        """What this node's ranks say that they have not said before."""
        if len(self.readers) < self.job.ranks_per_node and now >= self._search_at:
            self._pause = min(_MOST_PAUSE_SECONDS, self._pause * 1.5)
            self._search_at = now + self._pause
            known = {reader.shim for reader in self.readers.values()}
            for shim in self.shims():
                reader = Reader.of(shim) if shim not in known else None
                if reader is not None:
                    self._add(reader)
        changed = []
        for rank, reader in self.readers.items():
            pulse = reader.read()
            if pulse.state in "ZX":
                pulse = pulse._replace(phase=ENDED)
            before = self._told.get(rank)
            if before is None or (pulse[1:6], pulse.state in "Tt") != (before[1:6], before.state in "Tt"):
                self._told[rank] = pulse
                changed.append(pulse)
        return changed

    def _add(self, reader: Reader) -> None:
        """A rank's page; of two with one rank (an elastic spread replaces ranks) that of the process that lives."""
        rank = reader.read().rank
        before = self.readers.get(rank)
        if before is not None and before.read().state not in "ZX":
            reader.close()
            return
        if before is not None:
            before.close()
        self.readers[rank] = reader

    def _decide(self, now: float) -> None:
        """The head: find who hangs, gather stacks, record."""
        if self._found is not None:  # its stacks come
            return
        pulses = self._history.pulses
        where = {p.rank: self.names[p.rank // self.job.ranks_per_node] for p in pulses} if len(self.names) > 1 else {}
        found = stuck(pulses, self._history, now, where)
        last = {pulse.rank: pulse for pulse in pulses}
        if found is None or all(_same(last[rank], self._reported.get(rank)) for rank in found.ranks):
            return
        self._reported.update({rank: last[rank] for rank in found.ranks})
        self._found, self._since, self._stacks = found, now, {}
        self.send({"type": ASK}, None)
        self._ask()

    def _ask(self) -> None:
        for reader in self.readers.values():
            reader.ask()
        self._asked = time.monotonic()

    def _answer(self, late: bool) -> None:
        """Send the stacks of this node's ranks to the head; unless it is late, once all have left theirs that can."""
        room = _MOST_BYTES // max(1, len(self.readers))
        found = {str(rank): reader.answer()[:room] for rank, reader in self.readers.items()}
        mute = [reader.read() for rank, reader in self.readers.items() if not found[str(rank)]]
        if not late and any(pulse.state not in "TtZX" for pulse in mute):
            return
        self._asked = 0.0
        if self.node == 0:
            self._stacks[0] = found
        else:
            self.send({"type": STACKS, "ranks": found}, 0)

    def _record(self, found: Stuck) -> None:
        stacks: Dict[str, str] = {}
        for told in self._stacks.values():
            stacks.update(told)
        with suppress(OSError):  # of a full disk: the job goes on
            lines = Lines(self.attempt.hangs)
            try:
                lines.append({"time": time.time(), **found._asdict(), "stacks": _in_order(stacks)})
            finally:
                lines.close()
        if self.end:
            self.ended_by = found.words


def watch(job: Job, attempt: AttemptDir, node: int, names: Sequence[str], channel: Optional[Channel]) -> Hangs:
    """The watch of the agent that calls this, over the ranks that it, or what it has started, starts."""

    def send(message: Message, to: Optional[int]) -> None:
        if channel is not None:
            channel.send(message, to)

    end = job.hang == "end"
    return Hangs(job, attempt, node, names, send, partial(ranks_below, os.getpid(), job.run_id), end)


def _same(one: Pulse, other: Optional[Pulse]) -> bool:
    return other is not None and one[1:6] == other[1:6]


def _in_order(stacks: Mapping[str, str]) -> Dict[str, str]:
    return {rank: stacks[rank] for rank in sorted(stacks, key=int)}
