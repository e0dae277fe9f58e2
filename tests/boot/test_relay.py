"""The agents as remote shell: what is asked here runs there, as there; nothing outlives who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot import processes
from trainkit.boot.exec import parse
from trainkit.boot.relay import Relay
from trainkit.testing import wait_until

NAMES = ("node0", "node1.cluster", "node2")


class Agents:
    """Three nodes' relays joined as agents' channels join them: all by the head. A thread is their loop."""

    def __init__(self, folder: Path) -> None:
        self.posted: list[tuple[int, int, dict[str, Any]]] = []  # from, to, message
        self.started: list[subprocess.Popen[bytes]] = []
        self.peak = 0  # bytes of output in one round
        self.quiet = 0  # rounds without any
        self.folder = folder
        self.relays = [Relay(node, NAMES, self._sender(node), self._starter(node)) for node in range(3)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def _sender(self, node: int) -> Callable[[dict[str, Any], int | None], None]:
        def send(message: dict[str, Any], to: int | None) -> None:
            assert (node == 0) != (to == 0), "only the head reaches other nodes, and nobody posts to himself"
            assert to is not None
            self.posted.append((node, to, message))

        return send

    def _starter(self, node: int) -> Callable[[Sequence[str], Mapping[str, str]], subprocess.Popen[bytes]]:
        def start(argv: Sequence[str], extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
            environment = {"PATH": os.environ["PATH"], "HERE": str(node), **extra}
            process = processes.start(argv, environment, str(self.folder), subprocess.PIPE, signal.SIGKILL)
            self.started.append(process)
            return process

        return start

    def round(self) -> None:
        """What agents do every tick."""
        posted, self.posted = self.posted, []
        size = sum(message["bytes"] for _, _, message in posted if message["type"] == "output")
        self.peak, self.quiet = max(self.peak, size), 0 if size else self.quiet + 1
        for node, to, message in posted:
            assert self.relays[to].take(node, message)
        for relay in self.relays:
            relay.step()

    def _loop(self) -> None:
        while not self._over.wait(0.002):
            self.round()

    def __enter__(self) -> Agents:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)
        for relay in self.relays:
            relay.close()
        for process in self.started:
            process.wait(timeout=10)

    def ask(self, node: int, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """A program on `node` that asks as mpirun would."""
        known = {**os.environ, **self.relays[node].environment(), **environment}
        command = [sys.executable, "-m", "trainkit.boot.exec", *words]
        return subprocess.Popen(command, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    with Agents(tmp_path) as joined:
        yield joined


@pytest.mark.parametrize(("origin", "target"), [(0, 0), (0, 2), (2, 0), (1, 2), (1, 1)])
def test_a_command_runs_on_any_node_from_any_node(agents: Agents, origin: int, target: int) -> None:
    line = "echo on $HERE; echo complaint >&2; exit 3"
    asking = agents.ask(origin, "-x", "-o", "Batch=yes", f"root@node{target}", line)
    assert asking.communicate(timeout=20) == (b"on %d\n" % target, b"complaint\n")
    assert asking.returncode == 3


def test_only_variables_that_are_named_travel(agents: Agents) -> None:
    line = "echo $HERE $MARK $SECRET"
    asking = agents.ask(0, "node2", line, MARK="it's", SECRET="no", HERE="not", TRAINKIT_CARRY="MARK,ABSENT")
    assert asking.communicate(timeout=20)[0] == b"2 it's\n"


def test_a_signal_is_the_status_a_shell_would_give(agents: Agents) -> None:
    asking = agents.ask(0, "node2", "kill -9 $$")
    asking.communicate(timeout=20)
    assert asking.returncode == 128 + 9


def test_an_unknown_node_is_named_with_those_that_are_there(agents: Agents) -> None:
    asking = agents.ask(1, "node9", "true")
    _, errors = asking.communicate(timeout=20)
    assert asking.returncode == 255
    assert b"no node is called node9; there are node0, node1.cluster, node2" in errors


def test_who_dies_takes_what_it_asked_for_along(agents: Agents) -> None:
    asking = agents.ask(1, "node2", "echo begun; sleep 300 & wait")
    assert asking.stdout is not None and asking.stdout.readline() == b"begun\n"
    asking.kill()
    asking.communicate()
    (command,) = agents.started
    assert wait_until(lambda: command.poll() is not None, 10, "the command's end") and command.returncode == -9


def test_a_request_to_end_is_passed_on(agents: Agents) -> None:
    asking = agents.ask(0, "node1", "trap 'echo bye; exit 5' TERM; echo begun; while :; do sleep 0.05; done")
    assert asking.stdout is not None and asking.stdout.readline() == b"begun\n"
    asking.send_signal(signal.SIGTERM)
    assert asking.communicate(timeout=20)[0] == b"bye\n"
    assert asking.returncode == 5


def test_much_output_arrives_whole_and_a_slow_reader_holds_it_up(agents: Agents) -> None:
    asking = agents.ask(1, "node2", "head -c 3000000 /dev/zero | tr '\\0' x; echo end")
    assert asking.stdout is not None and asking.stdout.read(1) == b"x"
    rest = asking.stdout.read()
    asking.communicate(timeout=20)
    assert len(rest) == 3000000 - 1 + len("end\n") and rest.endswith(b"xend\n")
    assert asking.returncode == 0
    assert 0 < agents.peak <= 500_000  # two hops, a window each


def test_a_reader_that_has_stopped_leaves_most_of_it_in_the_pipe(agents: Agents) -> None:
    asking = agents.ask(0, "node2", "head -c 30000000 /dev/zero && touch written")
    assert asking.stdout is not None and asking.stdout.read(1) == b"\0"
    asking.send_signal(signal.SIGSTOP)
    wait_until(lambda: agents.quiet > 100, 20, "the end of what there is room for")
    assert agents.started[0].poll() is None
    assert not (agents.folder / "written").exists()
    asking.kill()
    asking.communicate()
    assert wait_until(lambda: not agents.relays[2]._running, 10, "the end of what nobody reads any more")
    assert agents.started[0].returncode == -9


def test_what_a_lost_node_ran_has_ended_and_others_know_who_lives(agents: Agents) -> None:
    asking = agents.ask(0, "node2", "echo begun; sleep 300")
    assert asking.stdout is not None and asking.stdout.readline() == b"begun\n"
    agents.relays[0].lost(2)
    _, errors = asking.communicate(timeout=20)
    assert asking.returncode == 255 and b"the agent of node 2 was lost" in errors
    hosts = agents.ask(0, "--hosts", "node0:2,node1.cluster:2,node2:2")
    assert hosts.communicate(timeout=20)[0] == b"node0:2\nnode1.cluster:2\n"


def test_an_agent_that_has_gone_is_an_error(agents: Agents) -> None:
    asking = agents.ask(0, "node1", "true", TRAINKIT_RELAY="trainkit-no-more")
    _, errors = asking.communicate(timeout=20)
    assert asking.returncode == 255 and b"this node's agent does not answer" in errors


def test_other_messages_are_left_to_the_agent(tmp_path: Path) -> None:
    with Agents(tmp_path) as joined:
        assert not joined.relays[0].take(1, {"type": "done", "node": 1})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-x -p 22 -l me node1 orted -mca ess env", ("node1", "orted -mca ess env")),
        ("-o PasswordAuthentication=no -o StrictHostKeyChecking=no node2  -p 22 -i key cd", ("node2", "cd")),
        ("-oBatchMode=yes -- me@node1 true", ("node1", "true")),
    ],
)
def test_a_command_line_of_ssh_is_understood(words: str, expected: tuple[str, str]) -> None:
    assert parse(words.split()) == expected


def test_a_command_line_without_a_command_is_refused() -> None:
    with pytest.raises(SystemExit, match="usage"):
        parse(["-x", "node1"])
