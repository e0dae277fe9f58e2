"""On which nodes of a Ray cluster a job that is started again may count: Ray takes a minute to see that one is gone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.job import Job

_SETTLE_SECONDS = 90.0  # Ray gives a node up that has been silent for about 60
_PAUSE_SECONDS = 1.0
Node = Mapping[str, Any]


def settled(job: Job, alive: Callable[[], Sequence[Node]], answers: Callable[[Node], bool]) -> Sequence[Node]:
    """The nodes that are alive; for a restart, once each that the last attempt had answers, or Ray has given it up.

    Else the job would be queued for a node that is gone, although it could go on without it.
    """
    before, deadline = _had(job), time.monotonic() + _SETTLE_SECONDS
    while True:
        nodes = alive()
        silent = not all(answers(node) for node in nodes if node.get("node_ip") in before)
        if not silent or time.monotonic() > deadline or Path(job.run_dir, "cancel.json").exists():
            return nodes
        time.sleep(_PAUSE_SECONDS)


def _had(job: Job) -> Sequence[str]:
    """The addresses of the nodes of the newest attempt before this one that had any."""
    for number in range(job.attempt - 1, 0, -1):
        try:
            stage = json.loads(Path(job.run_dir, "attempts", str(number), "ray", "stage.json").read_text())
        except (OSError, ValueError):
            continue
        if found := [address for address in stage.get("addresses") or () if address]:
            return found
    return ()
