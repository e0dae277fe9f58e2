"""One node's agent: turns the node into ranks, passes requests to end on to them, and reports how they ended.

All agents of a job end together: the head's agent tells the others to start and to stop, and a node that is lost, or
that loses the head, ends its ranks. The head starts nothing before the driver has recorded the launcher's handle, so
that a driver's death can never lead to the same job twice. In an allocation that the agents hold, they may go on with
the job's next attempt (`trainkit.boot.again`). Files it may touch: its own under attempts/K/nodes, its log.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from trainkit.boot import processes
from trainkit.boot.again import Again, ending
from trainkit.boot.asked import Asked
from trainkit.boot.attempts import time_limit
from trainkit.boot.channel import Channel, Message
from trainkit.boot.commands import Commands
from trainkit.boot.failing import Failing
from trainkit.boot.formation import formation
from trainkit.boot.gathering import Gathering
from trainkit.boot.identity import job_environment, node_environment
from trainkit.boot.inside import mark, seen_here
from trainkit.boot.part import Part
from trainkit.boot.parts import parts_of
from trainkit.boot.ranks import without_ranks
from trainkit.boot.reports import not_begun
from trainkit.boot.reserved import Reserved
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.boot.shims import end_earlier
from trainkit.errors import TrainkitError
from trainkit.job import Job, Node

GRACE_SECONDS = 5.0  # between a request to end and the kill, at least
_FAREWELL_SECONDS = 2.0  # for the other nodes' agents to end once the head has told them that all is over
_MORE_SECONDS = 1.0  # for ranks to report what became of their scripts
VICTIM_SECONDS = 2.0  # for ranks that lost a peer to say so themselves
_TICK, _REPORT_BYTES = 0.05, 32768
_FAILED = "a rank failed"


@dataclass
class Agent:
    """The agent of node `node` in one attempt of `job`; `on_network` where the nodes are on several machines."""

    job: Job
    attempt: AttemptDir
    node: int
    end: Reserved  # its report, which no full disk hides
    asked: Asked
    on_network: bool = False
    may_go_on: bool = False  # with the job's next attempt
    channel: Optional[Channel] = None
    parts: List[Part] = field(default_factory=list)  # what else is done here while the ranks run
    inbox: List[Tuple[int, Message]] = field(default_factory=list)  # came before the ranks were started
    names: Tuple[str, ...] = ()  # of all nodes
    hung: str = ""  # which rank held the others up, where that is why the job was ended
    reason: str = ""  # why the ranks were asked to end before they had
    lost: Dict[str, Any] = field(default_factory=dict)  # the first node that was lost: its rank, name, and why
    stopping: float = 0.0  # when the ranks were asked to end; 0 while they run
    victims_until: float = 0.0
    done: Dict[int, bool] = field(default_factory=dict)  # nodes whose commands have all ended
    over: float = 0.0  # when the head said, or was told, that all nodes are done
    saving: bool = False  # they may save their state, and have `grace` seconds
    grace: float = GRACE_SECONDS
    elastic: bool = False  # the spread goes on by itself without ranks and nodes that are lost
    failing: Failing = field(init=False)  # of this node's ranks, those that something else has started
    again: Again = field(init=False)
    commands: Commands = field(init=False)

    def run(self) -> int:
        """Live through the whole attempt, then say how it ended; the number of the one to go on with, or 0."""
        self.commands = Commands(self.job.run_dir)
        gathering = Gathering(self.job, self.attempt, self.node, self.on_network, lambda: self.asked.yet)
        problem, transient = "", False
        try:
            try:
                node = gathering.meet()
            finally:
                self.channel, self.inbox, self.names = gathering.channel, gathering.early, gathering.names
                self.again = Again(self.job, self.attempt, self.node, self.channel)
            self._spread(node)
            self._watch()
        except TrainkitError as error:
            problem, transient = error.message, bool(getattr(error, "transient", False))
        except Exception as error:  # a spread of another distribution may raise anything
            import traceback

            traceback.print_exc()
            problem = "%s: %s" % (type(error).__name__, error)
        finally:
            self._end_all()
        if problem and self.channel is not None:
            self.channel.send({"type": "failed", "node": self.node, "reason": problem})
        commands = self.commands.told()
        name = self.names[self.node] if self.names else gathering.name
        end = {"node": self.node, "name": name, "ended": time.time(), "problem": problem, "commands": commands}
        told = {"reason": self.reason, "lost": self.lost, "hung": self.hung, "elastic": self.elastic}
        self.end.publish({**end, **told, "transient": transient})
        return self._go_on(bool(problem), commands) if self.may_go_on else 0

    def _go_on(self, troubled: bool, commands: List[Dict[str, Any]]) -> int:
        """The number of the job's next attempt, where the agents go on with it; 0 where they don't."""
        unexpected = self.node == 0 and self.reason not in ("", _FAILED, self.hung)
        otherwise = troubled or unexpected or self.asked.yet or bool(self.lost) or self.elastic
        number = self.again.next(ending(self.attempt, self._ranks(), commands, otherwise))
        if self.channel is not None:
            self.channel.close()
        return number

    def _ranks(self) -> range:
        first = self.node * self.job.ranks_per_node
        return range(first, first + self.job.ranks_per_node)

    def _spread(self, node: Node) -> None:
        """Start this node's commands."""
        from trainkit.boot.plugins import spread

        environment = {**without_ranks(os.environ), **mark(os.environ), **self.job.environment}
        environment.update(job_environment(self.job, node))
        environment.update(node_environment(self.job, self.node, bool(node.machines)))
        environment.pop("PYTHONINSPECT", None)  # would make a prompt of every script's end
        start = self.commands.start
        self.parts = [*parts_of(self.job, self.attempt, node, self.channel, self.on_network, start), self.again]
        for part in self.parts:
            environment.update(part.environment())
        self.commands.environment = environment
        make_private(self.attempt.logs)
        commands = spread(self.job.spread)
        self.elastic = bool(getattr(commands, "owns_restarts", False))
        for command in commands(self.job, node):
            self.commands.run(command.argv, command.environment, sys.stdout.fileno())
        self.failing = Failing(self.attempt, () if self.commands.all_ranks else self._ranks())

    def _watch(self) -> None:
        """Until all commands of all nodes have ended, or have been ended."""
        if self.channel is not None:
            self.channel.wake = partial(signal.pthread_kill, threading.get_ident(), signal.SIGCHLD)
        limit = time.monotonic() + self.job.max_seconds if self.job.max_seconds else float("inf")
        while True:
            self._note_ends()
            self._note_messages()
            self._do_parts()
            if self.asked.yet:
                self._stop("canceled")
            if time.monotonic() > limit:
                self._stop("time limit of %g s" % max(self.job.max_seconds, time_limit(RunDir(self.job.run_dir))))
            if self.victims_until and time.monotonic() > self.victims_until:
                self._stop(self.reason or _FAILED)
            if self.stopping and time.monotonic() - self.stopping > self.grace:
                return
            if self.commands.ended and self._others_done():
                return
            signal.sigtimedwait({signal.SIGCHLD}, _TICK)  # less where a child ends first, or something urgent comes

    def _note_ends(self) -> None:
        bad = self.commands.failed()
        if not (self.stopping or self.victims_until) and (bad or (not self.elastic and self.failing.any())):
            self._failed()

    def _failed(self) -> None:
        self.victims_until = time.monotonic() + VICTIM_SECONDS
        if self.channel is not None:
            self.channel.send({"type": "failed", "node": self.node, "reason": ""})

    def _note_messages(self) -> None:
        if self.channel is None:
            return
        arrived, self.inbox = self.inbox + self.channel.received(), []
        for node, message in arrived:
            kind = message["type"]
            if any(part.take(node, message) for part in self.parts):
                continue
            if kind == "done":
                self.done[node] = bool(message.get("own", True))
            elif kind == "end":
                self.over = time.monotonic()  # nothing is left to do here, not for mpirun either:
                self.channel.send({"type": "done", "node": self.node, "own": True})  # who goes after that is not lost
            elif kind == "stop":
                self._stop(message.get("reason") or "the head asked for it", message.get("save", True))
            elif kind == "lost":
                self._note_lost(node, message.get("why", ""))
            elif kind == "failed" and not self.victims_until:
                self.victims_until = time.monotonic() + VICTIM_SECONDS
                self.reason = message.get("reason") or ""

    def _do_parts(self) -> None:
        for part in self.parts:
            part.step()
            if part.ended_by and not self.stopping:
                self.hung = part.ended_by
                self._stop(part.ended_by, save=False)

    def _note_lost(self, node: int, why: str) -> None:
        """A node is gone: so is the job, unless that node had nothing left to do."""
        for part in self.parts:
            part.lost(node)
        lost = {"node": node, "name": self.names[node], "why": why}
        if self.over and self.done.get(node) is False:  # mpirun may end well, and first, when its daemon there dies
            self.lost = self.lost or lost
        if self.over or (self.node == 0 and self.done.get(node)):
            return
        if self.elastic and self.channel is not None:
            left = 1 + len(self.channel.peers())
            if self.node == 0 and left >= (self.job.min_nodes or self.job.nodes):
                self.done[node] = True
                return
        if not self.stopping:
            self.lost = lost
            self._stop("node %d (%s) was lost: %s" % (node, self.names[node], why), save=False)

    def _others_done(self) -> bool:
        """Whether the other nodes have ended too; the head waits for all, the others only for its word."""
        if self.channel is None:
            return True
        if self.node != 0:
            if not self.done.get(self.node):
                self.done[self.node] = True
                # a node without commands of its own may yet have ranks: those that mpirun starts there
                self.channel.send({"type": "done", "node": self.node, "own": self.commands.any})
            busy = self.saving and any(part.busy for part in self.parts)  # with ranks that mpirun has started here
            return bool(self.over or (self.stopping and not busy))
        self.done[0] = True
        if not self.over and not self.stopping and len(self.done) == self.job.nodes:
            self.over = time.monotonic()
            self.channel.send({"type": "end"})
        if self.stopping or self.over:
            gone = not self.again.left()
            self._note_messages()  # who left last may not have taken leave
            return gone or bool(self.over and time.monotonic() - self.over > _FAREWELL_SECONDS)
        return False

    def _stop(self, reason: str, save: bool = True) -> None:
        """Ask everything that runs to end, on all nodes; `save` where the ranks still can save their state together."""
        if self.stopping:
            return
        self.stopping, self.reason = time.monotonic(), reason
        self.saving = save and reason != _FAILED  # after a failure there is nobody to save a state with
        if self.saving:
            self.grace = max(GRACE_SECONDS, self.job.grace_seconds + _MORE_SECONDS)
        if self.channel is not None:
            self.channel.send({"type": "stop", "reason": reason, "save": save})
        self.commands.ask_to_end(self.job.run_id, saving=self.grace > GRACE_SECONDS)  # for longer than mpirun waits

    def _end_all(self) -> None:
        """Leave nothing: what was started, and what that left behind, is this subreaper's to end."""
        self.commands.end()
        for part in self.parts:
            part.close()
        processes.end_children()


