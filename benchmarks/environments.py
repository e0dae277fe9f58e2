"""What an environment costs beside uv alone: made with an empty cache, with a full one, made again, found again.

    make bench NAME=environments [ARGS="--repeats 15"]

The same packages, in turns, each with a cache of uv of its own in the same state: `uv venv` and `uv pip install` as
typed by hand, trainkit with nothing below (`inherit=False`), and trainkit over the packages in use, of which few are
among those needed. trainkit's part is `trainkit.prepare`: packages, lock, record. All come to the disk behind the job
that uses them: that is waited for between the turns. The bars: 1.1 times uv alone where the environment has to be made,
0.3 s where it is there. Of each round the contestants' times are compared with one another. Prints a table of medians,
writes benchmarks/results/environments.json. It needs a package registry.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainkit.environment import Environment
from trainkit.prepare import prepare
from trainkit.prepare.installer import uv

RESULT = Path(__file__).parent / "results" / "environments.json"
MADE_LIMIT, FOUND_LIMIT_SECONDS = 1.1, 0.3
PACKAGES = ("boto3==1.35.0", "duckdb==1.1.3", "humanize==4.9.0", "sqlalchemy==2.0.35", "tabulate==0.9.0")
CONTESTANTS = ("uv alone", "trainkit, nothing below", "trainkit, over the packages in use")
STATES = ("empty cache", "full cache", "made again from its lock, full cache")


def by_hand(folder: Path) -> None:
    """What one would type."""
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([uv(), "venv", "--python", sys.executable, str(folder)], check=True, **quiet)
    argv = [uv(), "pip", "install", "--python", str(folder / "bin" / "python"), "--only-binary", ":all:"]
    subprocess.run([*argv, *PACKAGES], check=True, **quiet)


def by_trainkit(folder: Path, inherit: bool) -> None:
    """The same through trainkit."""
    spec = Environment("bench", pip_packages=PACKAGES, inherit=inherit).spec()
    prepare(spec, folder / "envs", folder / "prepare.log")


def seconds(act: Callable[[], object]) -> tuple[float, float]:
    """How long it takes, by the clock and of processors, until one can use what was made; then it comes to the disk."""
    begun, before = time.perf_counter(), sum(os.times()[:4])
    act()
    taken = time.perf_counter() - begun, sum(os.times()[:4]) - before
    for thread in threading.enumerate():
        if thread.name == "trainkit-settling":
            thread.join()
    os.sync()
    return taken


def turn(work: Path, name: str) -> dict[str, tuple[float, float]]:
    """One contestant, with a cache of its own that is empty at first."""
    os.environ["UV_CACHE_DIR"] = str(work / "cache")
    if name == CONTESTANTS[0]:
        first = seconds(lambda: by_hand(work / "one"))
        second = seconds(lambda: by_hand(work / "two"))
        return {STATES[0]: first, STATES[1]: second, STATES[2]: second}
    inherit, envs = name == CONTESTANTS[2], work / "envs"
    taken = {STATES[0]: seconds(lambda: by_trainkit(work, inherit))}
    (environment,) = (path for path in envs.iterdir() if not path.name.startswith("."))
    environment.rename(work / "first")
    (envs / ".locks").rename(work / "locks")
    taken[STATES[1]] = seconds(lambda: by_trainkit(work, inherit))
    taken["found"] = seconds(lambda: by_trainkit(work, inherit))
    environment.rename(work / "second")
    taken[STATES[2]] = seconds(lambda: by_trainkit(work, inherit))
    return taken


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    taken: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in CONTESTANTS}
    chance = random.Random(0)
    for _ in range(repeats + 1):  # the first round warms the machine up: it does not count
        for name in chance.sample(CONTESTANTS, len(CONTESTANTS)):
            os.sync()  # what was removed of the turn before costs this one nothing
            with tempfile.TemporaryDirectory() as folder:
                taken[name].append(turn(Path(folder), name))
    rows: list[dict[str, Any]] = []
    passed = True
    print(f"{'seconds (processors)':40} {'uv alone':>14} {'nothing below':>22} {'over those in use':>22}")
    for state in (*STATES, "found"):
        medians, ratios, told = {}, {}, f"{state:40}"
        for name in CONTESTANTS:
            if state not in taken[name][0]:
                told += " " * 15
                continue
            clock, processor = (statistics.median(times[state][n] for times in taken[name][1:]) for n in (0, 1))
            medians[name] = {"seconds": round(clock, 3), "processor_seconds": round(processor, 3)}
            told += f" {clock:6.2f} ({processor:5.2f})"
            if name != CONTESTANTS[0] and CONTESTANTS[0] in medians:
                pairs = zip(taken[name][1:], taken[CONTESTANTS[0]][1:], strict=True)
                ratios[name] = round(statistics.median(mine[state][0] / peers[state][0] for mine, peers in pairs), 2)
                told += f" {ratios[name]:5.2f} x"
        print(told)
        rows.append({"state": state, **medians, "times_uv_alone": ratios})
        limit = MADE_LIMIT if state in STATES[:2] else float("inf")
        passed = passed and all(ratio <= limit for ratio in ratios.values())
    found = max(rows[-1][name]["seconds"] for name in CONTESTANTS[1:])
    passed = passed and found <= FOUND_LIMIT_SECONDS
    print(f"\nmade <= {MADE_LIMIT} x uv alone, found <= {FOUND_LIMIT_SECONDS} s: {'yes' if passed else 'NO'}")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    RESULT.parent.mkdir(exist_ok=True)
    told_of = {"machine": machine, "load": os.getloadavg()[0], "repeats": repeats, "packages": PACKAGES}
    RESULT.write_text(json.dumps({**told_of, "rows": rows, "passed": passed}, indent=2) + "\n")


if __name__ == "__main__":
    main()
