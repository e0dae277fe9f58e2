"""The agents' channel: who knows the key comes in, and whoever else is at the door holds nobody up."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot.channel import FENCE_SECONDS, Channel, HeadChannel, Message, NodeChannel
from trainkit.boot.rundir import AttemptDir, publish, read_json
from trainkit.testing import wait_until


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptDir:
    made = AttemptDir(tmp_path / "1")
    made.path.mkdir()
    made.key.write_bytes(b"k" * 32)
    return made


def port_of(attempt: AttemptDir) -> int:
    return int((read_json(attempt.head) or {})["port"])


def test_a_stranger_who_says_nothing_keeps_nobody_out(attempt: AttemptDir) -> None:
    head = HeadChannel(attempt, ["127.0.0.1"])
    with socket.create_connection(("127.0.0.1", port_of(attempt))):
        node = NodeChannel(attempt, 1, {"name": "one"}, lambda: None)
        wait_until(lambda: head.peers() == [1], 5, "the node")
    node.send({"type": "done", "node": 1})
    told: list[tuple[int, Message]] = []

    def all_told() -> bool:
        told.extend(head.received())
        return len(told) == 2

    wait_until(all_told, 5, "its messages")
    assert [(number, message["type"]) for number, message in told] == [(1, "hello"), (1, "done")]


class Enough(Exception):
    """Raised by a check."""


def test_an_address_where_another_jobs_head_answers_is_passed_over(attempt: AttemptDir, tmp_path: Path) -> None:
    other = AttemptDir(tmp_path / "2")
    other.path.mkdir()
    other.key.write_bytes(b"another")
    HeadChannel(other, ["127.0.0.1"])
    publish(attempt.head, read_json(other.head))

    def check() -> None:
        raise Enough

    with pytest.raises(Enough):
        NodeChannel(attempt, 1, {"name": "one"}, check)


def test_a_node_whose_agent_is_busy_is_not_lost(attempt: AttemptDir) -> None:
    """As it is while its Python starts from a slow disk: nobody calls the node's `received`."""
    head = HeadChannel(attempt, ["127.0.0.1"])
    NodeChannel(attempt, 1, {"name": "one"}, lambda: None)
    told: list[tuple[int, Message]] = []
    until = time.monotonic() + FENCE_SECONDS + 2
    while time.monotonic() < until:
        told.extend(head.received())
        time.sleep(0.05)
    assert head.peers() == [1]
    assert [message["type"] for _, message in told] == ["hello"]


def test_a_beat_never_overtakes_the_hello(attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch) -> None:
    listen_to = NodeChannel._listen_to

    def and_beat(channel: NodeChannel, *rest: Any) -> None:
        listen_to(channel, *rest)
        if isinstance(channel, NodeChannel):
            channel.send({"type": "beat"})

    monkeypatch.setattr(Channel, "_listen_to", and_beat)
    head = HeadChannel(attempt, ["127.0.0.1"])
    NodeChannel(attempt, 1, {"name": "one"}, lambda: None)
    wait_until(lambda: head.peers() == [1], 5, "the node")
