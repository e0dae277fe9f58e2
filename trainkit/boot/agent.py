"""One node's agent: turns the node into ranks, passes requests to end on to them, and reports how they ended.

All agents of a job end together: the head's agent tells the others to start and to stop, and a node that is lost, or
that loses the head, ends its ranks. An agent runs nothing before the driver has recorded the launcher's handle, so that
a driver's death can never lead to the same job twice. Files it may touch: its own under attempts/K/nodes and its log.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from trainkit.boot import processes
from trainkit.boot.identity import job_environment, node_environment
from trainkit.boot.ports import reserve_port
from trainkit.boot.ranks import without_ranks
from trainkit.boot.reserved import Reserved
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.errors import LaunchError, TrainkitError
from trainkit.job import Job, Node, is_rank

HANDLE_SECONDS = 30.0  # for the driver to record its handle
GATHER_SECONDS = 60.0  # for all nodes to report to the head
GRACE_SECONDS = 5.0  # between a request to end and the kill, at least
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
    """The agent of node `node` in one attempt of `job`."""

    job: Job
    attempt: AttemptDir
    node: int
    end: Reserved  # its report, which no full disk hides
    channel: Any = None
    started: List[_Started] = field(default_factory=list)
    reason: str = ""  # why the ranks were asked to end before they had
    stopping: float = 0.0  # when that was; 0 while they run
    victims_until: float = 0.0
    done: Dict[int, bool] = field(default_factory=dict)  # nodes whose commands have all ended
    asked: bool = False
    grace: float = GRACE_SECONDS

    @property
    def name(self) -> str:
        """This node's name; where one machine hosts several, each has its own."""
        host = socket.gethostname()
        return host if self.job.nodes == 1 else "%s-%d" % (host, self.node)

    def run(self) -> None:
        """Live through the whole job, then say how it ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        problem = ""
        try:
            self._await_handle()
            self._spread(self._gather())
            self._watch()
        except TrainkitError as error:
            problem = error.message
        except Exception as error:  # a spread of another distribution may raise anything
            import traceback

            traceback.print_exc()
            problem = "%s: %s" % (type(error).__name__, error)
        finally:
            self._end_all()
        if problem and self.channel is not None:
            self.channel.send({"type": "failed", "node": self.node, "reason": problem})
        commands = [{"argv": list(s.argv), "status": s.status} for s in self.started]
        end = {"node": self.node, "name": self.name, "ended": time.time(), "problem": problem, "commands": commands}
        self.end.publish({**end, "reason": self.reason})

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

    def _gather(self) -> Node:
        """Meet the other nodes; what this one needs to know of them."""
        address = os.environ.get("TRAINKIT_HEAD_ADDRESS", "127.0.0.1")
        if self.node == 0:
            port, self._port_lock = reserve_port(address)
        if self.job.nodes == 1:
            return Node(0, (self.name,), address, port)
        from trainkit.boot.channel import HeadChannel, NodeChannel

        if self.node == 0:
            self.channel = HeadChannel(self.attempt, address)
            names = {0: self.name}
            self._await(
                lambda n, m: names.update({n: m["name"]}),
                lambda: [n for n in range(self.job.nodes) if n not in names],
                "hello",
            )
            facts: Dict[str, Any] = {"names": [names[n] for n in sorted(names)], "head": address, "port": port}
            self.channel.send({"type": "facts", **facts})
        else:
            self.channel = NodeChannel(self.attempt, self.node, self.name, lambda: self._check_gathering([0]))
            facts = {}
            self._await(lambda n, m: facts.update(m), lambda: [] if "names" in facts else [0], "facts")
        return Node(self.node, tuple(facts["names"]), facts["head"], facts["port"])

    def _await(self, take: Any, missing: Any, kind: str) -> None:
        """Take in a message of this kind from every node that is `missing`."""
        deadline = time.monotonic() + GATHER_SECONDS
        while missing():
            for node, message in self.channel.received():
                if message["type"] == kind:
                    take(node, message)
                elif message["type"] in ("lost", "stop", "failed"):
                    raise LaunchError("Node %d was lost before the job began." % node, transient=True)
            self._check_gathering(missing())
            if time.monotonic() > deadline:
                raise LaunchError("Not all %d nodes reported within %d s." % (self.job.nodes, GATHER_SECONDS))
            time.sleep(0.01)

    def _check_gathering(self, missing: List[int]) -> None:
        """Raise LaunchError where a node that is waited for cannot come any more, as far as this machine knows."""
        if self.asked:
            raise LaunchError("Asked to end before the job began.")
        for node in missing:
            agent = str((read_json(self.attempt.agent(node)) or {}).get("identity", ""))
            if agent and not processes.rebooted(agent) and not processes.is_alive(agent):  # so it is of this machine
                raise LaunchError("The agent of node %d was killed before the job began." % node, transient=True)

    def _spread(self, node: Node) -> None:
        """Start this node's commands."""
        from trainkit.boot.plugins import spread

        environment = without_ranks(os.environ)
        environment.update(self.job.environment)
        environment.update(job_environment(self.job, node))
        environment.update(node_environment(self.job, self.node))
        environment.pop("PYTHONINSPECT", None)  # would make a prompt of every script's end
        make_private(self.attempt.logs)
        for command in spread(self.job.spread)(self.job, node):
            own = {**environment, **command.environment}
            process = processes.start(command.argv, own, self.job.run_dir, sys.stdout.fileno(), signal.SIGKILL)
            self.started.append(_Started(list(command.argv), process))

    def _watch(self) -> None:
        """Until all commands of all nodes have ended, or have been ended."""
        limit = time.monotonic() + self.job.max_seconds if self.job.max_seconds else float("inf")
        while True:
            self._note_ends()
            self._note_messages()
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
        for node, message in self.channel.received():
            kind = message["type"]
            if kind == "done":
                self.done[node] = True
            elif kind == "stop" or (kind == "lost" and self.node != 0):
                self._stop(message.get("reason") or "the head's agent was lost")
            elif kind == "lost" and not self.done.get(node):
                self._stop("node %d was lost" % node)
            elif kind == "failed" and not self.victims_until:
                self.victims_until = time.monotonic() + VICTIM_SECONDS
                self.reason = message.get("reason") or ""

    def _others_done(self) -> bool:
        """Whether the other nodes have ended too; the head waits for all, the others only for its word."""
        if self.channel is None or self.stopping:
            return True
        if not self.done.get(self.node):
            self.done[self.node] = True
            self.channel.send({"type": "done", "node": self.node})
        return self.node != 0 or len(self.done) == self.job.nodes

    def _stop(self, reason: str) -> None:
        """Ask everything that runs to end, on all nodes."""
        if self.stopping:
            return
        self.stopping, self.reason = time.monotonic(), reason
        if reason != _FAILED:  # after a failure there is nobody to save a state with
            self.grace = max(GRACE_SECONDS, self.job.grace_seconds + _MORE_SECONDS)
        if self.channel is not None:
            self.channel.send({"type": "stop", "reason": reason})
        ranks = _ranks_below(os.getpid(), self.job.run_id) if self.grace > GRACE_SECONDS else []
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
        processes.end_children()


