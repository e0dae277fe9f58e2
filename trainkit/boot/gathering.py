"""How the agents of a job's nodes meet before any rank starts: who is who, where the head is, and whether all agree.

Every node reports to the head with its name and what the preflight wants to know of it; the head tells all of them the
list of nodes and its own address; then they compare notes (`trainkit.boot.preflight`), and the head gives the word.
Writes head.json of the attempt (through the channel) and what the preflight records.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from trainkit.boot import network, processes
from trainkit.boot.asked import ASKED
from trainkit.boot.attempts import overtaken
from trainkit.boot.channel import Channel, HeadChannel, Message, NodeChannel
from trainkit.boot.inside import patience
from trainkit.boot.ports import reserve_port
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.errors import LaunchError
from trainkit.job import Job, Node

HANDLE_SECONDS = 30.0  # for the driver to record its handle
LOOK_SECONDS = 0.2  # between two looks at files that say that the job will not begin
GATHER_SECONDS = 60.0  # for all nodes to report to the head
_LOOPBACK = "127.0.0.1"


class Gathering:
    """One node's part in the meeting. `meet` returns its Node; `channel` is None where the job has one node."""

    def __init__(self, job: Job, attempt: AttemptDir, node: int, on_network: bool, asked: Callable[[], bool]) -> None:
        self.job, self.attempt, self.node, self.on_network, self.asked = job, attempt, node, on_network, asked
        self.channel: Optional[Channel] = None
        self.names: Tuple[str, ...] = ()  # of all nodes, once it is known
        self.early: List[Tuple[int, Message]] = []  # what came before somebody waited for it
        self._looked = 0.0  # when the run's files were looked at last

    @property
    def name(self) -> str:
        """What this node calls itself; where one machine hosts several, each has its own name."""
        host = socket.gethostname()
        return host if self.on_network or self.job.nodes == 1 else "%s-%d" % (host, self.node)

    def meet(self) -> Node:
        """Meet the others. Raises LaunchError where a node cannot come, or where the nodes do not agree."""
        if self.node == 0:
            self._await_handle()
        if self.job.nodes == 1:
            self.names = (self.name,)
            address = self._addresses()[0] if self.on_network else _LOOPBACK
            return Node(0, self.names, address, self._port(), self._interface(address), (0,) if self.on_network else ())
        facts = self._lead() if self.node == 0 else self._follow()
        self._preflight(facts)
        own = facts["head"] if self.node == 0 else self._channel(NodeChannel).local
        machines = tuple(facts["machines"])
        return Node(
            self.node, self.names, facts["head"], facts["port"], self._interface(own),
            machines if len(set(machines)) > 1 else (),
        )  # fmt: skip

    def _await_handle(self) -> None:
        """The driver has to record this launch first: else another driver would launch the job again."""
        deadline = time.monotonic() + HANDLE_SECONDS
        while not self.attempt.handle.exists():
            self._check([])
            if time.monotonic() > deadline:
                raise LaunchError("The driver has not recorded this launch: it ended before the job began.")
            time.sleep(0.01)
        self._check_wanted()

    def _check_wanted(self) -> None:
        """Raise LaunchError where the run went on, or has ended, without this attempt: its job had been given up."""
        run = RunDir(self.job.run_dir)
        if overtaken(run, self.attempt) or run.state.exists():
            raise LaunchError("The run went on without this attempt.")

    def _channel(self, kind: Any) -> Any:
        assert isinstance(self.channel, kind)
        return self.channel

    def _lead(self) -> Message:
        """The head: wait for all, tell all who is who."""
        addresses = self._addresses() if self.on_network else [_LOOPBACK]
        self.channel = HeadChannel(self.attempt, addresses)
        wait = patience(GATHER_SECONDS, os.environ)
        hellos: Dict[int, Message] = self.receive("hello", range(1, self.job.nodes), wait)
        hellos[0] = {"name": self.name, "machine": processes.boot_id()}
        self.names = _distinct([str(hellos[n]["name"]) for n in range(self.job.nodes)])
        places = [str(hellos[n]["machine"]) for n in range(self.job.nodes)]
        used = [str(hellos[n]["via"]) for n in range(1, self.job.nodes)]
        if len(set(used)) > 1:
            told = ", ".join("%s by %s" % pair for pair in zip(self.names[1:], used))
            raise LaunchError(
                "The nodes reach the head %s by different addresses (%s): ranks need one that all can use. Put the "
                "nodes on one network, or leave those out that are not." % (self.names[0], told)
            )
        facts: Message = {
            "type": "facts",
            "names": list(self.names),
            "head": used[0],
            "port": self._port(used[0]),
            "machines": [places.index(place) for place in places],
            "addresses": [used[0]] + [str(hellos[n]["local"]) for n in range(1, self.job.nodes)],
        }
        self.send(facts)
        return facts

    def _follow(self) -> Message:
        """Any other node: find the head, learn who is who."""
        hello = {"name": self.name, "machine": processes.boot_id()}
        self.channel = NodeChannel(self.attempt, self.node, hello, lambda: self._check([0]))
        facts = self.receive("facts", [0], patience(GATHER_SECONDS, os.environ))[0]
        self.names = tuple(facts["names"])
        return facts

    def _preflight(self, facts: Message) -> None:
        """Compare notes; the head's findings decide, and its word starts the others."""
        problems: List[str] = []
        if self.on_network and self.job.preflight:
            from trainkit.boot import preflight

            problems = preflight.run(
                self.job, self.attempt, self.node, self.names, facts["addresses"], self.send, self.receive
            )
        if self.node != 0:
            self.receive("go", [0])
            return
        if problems:
            self.send({"type": "stop", "reason": "preflight"})
            raise LaunchError("The nodes are not fit for this job: " + " ".join(problems))
        self.send({"type": "go"})

    def send(self, message: Message, to: Optional[int] = None) -> None:
        """To one peer, or to all."""
        self._channel(Channel).send(message, to)

    def receive(self, kind: str, nodes: Any, seconds: float = GATHER_SECONDS) -> Dict[int, Message]:
        """A message of this kind from each of `nodes`. Raises LaunchError where one cannot come any more."""
        channel: Channel = self._channel(Channel)
        deadline = time.monotonic() + seconds
        found: Dict[int, Message] = {}
        while True:
            arrived, self.early = self.early + channel.received(), []
            for node, message in arrived:
                self._refuse(node, message)
                if message["type"] == kind and node in nodes and node not in found:
                    found[node] = message
                else:
                    self.early.append((node, message))
            missing = [node for node in nodes if node not in found]
            if not missing:
                return found
            self._check(missing)
            if time.monotonic() > deadline:
                raise LaunchError(
                    "Not all %d nodes reported within %g s; %s did not."
                    % (self.job.nodes, seconds, ", ".join("node %d%s" % (n, self._called(n)) for n in missing)),
                    transient=True,
                )
            time.sleep(0.01)

    def _refuse(self, node: int, message: Message) -> None:
        """Raise LaunchError where a message says that there will be no job."""
        if message["type"] == "lost":
            words = "Node %d%s was lost before the job began: %s."
            raise LaunchError(words % (node, self._called(node), message.get("why")), transient=True)
        if message["type"] in ("stop", "failed"):
            why = message.get("reason") or "node %d asked for it" % node
            raise LaunchError("Ended before the job began: %s" % why, transient=True)

    def _called(self, node: int) -> str:
        return " (%s)" % self.names[node] if node < len(self.names) else ""

    def _check(self, missing: List[int]) -> None:
        """Raise LaunchError where a node that is waited for cannot come any more, as far as this machine knows."""
        if self.asked():
            raise LaunchError(ASKED)
        if time.monotonic() - self._looked < LOOK_SECONDS:  # many nodes wait, and their disk is one
            return
        self._looked = time.monotonic()
        self._check_wanted()
        for node in missing:
            agent = str((read_json(self.attempt.agent(node)) or {}).get("identity", ""))
            if agent and not processes.rebooted(agent) and not processes.is_alive(agent):  # so it is of this machine
                raise LaunchError("The agent of node %d was killed before the job began." % node, transient=True)

    def _addresses(self) -> List[str]:
        given = os.environ.get("TRAINKIT_HEAD_ADDRESS", "")
        found = [given] if given else [interface.address for interface in network.interfaces()]
        if not found:
            raise LaunchError("Node %d (%s) has no network interface with an IPv4 address." % (self.node, self.name))
        return found

    def _interface(self, address: str) -> str:
        return network.interface_of(address) if self.on_network else ""

    def _port(self, address: str = _LOOPBACK) -> int:
        port, self._held = reserve_port(address)
        return port


def _distinct(names: List[str]) -> Tuple[str, ...]:
    """The names of the nodes; those that several have get their node's number."""
    return tuple(name if names.count(name) == 1 else "%s-%d" % (name, n) for n, name in enumerate(names))
