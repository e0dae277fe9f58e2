"""The agents' channel: the head's agent listens, those of the other nodes dial it.

TCP with the handshake of `multiprocessing.connection`, authenticated by a key from a private file, and so is each
message (`trainkit.boot.sealed`). Messages are small JSON objects with a "type": hello (a node is there), facts (who is
who), go (start your ranks), beat, failed (a command of this node ended badly), done (all have ended), stop, and those
of the preflight and the relay. A closed connection is a lost node; so is one silent for `FENCE_SECONDS`.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import threading
import time
from contextlib import suppress
from multiprocessing import ProcessError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from trainkit.boot.inside import patience
from trainkit.boot.network import own_address
from trainkit.boot.rundir import AttemptDir, publish, read_json
from trainkit.boot.sealed import Sealed
from trainkit.errors import LaunchError

BEAT_SECONDS = 1.0
FENCE_SECONDS = 8.0
STILL_SECONDS = 120.0  # for an agent to start a Python, or mpirun, from a slow disk: after that it is taken for lost
DIAL_SECONDS = 30.0
_PROBE_SECONDS = 2.0  # for one address of the head to answer
_HANDSHAKE_SECONDS = 10  # for either end to show that it knows the key
_SEND_SECONDS = 4  # for a peer to take a message; one that doesn't is as good as lost
_MOST_BYTES = 1 << 20  # of a message
_LOOPBACK = "127.0.0.1"
# What a node, or a program on it, waits for: the others may lie until the reader's next turn.
_URGENT = ("done", "end", "failed", "stop", "ended", "exec", "output", "taken", "exit", "kill")
Message = Dict[str, Any]


class Channel:
    """Messages between this node and its peers: all nodes for the head, the head alone for any other.

    `received` yields (node rank, message); a message {"type": "lost", "why": ...} tells of a peer that is gone.
    """

    def __init__(self) -> None:
        self._peers: Dict[int, Sealed] = {}
        self._sending: Dict[int, threading.Lock] = {}
        self._inbox: "queue.Queue[Tuple[int, Message]]" = queue.Queue()
        self._heard: Dict[int, float] = {}
        self._asked = time.monotonic()  # when `received` was called last
        self._lock = threading.Lock()
        self._closed = False
        self.wake: Callable[[], None] = lambda: None  # called where somebody should look what has come, by any thread
        threading.Thread(target=self._beat, daemon=True).start()

    def send(self, message: Message, to: Optional[int] = None) -> None:
        """Send to one peer, or to all; a peer that is gone, or takes nothing, is reported by `received`."""
        with self._lock:
            peers = [(n, p) for n, p in self._peers.items() if n in self._heard and to in (None, n)]
        data = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
        for node, peer in peers:
            try:
                with self._sending[node]:
                    peer.send(data)
            except (OSError, ValueError):
                self._lose(node, "its connection broke")

    def received(self) -> List[Tuple[int, Message]]:
        """Everything that has arrived since the last call; never blocks."""
        now = time.monotonic()
        stood_still, self._asked = now - self._asked > FENCE_SECONDS / 2, now
        with self._lock:
            if stood_still:  # as a process does that was stopped: what the peers have said meanwhile is yet to be read
                self._heard = {node: max(heard, now - FENCE_SECONDS / 2) for node, heard in self._heard.items()}
            silent = [node for node, heard in self._heard.items() if now - heard > FENCE_SECONDS]
        for node in silent:
            self._lose(node, "nothing was heard of it for %g s" % FENCE_SECONDS)
        messages = []
        while True:
            try:
                messages.append(self._inbox.get_nowait())
            except queue.Empty:
                return messages

    def peers(self) -> List[int]:
        """The nodes that are connected now."""
        with self._lock:
            return sorted(self._heard)

    def close(self) -> None:
        """Say nothing more; what was said before still arrives."""
        self._closed = True

    def _beat(self) -> None:
        """Tell the peers that this node is there, also while its agent waits for a slow disk."""
        while not self._closed:
            time.sleep(BEAT_SECONDS)
            if not self._closed and time.monotonic() - self._asked < STILL_SECONDS:
                self.send({"type": "beat"})

    def _listen_to(self, node: int, peer: Sealed, hello: Optional[Message] = None) -> None:
        _limit(peer)
        with self._lock:
            self._peers[node], self._heard[node] = peer, time.monotonic()
            self._sending[node] = threading.Lock()
        if hello is not None:
            self._inbox.put((node, hello))
        threading.Thread(target=self._read, args=(node, peer), daemon=True).start()

    def _read(self, node: int, peer: Sealed) -> None:
        while True:
            try:
                message = json.loads(peer.receive(_MOST_BYTES))
            except (EOFError, OSError):
                self._lose(node, "its agent ended or was killed")
                return
            except ValueError as error:
                self._lose(node, "what came from it cannot be trusted: %s" % error)
                return
            with self._lock:
                if node in self._heard:
                    self._heard[node] = time.monotonic()
            if message.get("type") != "beat":
                self._inbox.put((node, message))
            if message.get("type") in _URGENT:
                self.wake()

    def _lose(self, node: int, why: str) -> None:
        """Report a peer as lost, once."""
        with self._lock:  # whoever sees one peer less finds the word of it too
            if self._heard.pop(node, None) is not None:
                self._inbox.put((node, {"type": "lost", "why": why}))
        self.wake()


class HeadChannel(Channel):
    """The head's end: publishes where it listens, and takes in whoever knows the key."""

    def __init__(self, attempt: AttemptDir, addresses: List[str]) -> None:
        """`addresses` are those that the others may try; none but loopback where all nodes are on this machine."""
        super().__init__()
        here = addresses == [_LOOPBACK]
        self._key = attempt.key.read_bytes()
        self._listener = socket.create_server((_LOOPBACK if here else "0.0.0.0", 0), backlog=512)
        publish(attempt.head, {"addresses": addresses, "port": self._listener.getsockname()[1]})
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take in nobody more; those that are there hang up themselves."""
        super().close()
        self._listener.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it went away again, or too many are at the door, or that was shut
                time.sleep(0.02)
                continue
            threading.Thread(target=self._admit, args=(Connection(connection.detach()),), daemon=True).start()
        self._listener.close()

    def _admit(self, connection: Connection) -> None:
        """Take in who knows the key; one that says nothing keeps nobody else out."""
        try:
            _limit(connection, _HANDSHAKE_SECONDS)
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            peer = Sealed(connection, self._key, head=True)
            hello = json.loads(peer.receive(_MOST_BYTES))
            node = int(hello["node"])
        except Exception:  # a stranger without the key, or a peer that died at the door
            connection.close()
            return
        if node not in self._peers:
            self._listen_to(node, peer, hello)


class NodeChannel(Channel):
    """The end of any other node: finds the head by its published addresses.

    `via` is the head's address that answered, `local` this node's own end of that connection.
    """

    def __init__(self, attempt: AttemptDir, node: int, hello: Message, check: Callable[[], None]) -> None:
        """Dials the head until it answers. `check` is called meanwhile, and raises where that has become pointless."""
        super().__init__()
        deadline, known = time.monotonic() + patience(DIAL_SECONDS, os.environ), False
        reason, peer = "it has not said where it listens", None
        while peer is None:
            places = list(_places(read_json(attempt.head)))
            if places and not known:  # so its container, if it has one, is up
                deadline, known = min(deadline, time.monotonic() + DIAL_SECONDS), True
            for self.via, port in places:
                try:
                    peer = _dialed(self.via, port, attempt.key.read_bytes())
                    break
                except (OSError, EOFError, ProcessError, AssertionError) as error:  # somebody else may answer there
                    reason = "%s port %d: %s" % (self.via, port, error)
            check()
            if time.monotonic() > deadline:
                raise LaunchError(_unreachable(node, str(hello.get("name")), reason), transient=True)
            if peer is None:
                time.sleep(0.02)
        self.local, self._head = own_address(peer.fileno()), peer
        first = {**hello, "type": "hello", "node": node, "via": self.via, "local": self.local}
        with suppress(OSError, ValueError):  # who listens sees that the head is gone
            peer.send(json.dumps(first).encode())  # before the beats, which begin as soon as there is a peer
        self._listen_to(0, peer)

    def close(self) -> None:
        """Hang up: the head has said its last word."""
        super().close()
        with socket.socket(fileno=os.dup(self._head.fileno())) as connection, suppress(OSError):  # it was faster
            connection.shutdown(socket.SHUT_RDWR)


def _dialed(address: str, port: int, key: bytes) -> Sealed:
    """A connection over which both ends have shown that they know the key. Raises where the other does not, in time."""
    with socket.create_connection((address, port), _PROBE_SECONDS) as connection:
        connection.settimeout(None)
        peer = Connection(connection.detach())
    try:
        _limit(peer, _HANDSHAKE_SECONDS)
        answer_challenge(peer, key)
        deliver_challenge(peer, key)
        return Sealed(peer, key, head=False)
    except BaseException:
        peer.close()
        raise


def _places(head: Optional[Message]) -> List[Tuple[str, int]]:
    return [(address, int(head["port"])) for address in head["addresses"]] if head else []


def _unreachable(node: int, name: str, reason: str) -> str:
    return (
        "Node %d (%s) cannot reach the head's agent (%s). The nodes of a job need TCP connections to each other: check "
        "names, routes and firewalls between them." % (node, name, reason)
    )


def _limit(peer: Union[Connection, Sealed], hearing_seconds: int = 0) -> None:
    """Have sends fail after a while: a peer that is stopped must not stop this one. So too, unless 0, what is heard."""
    with socket.socket(fileno=os.dup(peer.fileno())) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", hearing_seconds, 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
