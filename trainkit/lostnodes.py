"""Which node of a job was lost, by what its agents say of each other. Pure functions over the agents' reports.

An agent other than the head's hears of nobody but the head, so where a link broke each end says that the other is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def lost_node(ends: Sequence[Record], only_head: bool) -> dict[str, Any] | None:
    """The node that most agents have lost, of equals the one that the head's has; its rank, name, and why.

    `only_head` says that the head is known to be lost: then it cannot accuse others.
    """
    accusing = [e for e in ends if e.get("lost") and not _stood_still(e, ends)]
    votes = Counter(e["lost"]["node"] for e in accusing if not only_head or e["lost"]["node"] == 0)
    if not votes:
        return None
    node = votes.most_common(1)[0][0]
    by = next(e for e in accusing if e["lost"]["node"] == node)
    back = next((e for e in accusing if e["node"] == node and e["lost"]["node"] == by["node"]), None)
    why = str(by["lost"]["why"])
    if back is not None and len(ends) == 2 and not only_head:  # nobody else can tell whose link it was
        why += f", and it heard nothing of node {by['node']} ({by.get('name', '')}) either"
    return {**by["lost"], "why": why}


def _stood_still(end: Record, ends: Sequence[Record]) -> bool:
    """Whether an agent calls a node lost that had only ended because it had not heard of that agent."""
    other: Record = next((e for e in ends if e["node"] == end["lost"]["node"]), {})
    left = str(end["lost"].get("why")).startswith("its agent ended")
    return left and bool(other.get("lost")) and other["lost"]["node"] == end["node"]
