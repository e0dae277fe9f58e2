"""Logs of many ranks: how fast they are read as one, and what noting their growth costs an agent.

    make bench NAME=logs [ARGS="--megabytes 50 --seconds 20"]

Reading: eight ranks' logs of 50 MB each with the notes that an agent would have made of them, printed to /dev/null as
`trainkit logs` prints them, for three kinds of text (every line its rank's own; all the same; every second line the
same) and two paces (written within a minute; within an hour, so in many small steps). Bar: 100 MB/s. Beside it as
floors: `cat`, and `sort -m`, which merges line by line (by text; it knows no time).
Noting: a process that does nothing but an agent's turns over 8 and 64 logs that all grow all the time; its processor
time, beyond that of the same turns without notes. Bar: 2 % of one core.
Prints a table, writes benchmarks/results/logs.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainkit.boot.lognotes import LogNotes
from trainkit.boot.rundir import RunDir, make_private, publish

RESULT = Path(__file__).parent / "results" / "logs.json"
RANKS, LIMIT_MBS, LIMIT_PERCENT = 8, 100.0, 2.0
KINDS = {"own": (True, True), "same": (False, False), "every second the same": (True, False)}
PACES = {"a minute": 60.0, "an hour": 3600.0}
PRINTED = """
import sys
from pathlib import Path
from trainkit.cli.follow import Follower
Follower(Path(sys.argv[1])).finish()
"""
TURNS = """
import sys, time
from trainkit.boot.lognotes import LogNotes
from trainkit.boot.rundir import RunDir
path, ranks, seconds, notes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "1"
taken = LogNotes(RunDir(path).attempt(1), 0, range(ranks))
if notes:
    taken.step()
began, before = time.monotonic(), time.process_time()
while time.monotonic() - began < seconds:
    if notes:
        taken.step()
    time.sleep(0.05)
print((time.process_time() - before) / (time.monotonic() - began))
"""


def lines_of(rank: int, kind: tuple[bool, bool], size: int) -> bytes:
    """A log of about this size: of each two lines, which are the rank's own."""
    text, number = [], 0
    length = 0
    while length < size:
        who = f"rank {rank}" if kind[number % 2] else "rank *"
        line = (
            f"{who} epoch {number // 5000} step {number} loss {1 / (number + 1):.6f} images/s {number % 977} lr 0.001\n"
        )
        text.append(line)
        length += len(line)
        number += 1
    return "".join(text).encode()


def make(folder: Path, kind: tuple[bool, bool], seconds: float, size: int) -> int:
    """A run of eight ranks that printed at an even pace; the bytes of its logs."""
    run = RunDir(folder)
    attempt = run.attempt(1)
    make_private(attempt.logs)
    publish(run.run, {"nodes": 1, "ranks_per_node": RANKS})
    sizes = []
    for rank in range(RANKS):
        data = lines_of(rank, kind, size)
        attempt.rank_log(rank).write_bytes(data)
        sizes.append(len(data))
    LogNotes(attempt, 0, range(RANKS))
    steps = int(seconds * 10)
    with open(attempt.logs / "notes-0", "ab") as file:
        for step in range(1, steps + 1):
            for rank in range(RANKS):
                file.write(struct.pack("<dIIQ", 1.7e9 + step / 10, rank, 0, sizes[rank] * step // steps))
    return sum(sizes)


def seconds_of(argv: list[str]) -> float:
    """The wall clock time of a command that prints to nowhere."""
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, env={**os.environ, "LC_ALL": "C"})
    return time.perf_counter() - began


def reading(megabytes: int) -> list[dict[str, object]]:
    """One row for each kind of text and pace, with the floors."""
    rows: list[dict[str, object]] = []
    for pace, seconds in PACES.items():
        for kind, own in KINDS.items():
            with tempfile.TemporaryDirectory() as folder:
                size = make(Path(folder), own, seconds, megabytes * 1_000_000)
                logs = [str(RunDir(folder).attempt(1).rank_log(rank)) for rank in range(RANKS)]
                commands = {
                    "cat": ["cat", *logs],
                    "sort -m": ["sort", "-m", *logs],
                    "trainkit": [sys.executable, "-c", PRINTED, folder],
                }
                took = {name: min(seconds_of(argv) for _ in range(2)) for name, argv in commands.items()}
            rows.append({"lines": kind, "within": pace, **{n: size / 1e6 / s for n, s in took.items()}})
            print(rows[-1], flush=True)
    return rows


def noting(ranks: int, seconds: float) -> dict[str, object]:
    """Percent of one core that notes of so many busy logs take, beyond the turns themselves."""
    used = []
    for notes in ("0", "1"):
        with tempfile.TemporaryDirectory() as folder:
            attempt = RunDir(folder).attempt(1)
            make_private(attempt.logs)
            files = [open(attempt.rank_log(rank), "ab", buffering=0) for rank in range(ranks)]
            argv = [sys.executable, "-c", TURNS, folder, str(ranks), str(seconds), notes]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as agent:
                while agent.poll() is None:
                    for file in files:
                        file.write(b"a line of a busy rank\n")
                    time.sleep(0.04)
                assert agent.stdout is not None
                used.append(float(agent.stdout.read()))
            for file in files:
                file.close()
    return {"logs": ranks, "percent": 100 * (used[1] - used[0]), "turns alone": 100 * used[0]}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    costs = [noting(ranks, given.seconds) for ranks in (8, 64)]
    rows = reading(given.megabytes)
    print(f"\n{'lines':24} {'within':10} {'cat':>8} {'sort -m':>8} {'trainkit':>9}   MB/s (bar {LIMIT_MBS:g})")
    for row in rows:
        print(f"{row['lines']:24} {row['within']:10} {row['cat']:8.0f} {row['sort -m']:8.0f} {row['trainkit']:9.0f}")
    for cost in costs:
        print(f"notes of {cost['logs']} busy logs: {cost['percent']:.2f} % of a core (bar {LIMIT_PERCENT:g})")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    value = {"machine": machine, "ranks": RANKS, "megabytes": given.megabytes, "reading": rows, "noting": costs}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
