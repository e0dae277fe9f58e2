"""What an agent does beside starting and ending ranks is done by parts, all with the same few calls.

The agent calls `step` in every turn of its loop (at least every 50 ms), offers each message of other nodes' agents to
`take`, and calls `close` once when all is over. A part never waits.
"""

from __future__ import annotations

from typing import Any, Dict


class Part:
    """One of the agent's other tasks. What a part does not need stays as it is here."""

    ended_by = ""  # why the job should end, in one sentence; empty while there is no reason

    @property
    def busy(self) -> bool:
        """Whether something runs here that is not among the agent's own commands."""
        return False

    def environment(self) -> Dict[str, str]:
        """What this node's ranks are told about it."""
        return {}

    def step(self) -> None:
        """Do what is due."""

    def take(self, node: int, message: Dict[str, Any]) -> bool:
        """Take in a message of a node's agent; whether it was meant for this part."""
        return False

    def lost(self, node: int) -> None:
        """A node is gone."""

    def close(self) -> None:
        """Let go of everything."""
