"""A connection whose every message bears a mark that only the two ends can make: none is put in, changed or repeated.

After both ends have shown that they know the attempt's key (`multiprocessing.connection`'s handshake), each gives a
random number, and of these and the key comes a key of this connection alone. Nothing is encrypted.
"""

from __future__ import annotations

import hmac
import os
import struct
from multiprocessing.connection import Connection

_MARK_BYTES, _NONCE_BYTES = 16, 32
_NUMBER = struct.Struct("!Q")


class Sealed:
    """One end. Sending and receiving may each be done by one thread at a time."""

    def __init__(self, connection: Connection, key: bytes, head: bool) -> None:
        """Exchanges the random numbers; `head` tells the ends apart. Raises OSError or EOFError without another end."""
        own = os.urandom(_NONCE_BYTES)
        connection.send_bytes(own)
        other = connection.recv_bytes(_NONCE_BYTES)
        both = own + other if head else other + own
        keys = [hmac.digest(key, side + both, "sha256") for side in (b"head", b"node")]
        self._own, self._theirs = keys if head else keys[::-1]
        self._connection = connection
        self._sent = self._received = 0

    def send(self, data: bytes) -> None:
        """Send one message."""
        self._connection.send_bytes(_mark(self._own, self._sent, data) + data)
        self._sent += 1

    def receive(self, most: int) -> bytes:
        """The next message. Raises ValueError for one that is not the other end's next."""
        frame = self._connection.recv_bytes(most)
        data = frame[_MARK_BYTES:]
        if not hmac.compare_digest(frame[:_MARK_BYTES], _mark(self._theirs, self._received, data)):
            raise ValueError("a message does not bear the mark of its sender")
        self._received += 1
        return data

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def _mark(key: bytes, number: int, data: bytes) -> bytes:
    return hmac.digest(key, _NUMBER.pack(number) + data, "sha256")[:_MARK_BYTES]
