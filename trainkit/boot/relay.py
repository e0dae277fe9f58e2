"""The agents as remote shell: "run this on node X", asked by a program on any node, over the agents' own channel.

mpirun and horovodrun start what they need on other nodes through `ssh HOST COMMAND`. Here `trainkit.boot.exec` stands
in for that ssh: it asks the Relay of its own node's agent, which asks that of node X, which starts the command as its
own child. So every process of a job is a descendant of its node's agent, whoever asked for it, and no ssh is needed.
Output and exit status come back; when the asking program dies, what it asked for is killed.

It owns one socket, which has no file (an abstract one: it vanishes with the agent, however that ends) and serves this
user's processes alone, and the processes that it started.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
from contextlib import suppress
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Set, Tuple

from trainkit.boot.part import Part

Message = Dict[str, Any]
Start = Callable[[Sequence[str], Mapping[str, str]], "subprocess.Popen[bytes]"]
_CHUNK = 24 * 1024  # of output in one message: the channel takes messages of a megabyte at most
_WINDOW = 10 * _CHUNK  # of one command's output on its way: more is left in its pipe
_REQUEST = 1 << 20
_LOST = 255  # what ssh says of a host that it cannot reach
_KINDS = ("exec", "output", "taken", "exit", "kill")


class _Asker:
    """A local program that has asked, or is about to ask, for a command on some node."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = b""  # what it has sent of a line
        self.answer = bytearray()  # what it has yet to read
        self.node = -1  # where its command runs
        self.owed = 0  # bytes of output in `answer`, to be reported as taken
        self.ended = False


