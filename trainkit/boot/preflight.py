"""What the nodes of a job on several machines compare before any rank starts; a few seconds, nothing is imported.

Every node gathers facts of itself (`trainkit.boot.nodefacts`) and measures its connection to the next one
(`trainkit.boot.links`); the head compares them (`trainkit.boot.findings`). Writes probe.json and preflight.json of the
attempt, both by the head.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from trainkit.boot import links, network
from trainkit.boot.findings import notes, problems
from trainkit.boot.nodefacts import facts
from trainkit.boot.rundir import AttemptDir, replace
from trainkit.job import Job

__all__ = ["facts", "problems", "run"]

_REPORT_SECONDS = 45.0  # for the slowest node to start its Python
_LINK_SECONDS = 20.0
Message = Dict[str, Any]
Send = Callable[[Message, Optional[int]], None]
Receive = Callable[[str, Sequence[int], float], Mapping[int, Message]]


def run(
    job: Job, attempt: AttemptDir, node: int, names: Sequence[str], addresses: Sequence[str], send: Send,
    receive: Receive,
) -> List[str]:  # fmt: skip
    """One node's part. What keeps the job from starting, in sentences, as the head found it; elsewhere nothing.

    `send(message, to)` reaches the head from any node, and any node (or all, with None) from the head;
    `receive(type, nodes, seconds)` waits for a message of this type from each of them, and raises where one is lost.
    """
    listener = links.Listener(node, attempt.key.read_bytes())
    try:
        if node == 0:
            return _lead(job, attempt, names, addresses, listener, send, receive)
        receive("probe", [0], _REPORT_SECONDS)
        send({"type": "report", "port": listener.port, "facts": _own(job, attempt, node, addresses)}, 0)
        ports = receive("ports", [0], _REPORT_SECONDS + _LINK_SECONDS)[0]["ports"]
        send({"type": "link", **_to_next(attempt, node, addresses, ports)}, 0)
        receive("measured", [0], _LINK_SECONDS)  # the previous node may still be at it
        return []
    finally:
        listener.close()


def _lead(
    job: Job, attempt: AttemptDir, names: Sequence[str], addresses: Sequence[str], listener: links.Listener,
    send: Send, receive: Receive,
) -> List[str]:  # fmt: skip
    """The head's part: has everybody gather facts, then measure; compares and records."""
    begun, others = time.monotonic(), range(1, len(names))
    nonce = os.urandom(16).hex()
    replace(attempt.probe, {"nonce": nonce})
    asked = time.time()
    send({"type": "probe"}, None)
    own = _own(job, attempt, 0, addresses)
    reports = receive("report", others, _REPORT_SECONDS)
    found = [own] + [dict(reports[node]["facts"]) for node in others]
    shared = {"nonce": nonce, "between": [asked, time.time()]}
    ports = [listener.port] + [int(reports[node]["port"]) for node in others]
    send({"type": "ports", "ports": ports}, None)
    own_link = _to_next(attempt, 0, addresses, ports)
    told = receive("link", others, _LINK_SECONDS)
    send({"type": "measured"}, None)
    for node, fact in enumerate(found):
        link = own_link if node == 0 else {k: v for k, v in told[node].items() if k != "type"}
        fact.update(shared, link=link, address=addresses[node], loopback=_is_itself(found, addresses, node))
    wrong = problems(job, names, found)
    _record(attempt, names, found, wrong, notes(job, names, found), time.monotonic() - begun)
    return wrong


def _own(job: Job, attempt: AttemptDir, node: int, addresses: Sequence[str]) -> Dict[str, Any]:
    """This node's facts, with the network interface by which it reaches the others and which its ranks are told."""
    return {**facts(job, attempt, node), "interface": network.interface_of(addresses[node])}


def _to_next(attempt: AttemptDir, node: int, addresses: Sequence[str], ports: Sequence[int]) -> Dict[str, Any]:
    following = (node + 1) % len(ports)
    return links.measure(addresses[following], ports[following], following, attempt.key.read_bytes())


def _is_itself(found: Sequence[Mapping[str, Any]], addresses: Sequence[str], node: int) -> bool:
    """Whether a node of several machines is known to the others by an address that means themselves."""
    several = len({fact["machine"] for fact in found}) > 1
    return several and (addresses[node].startswith("127.") or addresses[node] in ("::1", "localhost", ""))


def _record(
    attempt: AttemptDir, names: Sequence[str], found: Sequence[Mapping[str, Any]], wrong: List[str], known: List[str],
    seconds: float,
) -> None:  # fmt: skip
    """Write what was found; lists that are the same on several nodes are written once."""
    seen: Dict[str, int] = {}
    nodes = []
    for node, fact in enumerate(found):
        entry = {"name": names[node], **{k: v for k, v in fact.items() if k not in ("nonce", "loopback")}}
        for part, details in (("python", "packages"), ("code", "each")):
            if entry[part]:
                entry[part] = dict(entry[part])
                first = seen.setdefault("%s %s" % (part, entry[part].get("digest")), node)
                if first != node:
                    entry[part].pop(details, None)
        nodes.append(entry)
    value = {"time": time.time(), "seconds": seconds, "problems": wrong, "notes": known, "nodes": nodes}
    replace(attempt.preflight, value)
