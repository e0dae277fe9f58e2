"""Recording a source directory, beside copying it and beside `git add`.

    make bench NAME=snapshot [ARGS="--files 10000 --repeats 5"]

trainkit reads, digests and stores the tree, syncs what it stored to the disk, and lays out a private copy for the run;
`shutil.copytree` only copies; `git add` only stores (compressed, not synced). All take turns on the same trees. Prints
a table of medians in seconds, by the clock and of processor time, and writes benchmarks/results/snapshot.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainkit.snapshot import take

RESULT = Path(__file__).parent / "results" / "snapshot.json"
FIRST_LIMIT, UNCHANGED_LIMIT = 3.0, 0.5  # seconds, for 10,000 small files
LIMIT_BYTES = 10**10


def make_tree(top: Path, files: int, size: int) -> None:
    """`files` files of `size` bytes that no program can compress, at most 100 in each directory."""
    chance = random.Random(0)
    for number in range(files):
        folder = top / f"package{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"module{number}.py").write_bytes(chance.randbytes(size))
    (top / ".gitignore").write_text("*.pyc\n/build/\n*.egg-info/\n.DS_Store\n/checkpoints/\n")


def settle() -> None:
    """Let a fresh tree grow older than the moment in which a second change could go unseen."""
    time.sleep(0.3)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """How long one call takes: by the clock, and of processors, its child processes included."""
    started, before = time.perf_counter(), sum(os.times()[:4])
    call()
    return time.perf_counter() - started, sum(os.times()[:4]) - before


def one_round(tree: Path, work: Path) -> dict[str, tuple[float, float]]:
    """Each contestant once."""
    store, repository = work / "store", work / "repository"
    git = ["git", f"--git-dir={repository}", f"--work-tree={tree}", "-c", "core.autocrlf=false"]
    times = {
        "trainkit, first": seconds(lambda: take(tree, work / "one", store, LIMIT_BYTES)),
        "trainkit, unchanged": seconds(lambda: take(tree, work / "two", store, LIMIT_BYTES)),
    }
    changed = tree / "package0" / "module0.py"
    changed.write_bytes(os.urandom(changed.stat().st_size))
    settle()
    times["trainkit, one file changed"] = seconds(lambda: take(tree, work / "three", store, LIMIT_BYTES))
    times["shutil.copytree"] = seconds(lambda: shutil.copytree(tree, work / "copy"))
    if shutil.which("git"):
        subprocess.run([*git, "init", "-q"], check=True, env={**os.environ, "GIT_DIR": str(repository)})
        times["git add, first"] = seconds(lambda: subprocess.run([*git, "add", "-A"], check=True))
        times["git add, unchanged"] = seconds(lambda: subprocess.run([*git, "add", "-A"], check=True))
    return times


def measure(name: str, files: int, size: int, repeats: int) -> dict[str, Any]:
    """Medians over `repeats` rounds on one tree."""
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        make_tree(tree, files, size)
        settle()
        for number in range(repeats):  # nothing is deleted meanwhile: ext4 is slow to make files after many went
            work = Path(folder) / f"round{number}"
            work.mkdir()
            rounds.append(one_round(tree, work))
    return {
        "tree": name,
        "files": files,
        "bytes_each": size,
        "seconds": {key: round(statistics.median(r[key][0] for r in rounds), 3) for key in rounds[0]},
        "worst_seconds": {key: round(max(r[key][0] for r in rounds), 3) for key in rounds[0]},
        "processor_seconds": {key: round(statistics.median(r[key][1] for r in rounds), 3) for key in rounds[0]},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = [
        measure(f"{arguments.files:,} files of 1 kB", arguments.files, 1_000, arguments.repeats),
        measure("20 files of 10 MB", 20, 10_000_000, arguments.repeats),
    ]
    for row in rows:
        columns = ("seconds", "worst_seconds", "processor_seconds")
        print(f"\n{row['tree']:28} {'median s':>9} {'worst s':>9} {'cpu s':>9}")
        for name in row["seconds"]:
            print(f"{name:28} " + " ".join(f"{row[column][name]:9.3f}" for column in columns))
    small = rows[0]["seconds"]
    passed = small["trainkit, first"] <= FIRST_LIMIT and small["trainkit, unchanged"] <= UNCHANGED_LIMIT
    print(
        f"\n10,000 small files: first <= {FIRST_LIMIT} s, unchanged <= {UNCHANGED_LIMIT} s: {'yes' if passed else 'NO'}"
    )
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine, "repeats": arguments.repeats, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
