"""What is put into a connection, changed or repeated there is not taken for a message."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from trainkit.boot.sealed import Sealed


def ends(key: bytes, other: bytes) -> tuple[Sealed, Sealed, Connection, Connection]:
    """A head's end, a node's, and what lies below them."""
    one, two = Pipe()
    made: list[Sealed] = []
    thread = threading.Thread(target=lambda: made.append(Sealed(two, other, head=False)))
    thread.start()
    head = Sealed(one, key, head=True)
    thread.join(10)
    return head, made[0], one, two


def test_messages_go_both_ways() -> None:
    head, node, *_ = ends(b"k", b"k")
    for word in (b"one", b"two"):
        head.send(word)
        node.send(word + b"!")
    assert [node.receive(99) for _ in range(2)] == [b"one", b"two"]
    assert [head.receive(99) for _ in range(2)] == [b"one!", b"two!"]


def test_another_key_another_text_and_another_turn_are_refused() -> None:
    head, node, *_ = ends(b"k", b"not k")
    head.send(b"stop")
    with pytest.raises(ValueError, match="mark of its sender"):
        node.receive(99)
    head, node, below, far = ends(b"k", b"k")
    head.send(b"go")
    frame = far.recv_bytes()
    for forged in (frame[:-1] + b"!", b"", frame):
        below.send_bytes(forged)
    for _ in range(2):
        with pytest.raises(ValueError, match="mark of its sender"):
            node.receive(99)
    assert node.receive(99) == b"go"
    below.send_bytes(frame)
    with pytest.raises(ValueError, match="mark of its sender"):
        node.receive(99)
    node.send(b"to the head")
    below_again = below.recv_bytes()
    below.send_bytes(below_again)  # turned round
    with pytest.raises(ValueError, match="mark of its sender"):
        node.receive(99)
