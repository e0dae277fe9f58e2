"""What nodes take to compare notes before ranks start: 2, 4 and 8 of them, and 8 of which one has a slow link.

    make bench NAME=preflight [ARGS="--repeats 7"]

The nodes are those of a testbed (which needs root), reached by ssh; all share this machine's cores, so that eight of
them have less of a processor than a cluster's. The preflight: its seconds, as the head records them in preflight.json,
from its first question to its last finding, in jobs by `trainkit submit`. Bar: 5 s, for the slowest of all. The doctor:
the whole command `trainkit doctor --target`, which starts agents for that alone. As a floor: `ssh NODE true`
for all nodes at once. All take turns; medians, and the slowest of the preflights. Prints a table, writes
benchmarks/results/preflight.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the testbed

from tests.engines.commands import Client
from tests.engines.testbed import Testbed
from trainkit.boot.rundir import RunDir, read_json

RESULT = Path(__file__).parent / "results" / "preflight.json"
COUNTS, LIMIT_SECONDS, SLOW_MBIT = (2, 4, 8), 5.0, 10.0


def floor(client: Client, nodes: Sequence[str]) -> float:
    """Seconds of `ssh NODE true`, for all of these at once."""
    began = time.monotonic()
    all_at_once = 'for node in "$@"; do ssh "$node" true & done; wait'
    client.bed.run("ctl", ["bash", "-c", all_at_once, "floor", *nodes], check=True)
    return time.monotonic() - began


def preflight(client: Client, nodes: int) -> float:
    """Seconds of the preflight of a job, as its head has recorded them."""
    run = client.submit("print('begun')\n", nodes=nodes)
    client.ended(run)
    record = read_json(RunDir(run).attempt(1).preflight, "seconds", "nodes") or {}
    assert len(record["nodes"]) == nodes, record
    return float(record["seconds"])


def doctor(client: Client, nodes: int) -> float:
    """Seconds of the whole command."""
    began = time.monotonic()
    client.call("doctor", "--target", "lab", "--nodes", str(nodes))
    return time.monotonic() - began


def measure(client: Client, nodes: int, repeats: int, slow: str = "") -> dict[str, Any]:
    """One row: so many nodes, all in turns; `slow` is the node whose link is limited."""
    taken: dict[str, list[float]] = {"floor": [], "preflight": [], "doctor": []}
    if slow:
        client.bed.limit(slow, SLOW_MBIT)
    try:
        for _ in range(repeats):
            taken["floor"].append(floor(client, client.bed.names[:nodes]))
            taken["preflight"].append(preflight(client, nodes))
            taken["doctor"].append(doctor(client, nodes))
    finally:
        if slow:
            client.bed.limit(slow, 0)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return {"nodes": nodes, "slow_link_mbit": SLOW_MBIT if slow else None, **medians,
            "slowest": max(taken["preflight"]), "all": taken}  # fmt: skip


def main() -> int:
    """Measure, print, write; the exit status is 1 where a preflight took longer than the bar allows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats, load = parser.parse_args().repeats, os.getloadavg()
    with Testbed(nodes=max(COUNTS)) as bed:
        client = Client(bed, "preflight", "ssh", hosts=",".join(bed.names))
        measure(client, min(COUNTS), 1)  # warm
        rows = [measure(client, count, repeats) for count in COUNTS]
        rows.append(measure(client, max(COUNTS), repeats, slow=bed.names[-1]))
    print(f"| nodes | preflight | slowest of {repeats} | `doctor --target` | `ssh NODE true` |\n|---|---|---|---|---|")
    for row in rows:
        name = f"{row['nodes']}, one at {SLOW_MBIT:g} Mbit/s" if row["slow_link_mbit"] else row["nodes"]
        cells = (f"{row[part]:.2f} s" for part in ("preflight", "slowest", "doctor", "floor"))
        print(f"| {name} | {' | '.join(cells)} |")
    slowest = max(row["slowest"] for row in rows)
    print(f"\nthe slowest preflight: {slowest:.2f} s (bar {LIMIT_SECONDS:g} s)")
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "kernel": platform.release(),
               "load before": load, "load after": os.getloadavg()}  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine, "repeats": repeats, "rows": rows}, indent=1) + "\n")
    return int(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
