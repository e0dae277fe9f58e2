"""One node's agent: turns the node into ranks, passes requests to end on to them, and reports how they ended.

All agents of a job end together: the head's agent tells the others to start and to stop, and a node that is lost, or
that loses the head, ends its ranks. The head starts nothing before the driver has recorded the launcher's handle, so
that a driver's death can never lead to the same job twice. Files it may touch: its own under attempts/K/nodes, its log.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from trainkit.boot import processes
from trainkit.boot.channel import Channel, Message
from trainkit.boot.formation import formation
from trainkit.boot.gathering import Gathering
from trainkit.boot.identity import job_environment, node_environment
from trainkit.boot.ranks import without_ranks
from trainkit.boot.reserved import Reserved
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.boot.shims import ranks_below
from trainkit.errors import LaunchError, TrainkitError
from trainkit.job import Job, Node

HANDLE_SECONDS = 30.0  # for the driver to record its handle
BEAT_SECONDS = 2.0  # between two signs of life of the head, for a driver that can see its files
GRACE_SECONDS = 5.0  # between a request to end and the kill, at least
_FAREWELL_SECONDS = 2.0  # for the other nodes' agents to end once the head has told them that all is over
_MORE_SECONDS = 1.0  # for ranks to report what became of their scripts
VICTIM_SECONDS = 2.0  # for ranks that lost a peer to say so themselves
_TICK = 0.05
_REPORT_BYTES = 32768
_FAILED = "a rank failed"


@dataclass
class _Started:
    """A command of this node and what became of it."""

    argv: List[str]
    process: "subprocess.Popen[bytes]"
    status: Optional[int] = None


@dataclass
class Agent:
    """The agent of node `node` in one attempt of `job`; `on_network` where the nodes are on several machines."""

    job: Job
    attempt: AttemptDir
    node: int
    end: Reserved  # its report, which no full disk hides
    on_network: bool = False
    channel: Optional[Channel] = None
    relay: Any = None
    environment: Dict[str, str] = field(default_factory=dict)  # of everything that is started here
    started: List[_Started] = field(default_factory=list)
    inbox: List[Tuple[int, Message]] = field(default_factory=list)  # came before the ranks were started
    names: Tuple[str, ...] = ()  # of all nodes
    reason: str = ""  # why the ranks were asked to end before they had
    lost: Dict[str, Any] = field(default_factory=dict)  # the first node that was lost: its rank, name, and why
    stopping: float = 0.0  # when the ranks were asked to end; 0 while they run
    victims_until: float = 0.0
    done: Dict[int, bool] = field(default_factory=dict)  # nodes whose commands have all ended
    over: float = 0.0  # when the head said, or was told, that all nodes are done
    beaten: float = 0.0
    asked: bool = False
    grace: float = GRACE_SECONDS

    def run(self) -> None:
        """Live through the whole job, then say how it ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        gathering = Gathering(self.job, self.attempt, self.node, self.on_network, lambda: self.asked)
        problem, transient = "", False
        try:
            if self.node == 0:
                self._await_handle()
            try:
                node = gathering.meet()
            finally:
                self.channel, self.inbox, self.names = gathering.channel, gathering.early, gathering.names
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
        commands = [{"argv": list(s.argv), "status": s.status} for s in self.started]
        name = self.names[self.node] if self.names else gathering.name
        end = {"node": self.node, "name": name, "ended": time.time(), "problem": problem, "commands": commands}
        self.end.publish({**end, "transient": transient, "reason": self.reason, "lost": self.lost})

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True

    def _await_handle(self) -> None:
        deadline = time.monotonic() + HANDLE_SECONDS
        while not self.attempt.handle.exists():
            if self.asked:
                raise LaunchError("Asked to end before the job began.")
            if time.monotonic() > deadline:
                raise LaunchError("The driver has not recorded this launch: it ended before the job began.")
            time.sleep(0.01)

    def _spread(self, node: Node) -> None:
        """Start this node's commands."""
        from trainkit.boot.plugins import spread

        environment = without_ranks(os.environ)
        environment.update(self.job.environment)
        environment.update(job_environment(self.job, node))
        environment.update(node_environment(self.job, self.node, bool(node.machines)))
        environment.pop("PYTHONINSPECT", None)  # would make a prompt of every script's end
        self.environment = environment
        if node.machines and self.channel is not None:
            from trainkit.boot.relay import Relay

            self.relay = Relay(self.node, self.names, self.channel.send, self._start)
            environment.update(self.relay.environment())
        make_private(self.attempt.logs)
        for command in spread(self.job.spread)(self.job, node):
            process = self._start(command.argv, command.environment, sys.stdout.fileno())
            self.started.append(_Started(list(command.argv), process))

    def _start(
        self, argv: Sequence[str], extra: Mapping[str, str], output: int = subprocess.PIPE
    ) -> "subprocess.Popen[bytes]":
        """A process that dies with this agent, in the environment of this node's ranks."""
        return processes.start(argv, {**self.environment, **extra}, self.job.run_dir, output, signal.SIGKILL)

    def _watch(self) -> None:
        """Until all commands of all nodes have ended, or have been ended."""
        limit = time.monotonic() + self.job.max_seconds if self.job.max_seconds else float("inf")
        while True:
            self._note_ends()
            self._note_messages()
            self._beat()
            if self.asked:
                self._stop("canceled")
            if time.monotonic() > limit:
                self._stop("time limit of %g s" % self.job.max_seconds)
            if self.victims_until and time.monotonic() > self.victims_until:
                self._stop(self.reason or _FAILED)
            if self.stopping and time.monotonic() - self.stopping > self.grace:
                return
            if all(s.status is not None for s in self.started) and self._others_done():
                return
            self._sleep()

    def _sleep(self) -> None:
        """Wait a tick, less where a child ends first."""
        signal.sigtimedwait({signal.SIGCHLD}, _TICK)

    def _note_ends(self) -> None:
        for command in self.started:
            if command.status is None and command.process.poll() is not None:
                command.status = command.process.returncode
                if command.status != 0 and not self.stopping and not self.victims_until:
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
            if self.relay is not None and self.relay.take(node, message):
                continue
            if kind == "done":
                self.done[node] = True
            elif kind == "end":
                self.over = time.monotonic()
            elif kind == "stop":
                self._stop(message.get("reason") or "the head asked for it")
            elif kind == "lost":
                self._note_lost(node, message.get("why", ""))
            elif kind == "failed" and not self.victims_until:
                self.victims_until = time.monotonic() + VICTIM_SECONDS
                self.reason = message.get("reason") or ""
        if self.relay is not None:
            self.relay.step()

    def _note_lost(self, node: int, why: str) -> None:
        """A node is gone: so is the job, unless that node had nothing left to do."""
        if self.over or (self.node == 0 and self.done.get(node)):
            return
        if not self.stopping:
            self.lost = {"node": node, "name": self.names[node], "why": why}
            self._stop("node %d (%s) was lost: %s" % (node, self.names[node], why))

    def _beat(self) -> None:
        """The head's sign of life, in a file; and the end of one that was given up while it slept."""
        now = time.monotonic()
        if self.node != 0 or not self.on_network or now - self.beaten < BEAT_SECONDS:
            return
        self.beaten = now
        try:
            self.attempt.beat.write_text("%.3f" % now)
        except OSError:  # a full disk
            pass
        if self.attempt.next().handle.exists():
            self._stop("the job was started again without this node")

    def _others_done(self) -> bool:
        """Whether the other nodes have ended too; the head waits for all, the others only for its word."""
        if self.channel is None:
            return True
        if self.node != 0:
            if not self.done.get(self.node):
                self.done[self.node] = True
                self.channel.send({"type": "done", "node": self.node})
            return bool(self.over or self.stopping)
        self.done[0] = True
        if not self.over and not self.stopping and len(self.done) == self.job.nodes:
            self.over = time.monotonic()
            self.channel.send({"type": "end"})
        if self.stopping or self.over:
            late = self.over and time.monotonic() - self.over > _FAREWELL_SECONDS
            return bool(late or not self.channel.peers())
        return False

    def _stop(self, reason: str) -> None:
        """Ask everything that runs to end, on all nodes."""
        if self.stopping:
            return
        self.stopping, self.reason = time.monotonic(), reason
        if reason != _FAILED:  # after a failure there is nobody to save a state with
            self.grace = max(GRACE_SECONDS, self.job.grace_seconds + _MORE_SECONDS)
        if self.channel is not None:
            self.channel.send({"type": "stop", "reason": reason})
        ranks = ranks_below(os.getpid(), self.job.run_id) if self.grace > GRACE_SECONDS else []
        for pid in ranks:  # mpirun would kill them a second after it was asked to end
            os.kill(pid, signal.SIGTERM)
        for command in self.started:
            if command.status is None and not ranks:
                command.process.send_signal(signal.SIGTERM)

    def _end_all(self) -> None:
        """Leave nothing: what was started, and what that left behind, is this subreaper's to end."""
        for command in self.started:
            if command.process.poll() is None:
                command.process.kill()
            command.status = command.process.wait()
        if self.relay is not None:
            self.relay.close()
        processes.end_children()


def main(argv: List[str]) -> int:
    """Entry point of `python -m trainkit.boot.agent RUN_DIR ATTEMPT NODE [network]`."""
    run_dir, number, place = argv[:3]
    node = int(place if place.isdigit() else os.environ[place])
    attempt = formation(RunDir(run_dir), int(number), node, os.environ)
    make_private(attempt.nodes)
    if processes.hold_lock(attempt.agent_lock(node)) is None:
        return 0
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    processes.become_subreaper()
    here = {"identity": processes.identity(os.getpid()), "time": time.time(), "name": socket.gethostname()}
    publish(attempt.agent(node), here)
    job = read_json(attempt.job)
    if job is None:
        return 1
    end = Reserved(attempt.agent_end(node), _REPORT_BYTES)
    Agent(Job.from_json(job), attempt, node, end, "network" in argv[3:]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