class _Running:
    """A command that this node runs for an asker of some node."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.pipes: Dict[int, Any] = {}  # 1 and 2: standard output and error, until they are at their ends
        self.window = _WINDOW
        for stream, pipe in ((1, process.stdout), (2, process.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self.pipes[stream] = pipe


class Relay(Part):
    """Node `node`'s share of the remote shell. Everything happens in `take` and `step`, on the caller's thread.

    `send(message, to)` puts a message on the agents' channel; `start(argv, environment)` starts a command with this
    node's own environment and these variables added, in a session of its own, with pipes for its output. The head
    passes messages on between other nodes.
    """

    def __init__(
        self, node: int, names: Sequence[str], send: Callable[[Message, Optional[int]], None], start: Start
    ) -> None:
        self._node, self._names, self._channel, self._start = node, tuple(names), send, start
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._address = "trainkit-" + os.urandom(16).hex()
        self._listener.bind("\0" + self._address)
        self._listener.listen(256)
        self._listener.setblocking(False)
        self._askers: Dict[int, _Asker] = {}
        self._running: Dict[Tuple[int, int], _Running] = {}  # by the asker's node and number
        self._count = 0
        self._gone: Set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether something runs here that a program of this or another node has asked for."""
        return bool(self._running)

    def environment(self) -> Dict[str, str]:
        """What local programs need to find this relay."""
        return {"TRAINKIT_RELAY": self._address}

    def take(self, node: int, message: Message) -> bool:
        """Act on a message that came from `node`'s agent; False where it is none of a relay's."""
        if message.get("type") not in _KINDS:
            return False
        to = int(message["to"])
        if to == self._node:
            getattr(self, "_on_" + str(message["type"]))(message)
        elif self._node == 0 and to != node:
            self._channel(message, to)
        return True

    def step(self) -> None:
        """Move bytes and note ends; never blocks. To be called every 50 ms at least."""
        self._accept()
        for number, asker in list(self._askers.items()):
            self._hear(number, asker)
            if number in self._askers:
                self._tell(number, asker)
        for key, command in list(self._running.items()):
            self._watch(key, command)

    def lost(self, node: int) -> None:
        """A node is gone, the job goes on: what was asked of it has ended, as for ssh; what it asked for is killed."""
        self._gone.add(node)
        for number, asker in self._askers.items():
            if asker.node == node:
                self._on_exit({"id": number, "status": _LOST, "why": "the agent of node %d was lost" % node})
        for key, command in self._running.items():
            if key[0] == node:
                _drop(command)

    def close(self) -> None:
        """Kill what was started here and hang up."""
        for command in self._running.values():
            _drop(command)
        for asker in self._askers.values():
            asker.connection.close()
        self._listener.close()
        self._running, self._askers = {}, {}

    def _send(self, kind: str, to: int, number: int, **values: Any) -> None:
        message = {"type": kind, "to": to, "from": self._node, "id": number, **values}
        if to == self._node:
            self.take(to, message)
        else:
            self._channel(message, to if self._node == 0 else 0)

    # The asking side.

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user != os.getuid():
                connection.close()
                continue
            connection.setblocking(False)
            self._count += 1
            self._askers[self._count] = _Asker(connection)

    def _hear(self, number: int, asker: _Asker) -> None:
        """Read what an asker says: its request, then signals; its end is its command's."""
        try:
            while True:
                data = asker.connection.recv(65536)
                asker.request += data
                if not data or len(asker.request) > _REQUEST:
                    return self._forget(number)
                while b"\n" in asker.request:
                    line, _, asker.request = asker.request.partition(b"\n")
                    self._heard(number, asker, json.loads(line.decode("utf-8", "surrogateescape")))
        except BlockingIOError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            self._forget(number)

    def _heard(self, number: int, asker: _Asker, words: Mapping[str, Any]) -> None:
        if asker.node >= 0:
            self._send("kill", asker.node, number, signal=int(words["signal"]))
            return
        if "alive" in words:
            living = [name for node, name in enumerate(self._names) if node not in self._gone]
            asker.answer += json.dumps({"alive": living}).encode() + b"\n"
            asker.ended = True
            return
        node = self._node_of(str(words["node"]))
        if node is None or node in self._gone:
            nodes = ", ".join(self._names)
            self._on_exit(
                {"id": number, "status": _LOST, "why": "no node is called %s; there are %s" % (words["node"], nodes)}
            )
            return
        asker.node = node
        self._send("exec", node, number, line=words["line"], environment=words["environment"])

    def _node_of(self, name: str) -> Optional[int]:
        """The node of this name; programs may have cut off its domain."""
        if name in self._names:
            return self._names.index(name)
        short = [node for node, own in enumerate(self._names) if own.partition(".")[0] == name]
        return short[0] if len(short) == 1 else None

    def _tell(self, number: int, asker: _Asker) -> None:
        """Pass on to an asker what it has room for."""
        try:
            while asker.answer:
                del asker.answer[: asker.connection.send(bytes(asker.answer[:65536]))]
        except BlockingIOError:
            return
        except OSError:
            return self._forget(number)
        if asker.owed:
            self._send("taken", asker.node, number, bytes=asker.owed)
            asker.owed = 0
        if asker.ended:
            asker.connection.close()
            del self._askers[number]

    def _forget(self, number: int) -> None:
        """An asker is gone."""
        asker = self._askers.pop(number)
        asker.connection.close()
        if asker.node >= 0 and not asker.ended:
            self._send("kill", asker.node, number, signal=int(signal.SIGKILL))

    def _answer(self, number: int, answer: Message) -> Optional[_Asker]:
        asker = self._askers.get(number)
        if asker is not None:
            asker.answer += json.dumps(answer).encode() + b"\n"
        return asker

    def _on_output(self, message: Message) -> None:
        asker = self._answer(message["id"], {"stream": message["stream"], "data": message["data"]})
        if asker is not None:
            asker.owed += message["bytes"]

    def _on_exit(self, message: Message) -> None:
        asker = self._answer(message["id"], {"status": message["status"], "why": message.get("why", "")})
        if asker is not None:
            asker.ended = True

    # The side that runs commands.

    def _on_exec(self, message: Message) -> None:
        key = (int(message["from"]), int(message["id"]))
        try:
            process = self._start(("/bin/sh", "-c", message["line"]), message["environment"])
        except OSError as error:
            self._send("exit", *key, status=_LOST, why=str(error))
            return
        self._running[key] = _Running(process)

    def _on_kill(self, message: Message) -> None:
        command = self._running.get((int(message["from"]), int(message["id"])))
        if command is not None and int(message["signal"]) == signal.SIGKILL:  # nobody who lives can pass that on
            _drop(command)
        elif command is not None:
            _kill(command, int(message["signal"]))

    def _on_taken(self, message: Message) -> None:
        command = self._running.get((int(message["from"]), int(message["id"])))
        if command is not None:
            command.window += int(message["bytes"])

    def _watch(self, key: Tuple[int, int], command: _Running) -> None:
        """Send what a command has printed, and once it has ended and all is sent, its exit status."""
        status = command.process.poll()
        for stream in list(command.pipes):
            self._pass_on(key, command, stream)
        if status is not None and command.window > 0:  # else there may be more to read
            _close_pipes(command)
            del self._running[key]
            self._send("exit", *key, status=128 - status if status < 0 else status)

    def _pass_on(self, key: Tuple[int, int], command: _Running, stream: int) -> None:
        while command.window > 0:
            try:
                data = os.read(command.pipes[stream].fileno(), _CHUNK)
            except BlockingIOError:
                return
            if not data:
                command.pipes.pop(stream).close()
                return
            command.window -= len(data)
            text = base64.b64encode(data).decode()
            self._send("output", *key, stream=stream, data=text, bytes=len(data))


def _kill(command: _Running, number: int) -> None:
    """Signal a command and its process group, unless it has ended: then the number may be another's."""
    if command.process.poll() is None:
        with suppress(OSError):  # it has just ended, or there is no such signal
            os.killpg(command.process.pid, number)


def _drop(command: _Running) -> None:
    """Kill a command for whose output nobody waits any more: what it has printed holds its end up no longer."""
    _kill(command, signal.SIGKILL)
    _close_pipes(command)
    command.window = _WINDOW


def _close_pipes(command: _Running) -> None:
    for pipe in command.pipes.values():
        pipe.close()
    command.pipes.clear()
