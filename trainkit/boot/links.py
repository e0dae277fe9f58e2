"""A ring of sockets: every node measures its connection to the next one, all at the same time.

Each listens on a port that the system chooses and that the agents' channel makes known. Both ends prove that they know
the attempt's key before anything else is read, and which node they are. At most 8 MB go over a link, for 0.3 s; over a
very slow one for a second, since the first packets say little of it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import threading
import time
from typing import Any, Dict, Optional

_MOST_BYTES = 8 << 20
_MOST_SECONDS, _SLOW_SECONDS = 0.3, 1.0
_SLOW_BYTES = 1 << 20  # a link is very slow over which less has come in the first of these times
_CONNECT_SECONDS = 2.0
_TALK_SECONDS = 3.0  # for what is said over a connection that stands
_PINGS = 5
_CHUNK = 1 << 18
_UNDERWAY_BYTES = 1 << 20
_DIGEST = 32
_ANSWER = struct.Struct("!Qd")  # bytes that have come, seconds that they took


class Listener:
    """The end that the previous node dials: answers it, and counts what it sends."""

    def __init__(self, node: int, key: bytes) -> None:
        self.node, self.key = node, key
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.bind(("", 0))
        self._socket.listen(8)
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; a measurement that is going on ends by itself."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in accept
        except OSError:
            pass
        self._socket.close()
        self._thread.join(_TALK_SECONDS)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with peer:
            try:
                self._answer(peer)
            except OSError:  # a stranger, or a peer that has gone
                pass

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(_TALK_SECONDS)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nonce = os.urandom(_DIGEST)
        peer.sendall(nonce)
        theirs = _exactly(peer, _DIGEST)
        if not hmac.compare_digest(_exactly(peer, _DIGEST), _proof(self.key, b"dials", nonce + theirs)):
            return
        peer.sendall(_proof(self.key, b"node %d" % self.node, theirs + nonce))
        for _ in range(_PINGS):
            peer.sendall(_exactly(peer, 1))
        count, buffer, begun, passed = 0, bytearray(_CHUNK), time.monotonic(), 0.0
        while count < _MOST_BYTES and passed < (_MOST_SECONDS if count > _SLOW_BYTES else _SLOW_SECONDS):
            came = peer.recv_into(buffer)
            if not came:
                return
            count, passed = count + came, time.monotonic() - begun
        peer.sendall(_ANSWER.pack(count, passed))
        while peer.recv_into(buffer):  # what was under way: to close before it has come would take the answer back
            pass


def measure(address: str, port: int, node: int, key: bytes) -> Dict[str, Any]:
    """MB/s and latency in ms to the node that listens there, or the `problem` in reaching it."""
    try:
        with socket.create_connection((address, port), _CONNECT_SECONDS) as peer:
            return _measured(peer, node, key)
    except OSError as error:
        why = "no answer within %g s" % _CONNECT_SECONDS if isinstance(error, socket.timeout) else _words(error)
        return {"problem": "unreachable", "why": why, "port": port}


def _measured(peer: socket.socket, node: int, key: bytes) -> Dict[str, Any]:
    peer.settimeout(_TALK_SECONDS)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNDERWAY_BYTES)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what is still to be sent is not
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    nonce, mine = _exactly(peer, _DIGEST), os.urandom(_DIGEST)
    peer.sendall(mine + _proof(key, b"dials", nonce + mine))
    try:
        proof = _exactly(peer, _DIGEST)
    except OSError:
        proof = b""
    if not hmac.compare_digest(proof, _proof(key, b"node %d" % node, mine + nonce)):
        return {"problem": "stranger"}
    latency = min(_ping(peer) for _ in range(_PINGS))
    answer = _pour(peer)
    if answer is None:
        return {"problem": "unreachable", "why": "it answered, and then broke off", "port": 0}
    count, seconds = _ANSWER.unpack(answer)
    return {"rate": count / 1e6 / max(seconds, 1e-6), "latency": latency * 1e3}


def _ping(peer: socket.socket) -> float:
    begun = time.monotonic()
    peer.sendall(b".")
    _exactly(peer, 1)
    return time.monotonic() - begun


def _pour(peer: socket.socket) -> Optional[bytes]:
    """Send until the other end says that it is enough; its answer."""
    peer.setblocking(False)
    chunk, sent, answer = memoryview(bytes(_CHUNK)), 0, b""
    deadline = time.monotonic() + _TALK_SECONDS
    while time.monotonic() < deadline:
        try:
            came = peer.recv(_ANSWER.size - len(answer))
            if not came:
                return None
            answer += came
            if len(answer) == _ANSWER.size:
                return answer
        except BlockingIOError:
            pass
        try:
            if sent < _MOST_BYTES:
                sent += peer.send(chunk[: _MOST_BYTES - sent])
                continue
        except BlockingIOError:
            pass
        _wait(peer, sent < _MOST_BYTES, deadline)
    return None


def _wait(peer: socket.socket, to_send: bool, deadline: float) -> None:
    import select

    poll = select.poll()  # not select, which knows no descriptor above 1023
    poll.register(peer, select.POLLIN | (select.POLLOUT if to_send else 0))
    poll.poll(max(0.0, deadline - time.monotonic()) * 1e3)


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        came = peer.recv(size - len(data))
        if not came:
            raise ConnectionError("the other end broke off")
        data += came
    return data


def _proof(key: bytes, who: bytes, nonces: bytes) -> bytes:
    return hmac.new(key, who + b"\0" + nonces, hashlib.sha256).digest()


def _words(error: OSError) -> str:
    return error.strerror or str(error)
