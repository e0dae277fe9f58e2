"""The agents' channel: the head's agent listens, those of the other nodes dial it.

TCP with the handshake of `multiprocessing.connection`, authenticated by a key from a private file. Messages are small
JSON objects with a "type": hello (a node is there), facts (start your ranks), beat, failed (a command of this node
ended badly), done (all have ended), stop. A closed connection is a lost node; so is one silent for `FENCE_SECONDS`.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, Callable, Dict, List, Optional, Tuple

from trainkit.boot.rundir import AttemptDir, publish, read_json
from trainkit.errors import LaunchError

BEAT_SECONDS = 1.0
FENCE_SECONDS = 8.0
Message = Dict[str, Any]


class Channel:
    """Messages between this node and its peers: all nodes for the head, the head alone for any other.

    `received` yields (node rank, message); a message {"type": "lost"} tells of a peer that is gone.
    """

    def __init__(self) -> None:
        self._peers: Dict[int, Connection] = {}
        self._inbox: "queue.Queue[Tuple[int, Message]]" = queue.Queue()
        self._heard: Dict[int, float] = {}
        self._beaten = 0.0
        self._lock = threading.Lock()

    def send(self, message: Message, to: Optional[int] = None) -> None:
        """Send to one peer, or to all; a peer that is gone is reported by `received`."""
        with self._lock:
            peers = [self._peers[to]] if to is not None and to in self._peers else list(self._peers.values())
        for peer in peers:
            try:
                peer.send_bytes(json.dumps(message).encode())
            except OSError:
                continue

    def received(self) -> List[Tuple[int, Message]]:
        """Everything that has arrived since the last call; never blocks."""
        now = time.monotonic()
        if now - self._beaten > BEAT_SECONDS:
            self._beaten = now
            self.send({"type": "beat"})
        messages = []
        while True:
            try:
                messages.append(self._inbox.get_nowait())
            except queue.Empty:
                break
        with self._lock:
            silent = [node for node, heard in self._heard.items() if now - heard > FENCE_SECONDS]
        for node in silent:
            self._forget(node)
            messages.append((node, {"type": "lost"}))
        return messages

    def _listen_to(self, node: int, peer: Connection) -> None:
        with self._lock:
            self._peers[node], self._heard[node] = peer, time.monotonic()
        threading.Thread(target=self._read, args=(node, peer), daemon=True).start()

    def _read(self, node: int, peer: Connection) -> None:
        while True:
            try:
                message = json.loads(peer.recv_bytes(1 << 20))
            except (EOFError, OSError, ValueError):
                with self._lock:
                    known = self._heard.pop(node, None) is not None
                if known:
                    self._inbox.put((node, {"type": "lost"}))
                return
            with self._lock:
                if node in self._heard:
                    self._heard[node] = time.monotonic()
            if message.get("type") != "beat":
                self._inbox.put((node, message))

    def _forget(self, node: int) -> None:
        with self._lock:
            self._heard.pop(node, None)


class HeadChannel(Channel):
    """The head's end: publishes where it listens, and takes in whoever knows the key."""

    def __init__(self, attempt: AttemptDir, address: str) -> None:
        super().__init__()
        self._listener = Listener((address, 0), authkey=attempt.key.read_bytes(), backlog=512)
        publish(attempt.head, {"address": address, "port": self._listener.address[1]})
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer = self._listener.accept()
                hello = json.loads(peer.recv_bytes(1 << 16))
            except Exception:  # a stranger without the key, or a peer that died at the door
                continue
            self._listen_to(int(hello["node"]), peer)
            self._inbox.put((int(hello["node"]), hello))


class NodeChannel(Channel):
    """The end of any other node: finds the head by its published address."""

    def __init__(
        self, attempt: AttemptDir, node: int, name: str, check: Callable[[], None], timeout_seconds: float = 30.0
    ) -> None:
        """Dials the head until it answers. `check` is called meanwhile, and raises where that has become pointless."""
        super().__init__()
        deadline = time.monotonic() + timeout_seconds
        while True:
            head = read_json(attempt.head)
            if head:
                try:
                    peer = Client((head["address"], head["port"]), authkey=attempt.key.read_bytes())
                    break
                except OSError as error:
                    reason = str(error)
            else:
                reason = "it has not said where it listens"
            check()
            if time.monotonic() > deadline:
                raise LaunchError("Node %d cannot reach the head's agent: %s." % (node, reason), transient=True)
            time.sleep(0.02)
        self._listen_to(0, peer)
        self.send({"type": "hello", "node": node, "name": name})