def _ranks_below(agent: int, run_id: str) -> List[int]:
    """The shims of all ranks that the agent, or what it has started, has started."""
    found = []
    for pid in processes.with_environment("TRAINKIT_RUN_ID", run_id):
        try:
            with open("/proc/%d/cmdline" % pid, "rb") as file:
                words = os.fsdecode(file.read()).split("\0")
        except OSError:
            continue
        if is_rank(words):
            found.append(pid)
    ranks = []
    for pid in found:
        parent = processes.parent_of(pid)
        if parent in found:
            continue  # a shim's script, which has the same words
        while parent > 1 and parent != agent:
            parent = processes.parent_of(parent)
        if parent == agent:
            ranks.append(pid)
    return ranks


def main(argv: List[str]) -> int:
    """Entry point of `python -m trainkit.boot.agent RUN_DIR ATTEMPT NODE`."""
    run_dir, number, node = argv[0], int(argv[1]), int(argv[2])
    attempt = RunDir(run_dir).attempt(number)
    make_private(attempt.nodes)
    if processes.hold_lock(attempt.agent_lock(node)) is None:
        return 0
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    processes.become_subreaper()
    publish(attempt.agent(node), {"identity": processes.identity(os.getpid()), "time": time.time()})
    job = read_json(attempt.job)
    if job is None:
        return 1
    Agent(Job.from_json(job), attempt, node, Reserved(attempt.agent_end(node), _REPORT_BYTES)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
