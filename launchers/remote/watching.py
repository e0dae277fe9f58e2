"""Watching a job's agents from afar, in the background: who asks gets what is known, at once.

A host is asked by one connection that stays until the agent ends or two seconds have gone by, so that an end is seen
when it happens. All that is remembered can be found out again: another process that watches comes to the same words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainkit.job import Status

from .asking import Line, Reply
from .hosts import Host

SILENT_SECONDS = 10.0  # without an answer: a host that cannot be reached
UNSEEN_SECONDS = 60.0  # after a cancel, without an answer of any host: the job is given up
_STAY_SECONDS = 2.0  # a connection waits so long for an agent's end
_PAUSE_SECONDS = 1.0  # after a host has not answered
_FIRST_SECONDS = 5.0  # the first question of a process waits so long for its answer
_RECORDED_SECONDS = 30.0  # a launch is recorded by then, or its agents have ended
_TICK_SECONDS = 0.05
_WITNESSES = 4  # hosts that are asked whether it is this machine that is cut off


class Files(Protocol):
    """What a job without a shared disk needs while it runs."""

    def sent(self) -> Mapping[str, str]:
        """Files for the head: path there to text."""
        ...

    def introduce(self) -> None:
        """Tell the other nodes where the head listens."""
        ...

    def fetch(self, nodes: Sequence[int]) -> str:
        """Bring what was written on these nodes; why that could not be done, or nothing."""
        ...

    def clean(self, nodes: Sequence[int]) -> None:
        """Remove there what was brought here."""
        ...


@dataclass
class Watch:
    """One job's agents, as far as this process knows of them."""

    line: Line
    agents: Sequence[tuple[Host, str]]  # node 0's first
    spares: Sequence[Host] = ()
    words: str = ""  # on how it was started, while it runs: they explain no end
    files: Files | None = None
    status: Status = field(default_factory=lambda: Status("running"))
    _gone: dict[int, str] = field(default_factory=dict)  # nodes whose agent has ended; why that is only supposed
    _silent: dict[int, float] = field(default_factory=dict)  # since when a node has not answered
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _courier: threading.Thread | None = None
    _problem: str = ""  # that the courier met last
    _answered: threading.Event = field(default_factory=threading.Event)
    _not_before: float = 0.0
    _cancelled: float = float("inf")  # since when the job's end is wanted

    def cancel(self) -> None:
        """Ask the agents to end their ranks and themselves; a host that cannot be reached is left to its agent."""
        self._cancelled = min(self._cancelled, time.monotonic())
        self.line.ask([(host, {"act": "ask_to_end", "agents": [agent]}) for host, agent in self.agents])

    def look(self) -> Status:
        """What is known now; has the next round begin."""
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if self.status.phase == "running" and not busy and time.monotonic() >= self._not_before:
                self._thread = threading.Thread(target=self._round, name="trainkit-ssh", daemon=True)
                self._thread.start()
        self._answered.wait(_FIRST_SECONDS)
        return self.status

    def attend(self) -> None:
        """Have the head told that its launch is recorded as soon as it is, whether or not anybody looks."""
        deadline = time.monotonic() + _RECORDED_SECONDS
        while self.files is not None and not self.files.sent() and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
        self.look()

    def _round(self) -> None:
        try:
            self._ask()
        except Exception as error:  # nobody is told but by words: a watcher must not end the run that it watches
            self._running(f"the hosts cannot be asked: {type(error).__name__}: {error}")
            self._not_before = time.monotonic() + _PAUSE_SECONDS
        finally:
            self._answered.set()

    def _running(self, words: str = "") -> None:
        self.status = Status("running", words or self.words)

    def _ask(self) -> None:
        if 0 not in self._gone and not self._head_has_ended():
            return
        rest, begun = [node for node in range(len(self.agents)) if node not in self._gone], time.monotonic()
        for node, reply in zip(rest, self._ask_nodes(rest, _STAY_SECONDS), strict=True):
            if self._heard(node, reply, begun):
                self._gone.update({} if reply.values["alive"] else {node: ""})
            elif self._is_lost(node):
                self._gone[node] = f"{reply.host.text} has not answered for {SILENT_SECONDS:g} s: {reply.error}"
            else:
                self._not_before = time.monotonic() + _PAUSE_SECONDS
        if len(self._gone) == len(self.agents):
            self._finish()

    def _finish(self) -> None:
        """The end: all that was written is here first."""
        reached = [node for node, why in self._gone.items() if not why]
        words = [why for _, why in sorted(self._gone.items()) if why]
        if self.files is not None:
            if self._courier is not None:
                self._courier.join()
            problem = self.files.fetch(reached)
            if problem and not self._is_lost(-1):
                self._silent.setdefault(-1, time.monotonic())
                self._not_before = time.monotonic() + _PAUSE_SECONDS
                return self._running(f"the results cannot be fetched yet: {problem}")
            if problem:
                words.append(f"results are missing: {problem}")
            else:
                self.files.clean(reached)
        self.status = Status("ended", "; ".join(words))

    def _head_has_ended(self) -> bool:
        """Ask the head; also where it says nothing it is decided here what that means."""
        begun = time.monotonic()
        stay = _STAY_SECONDS if self._answered.is_set() else 0.0
        (reply,) = self._ask_nodes([0], stay)
        if not self._heard(0, reply, begun):
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            self._weigh_silence(reply)
            return False
        if reply.values["restarted"]:
            self.status = Status("lost", f"{reply.host.text} was restarted")
            return False
        if reply.values["alive"]:
            self._running(self._problem)
            self._exchange()
            return False
        self._gone[0] = ""
        return True

    def _exchange(self) -> None:
        """Have done what a job without a shared disk needs while it runs, beside the watching, which may not wait."""
        if self.files is not None and (self._courier is None or not self._courier.is_alive()):
            self._courier = threading.Thread(target=self._carry, args=(self.files,), name="trainkit-ssh", daemon=True)
            self._courier.start()

    def _carry(self, files: Files) -> None:
        try:
            files.introduce()
            problem = files.fetch(range(len(self.agents)))
        except Exception as error:  # of a full disk here, say: the job goes on
            problem = f"{type(error).__name__}: {error}"
        self._problem = f"results cannot be fetched: {problem}" if problem else ""

    def _weigh_silence(self, reply: Reply) -> None:
        """The head says nothing: is it lost, or is it this machine that is cut off?"""
        name = reply.host.text
        self._running(f"{name} does not answer: {reply.error}")
        if not self._is_lost(0):
            return
        known = [host for host, _ in self.agents[1:]]
        unseen = time.monotonic() - max(self._silent[0], self._cancelled) >= UNSEEN_SECONDS
        others = known + [spare for spare in self.spares if spare not in known]
        witnesses = others if unseen else others[:_WITNESSES]
        replies = self.line.ask([(host, {"act": "ask_to_end", "agents": []}) for host in witnesses])
        if all(answer.error for answer in replies):
            if unseen:
                self.status = Status("lost", self._given_up())
            elif witnesses:
                self._running("no host can be reached from here; the job goes on unseen")
            return
        (again,) = self._ask_nodes([0], 0.0)
        if not self._heard(0, again):
            rest = self.agents[1:]  # they may still see their head, and would go on beside the next attempt
            self.line.ask([(host, {"act": "ask_to_end", "agents": [agent]}) for host, agent in rest])
            self.status = Status("lost", f"{name} cannot be reached ({again.error})")

    def _given_up(self) -> str:
        names = [host.text for host, _ in self.agents]
        more = f" and {len(names) - _WITNESSES} more" if len(names) > _WITNESSES else ""
        return (
            f"no host could be reached for {UNSEEN_SECONDS:g} s to cancel the job; its ranks may still run on "
            f"{', '.join(names[:_WITNESSES])}{more}"
        )

    def _ask_nodes(self, nodes: Sequence[int], seconds: float) -> list[Reply]:
        requests: list[tuple[Host, dict[str, Any]]] = []
        for node in nodes:
            host, agent = self.agents[node]
            files = dict(self.files.sent()) if node == 0 and self.files is not None else {}
            requests.append((host, {"act": "watch", "agent": agent, "seconds": seconds, "files": files}))
        return self.line.ask(requests, seconds) if requests else []

    def _heard(self, node: int, reply: Reply, begun: float | None = None) -> bool:
        """Whether a node has answered; remembers since when it has not."""
        if reply.error:
            self._silent.setdefault(node, time.monotonic() if begun is None else begun)
            return False
        self._silent.pop(node, None)
        return True

    def _is_lost(self, node: int) -> bool:
        return node in self._silent and time.monotonic() - self._silent[node] >= SILENT_SECONDS
