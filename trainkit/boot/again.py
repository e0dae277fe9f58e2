"""Starting a job again in an allocation that still lives: the agents stay, the head's forms the next attempt.

Where a rank has failed and no node is lost, nothing has to be asked of the cluster. Every agent that has ended its
ranks tells the head what became of them and waits; the head decides, by these words and by the restarts that are left,
and says "again" or hangs up. Lost nodes, agents that could not begin, and whatever somebody has asked to end are left
to the cluster and the driver. Only the head writes: the next attempt's folder.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from trainkit.boot.attempts import spent
from trainkit.boot.channel import Channel
from trainkit.boot.formation import form
from trainkit.boot.part import Part
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.errors import WorkspaceException
from trainkit.job import Job, is_rank

ENDED, AGAIN = "ended", "again"  # types of messages
_PATIENCE_SECONDS = 15.0  # for agents that are there yet have not said that their ranks have ended
_LOOK_SECONDS = 0.02
Message = Dict[str, Any]


class Ending(NamedTuple):
    """How one node's agent has ended its ranks: one of three cases."""

    well: bool  # all of its ranks have records of success
    hopeless: bool  # somebody asked for it, or another try here would not help


def ending(
    attempt: AttemptDir, ranks: Sequence[int], commands: Sequence[Mapping[str, Any]], ended_otherwise: bool
) -> Ending:
    """Of a node with these ranks, whose commands are {"argv", "status"}.

    `ended_otherwise` says that more than a failure of ranks has ended them. A world of another size, a rank that could
    not even begin, and a process that cannot be killed are hopeless.
    """
    records = [_record(attempt, rank) for rank in ranks]
    failed = [r for r in records if r is not None and (r.get("exit_code") != 0 or r.get("signal"))]
    missing = None in records
    if not missing and not failed:
        return Ending(True, False)
    statuses = [command["status"] for command in commands]
    bare = [c["status"] for c in commands if is_rank(c["argv"]) and 0 < (c["status"] or 0) < 128]
    without_a_record = missing and not failed and bool(bare)
    refused = any(record.get("kind") for record in failed)
    return Ending(False, ended_otherwise or refused or without_a_record or None in statuses)


def _record(attempt: AttemptDir, rank: int) -> Optional[Message]:
    try:
        return read_json(attempt.rank_record(rank))
    except WorkspaceException:  # damaged
        return None


class Again(Part):
    """One agent's part in deciding whether the job of an attempt that has ended is started again where it is."""

    def __init__(self, job: Job, attempt: AttemptDir, node: int, channel: Optional[Channel]) -> None:
        self.job, self.attempt, self.node, self.channel = job, attempt, node, channel
        self.run = RunDir(job.run_dir)
        self.endings: Dict[int, Ending] = {}  # at the head, of the other nodes

    def take(self, node: int, message: Message) -> bool:
        """Take in another agent's word on its end; whether the message was one."""
        if message.get("type") != ENDED:
            return False
        self.endings[node] = Ending(bool(message["well"]), bool(message["hopeless"]))
        return True

    def left(self) -> List[int]:
        """The nodes whose agents are there, and have not said that their ranks have ended."""
        return [] if self.channel is None else [n for n in self.channel.peers() if n not in self.endings]

    def next(self, own: Ending) -> int:
        """The number of the next attempt, in which this node is the same one; 0 where there is none."""
        if self.node != 0:
            return self._follow(own)
        if self.channel is not None:
            self._await_others(self.channel)
        nodes = [own, *(self.endings.get(node) for node in range(1, self.job.nodes))]
        here = self.channel is None or self.channel.peers() == list(range(1, self.job.nodes))
        if not here or None in nodes or not self._may([node for node in nodes if node is not None]):
            return 0
        following = self.attempt.next()
        try:
            os.mkdir(str(following.path), 0o700)
        except OSError:  # the run went on without this attempt, or there is no room
            return 0
        form(self.run, self.attempt, following, requeued=False)
        if self.channel is not None:
            self.channel.send({"type": AGAIN, "attempt": following.number})
        return following.number

    def _may(self, endings: Sequence[Ending]) -> bool:
        if all(one.well for one in endings) or any(one.hopeless for one in endings):
            return False
        ended = self.run.cancel.exists() or self.run.state.exists()
        return not ended and not spent(self.run, self.job.max_restarts)

    def _await_others(self, channel: Channel) -> None:
        """Ranks that do not end are killed a little later on one node than on another."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.left() and time.monotonic() < deadline:
            for node, message in channel.received():
                self.take(node, message)
            time.sleep(_LOOK_SECONDS)

    def _follow(self, own: Ending) -> int:
        """Tell the head; wait for its word, or for its hanging up."""
        if self.channel is None:
            return 0
        self.channel.send({"type": ENDED, **own._asdict()})
        while True:
            gone = not self.channel.peers()
            for _, message in self.channel.received():
                if message["type"] == AGAIN:
                    return int(message["attempt"])
            if gone:
                return 0
            time.sleep(_LOOK_SECONDS)
