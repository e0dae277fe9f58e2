"""The long campaign of interrupted fits: kills and SIGTERMs of random ranks at random instants, and of writers.

    make bench NAME=resume [ARGS="--kills 100 --terms 50 --writers 200"]

Every fit is a job with restarts; what it ends with is compared bit by bit with one that nobody interrupted. A writer is
a process that does nothing but save: however it is killed, a whole checkpoint must be left. Half of the fits run over
gloo on two ranks, the others over gloo on three or on one. Prints a table, writes benchmarks/results/resume.json and
resume.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trainkit import Workspace
from trainkit.testing import resumes

RESULTS = Path(__file__).parent / "results"
WORLDS = (2, 1, 2, 3)
A_JOB = 8  # interruptions that one job is given
EPOCHS = 40


def interrupted(kills: int, terms: int, chance: random.Random) -> list[dict[str, Any]]:
    """Jobs until so many interruptions were made; one row for each number of ranks."""
    rows: dict[int, dict[str, Any]] = {}
    whole: dict[int, dict[str, Any]] = {}
    number = 0
    while kills > 0 or terms > 0:
        ranks = WORLDS[number % len(WORLDS)]
        number += 1
        with tempfile.TemporaryDirectory(prefix="resume-", ignore_cleanup_errors=True) as folder:
            workspace, source = Workspace.create("resume", path=folder), Path(folder)
            if ranks not in whole:
                whole[ranks] = resumes.whole(workspace, source / "whole", ranks, EPOCHS, "fork", "gloo")
            some = min(kills, max(0, A_JOB - min(terms, 3)))
            done = resumes.interrupt(
                workspace, source / "hurt", whole[ranks], chance, some, min(terms, 3), ranks, EPOCHS
            )
        kills, terms = kills - done.kills, terms - done.terms
        row = rows.setdefault(ranks, {"ranks": ranks, "jobs": 0, "kills": 0, "terms": 0, "attempts": 0, "wrong": []})
        for name, value in (("jobs", 1), ("kills", done.kills), ("terms", done.terms), ("attempts", done.attempts)):
            row[name] += value
        row["wrong"] += done.wrong
        print(f"{number}: {ranks} ranks, {done}; to do: {kills} kills, {terms} SIGTERMs", flush=True)
    return [rows[ranks] for ranks in sorted(rows)]


def writers(kills: int) -> dict[str, Any]:
    """Kills of a process that saves without end."""
    with tempfile.TemporaryDirectory(prefix="writers-") as folder:
        command = [sys.executable, "-m", "trainkit.testing.saves", folder, "--kills", str(kills)]
        done = subprocess.run(command, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {"wrong": [done.stderr[-500:]]}
    return {**found, "exit_code": done.returncode}


def main() -> int:
    """Run it; the exit status is 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description="Interrupt fits at random instants, and compare how they end.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--terms", type=int, default=50)
    parser.add_argument("--writers", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = time.time()
    saving = writers(args.writers) if args.writers else {"exit_code": 0}
    print(f"writers: {saving}", flush=True)
    rows = interrupted(args.kills, args.terms, random.Random(args.seed))
    lines = ["| ranks | jobs | kill -9 | SIGTERM | attempts | bitwise as uninterrupted |", "|---|---|---|---|---|---|"]
    for row in rows:
        right = row["jobs"] if not row["wrong"] else f"NOT ALL of {row['jobs']}"
        lines.append(
            f"| {row['ranks']} | {row['jobs']} | {row['kills']} | {row['terms']} | {row['attempts']} | {right} |"
        )
    whole = "yes" if saving["exit_code"] == 0 else "NO"
    lines += ["", f"{args.writers} kills of a writing process: a whole checkpoint was left each time: {whole}."]
    print("\n".join(lines))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "kernel": platform.release()}
    report = {"commit": commit, "machine": machine, "seconds": round(time.time() - begun), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "resume.json").write_text(json.dumps({**report, "writers": saving}, indent=1) + "\n")
    (RESULTS / "resume.md").write_text("\n".join(lines) + "\n")
    return int(any(row["wrong"] for row in rows) or saving["exit_code"] != 0)


if __name__ == "__main__":
    raise SystemExit(main())
