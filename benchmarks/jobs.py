"""What a job costs beside its script: an empty job, and the way to a joined process group.

    make bench NAME=jobs [ARGS="--repeats 10"]

An empty job: how long `submit` takes, and from `submit` to Completed. A process group: from the start of whatever
starts the ranks until two ranks that import torch have joined one gloo group; the bar is two plain processes with the
variables set by hand, torchrun beside them. Joining itself takes 0.01 s or 0.5 s, by chance and for everybody: torch
waits when a rank calls before rank 0 listens; so the time until both are ready to join is a row too. All take turns.
Prints a table, writes benchmarks/results/jobs.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trainkit import Experiment, ScriptRunConfig, Workspace
from trainkit.boot.ranks import without_ranks
from trainkit.testing import launch, make_job, wait_until
from trainkit_launchers.local import Local

RESULT = Path(__file__).parent / "results" / "jobs.json"
JOIN = """
import os, time
import torch, torch.distributed as dist
ready = time.time()
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 2
open(os.environ["JOINED"] + os.environ["RANK"], "w").write(f"{ready} {time.time()}")
dist.destroy_process_group()
"""


def joined(folder: Path) -> tuple[float, float]:
    """When the later of the two ranks was ready to join, and when it had joined."""
    files = [folder / f"joined-{rank}" for rank in range(2)]
    wait_until(lambda: all(f.exists() and f.read_text() for f in files), 120, "two joined ranks")
    ready, end = zip(*([float(word) for word in f.read_text().split()] for f in files), strict=True)
    return max(ready), max(end)


def free_port() -> str:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def by_hand(folder: Path) -> tuple[float, float]:
    """Two plain processes."""
    (folder / "train.py").write_text(JOIN)
    env = {**without_ranks(os.environ), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2",
           "JOINED": str(folder / "joined-")}  # fmt: skip
    began = time.time()
    ranks = [
        subprocess.Popen([sys.executable, "train.py"], cwd=folder, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(2)
    ]
    ready, end = joined(folder)
    for rank in ranks:
        rank.wait()
    return ready - began, end - began


def by_torchrun(folder: Path) -> tuple[float, float]:
    """torchrun's own way."""
    (folder / "train.py").write_text(JOIN)
    words = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "train.py"]
    env = {**without_ranks(os.environ), "JOINED": str(folder / "joined-")}
    began = time.time()
    ranks = subprocess.Popen([sys.executable, *words], cwd=folder, env=env, stderr=subprocess.DEVNULL)
    ready, end = joined(folder)
    ranks.wait()
    return ready - began, end - began


def by_trainkit(spread: str) -> Callable[[Path], tuple[float, float]]:
    """An agent that starts the ranks with this spread."""

    def start(folder: Path) -> tuple[float, float]:
        environment = {"JOINED": str(folder / "joined-")}
        job, attempt = make_job(folder / "run", JOIN, ranks_per_node=2, spread=spread, environment=environment)
        launcher = Local()
        began = time.time()
        handle = launch(launcher, job, attempt)
        ready, end = joined(folder)
        wait_until(lambda: launcher.poll(handle).phase == "ended", 60, "the job's end")
        return ready - began, end - began

    return start


def empty_job(folder: Path) -> tuple[float, float]:
    """(seconds that submit takes, seconds from submit to Completed) of a script that does nothing."""
    workspace = Workspace.create("bench", path=str(folder))
    (folder / "source").mkdir()
    (folder / "source" / "train.py").write_text("")
    experiment = Experiment(workspace, "empty")
    config = ScriptRunConfig(source_directory=str(folder / "source"), script="train.py")
    began = time.perf_counter()
    run = experiment.submit(config)
    submitted = time.perf_counter() - began
    run.wait_for_completion()
    return submitted, time.perf_counter() - began


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    ways = {
        "two plain processes": by_hand,
        "trainkit, fork": by_trainkit("fork"),
        "torchrun": by_torchrun,
        "trainkit, torchrun": by_trainkit("torchrun"),
        "trainkit, mpi": by_trainkit("mpi"),
    }
    times: dict[str, list[float]] = {name: [] for name in ["submit returns", "empty job, submit to Completed"]}
    times |= {name + end: [] for end in ("", ", joined") for name in ways}
    for number in range(repeats + 1):
        measured = {}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            submitted, completed = empty_job(Path(folder))
            measured = {"submit returns": submitted, "empty job, submit to Completed": completed}
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                measured[name], measured[name + ", joined"] = way(Path(folder))
        if number:  # the first round only warms the disk's cache
            for name, value in measured.items():
                times[name].append(value)
    rows = []
    for name, values in times.items():
        row = {"what": name, "median": statistics.median(values), "min": min(values), "max": max(values)}
        if name.partition(", joined")[0] in ways:
            peer = "two plain processes" + (", joined" if name.endswith(", joined") else "")
            pairs = zip(values, times[peer], strict=True)
            row["ratio"] = statistics.median(a / b for a, b in pairs)
        rows.append(row)
    print("| what | median, s | min | max | x two plain processes |\n|---|---|---|---|---|")
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        print(f"| {row['what']} | {row['median']:.2f} | {row['min']:.2f} | {row['max']:.2f} | {ratio} |")
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "kernel": platform.release()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine, "repeats": repeats, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