def _begin(attempt: AttemptDir, node: int, asked: Asked, words: List[str]) -> Optional[Agent]:
    """The agent of a node in one attempt; None where there is one already, or no job."""
    make_private(attempt.nodes)
    if processes.hold_lock(attempt.agent_lock(node)) is None:
        return None
    host = socket.gethostname()
    publish(attempt.agent(node), {"identity": processes.identity(os.getpid()), "time": time.time(), "name": host})
    values = read_json(attempt.job)
    if values is None:
        sys.stderr.write("There is no %s on %s: is the run directory not shared?\n" % (attempt.job, host))
        return None
    job = seen_here(Job.from_json(values), os.environ)
    end_earlier(job)
    end = Reserved(attempt.agent_end(node), _REPORT_BYTES)
    return Agent(job, attempt, node, end, asked, "network" in words, "restarts" in words)


def main(argv: List[str]) -> int:
    """Entry point of `python -m trainkit.boot.agent RUN_DIR ATTEMPT NODE [network] [restarts]`."""
    run, told, place = RunDir(argv[0]), int(argv[1]), argv[2]
    node, asked, number = int(place if place.isdigit() else os.environ[place]), Asked(), told
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    processes.become_subreaper()
    while number:
        try:
            attempt = formation(run, number, node)
            if number != told:
                processes.print_to(attempt.agent_log(node))
            agent = _begin(attempt, node, asked, argv[3:])
        except TrainkitError as error:
            return not_begun(run.attempt(number), node, error)
        if agent is None:
            return int(read_json(attempt.job) is None)
        number = agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
