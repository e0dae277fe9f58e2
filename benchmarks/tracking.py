"""What recording costs a training script, and how fast records are read; MLflow beside it.

    make bench NAME=tracking [ARGS="--repeats 9 --peer-python /path/to/python-with-mlflow"]

Every time is taken in a fresh process. MLflow is measured with its stores on this machine: files and SQLite. Where it
is not installed the table says so. Prints a table and writes benchmarks/results/tracking.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainkit import Experiment, Run, Workspace

RESULT = Path(__file__).parent / "results" / "tracking.json"
CALLS, VALUES, NAMES, RUNS, METRICS = 20_000, 100_000, 10, 200, 100

IMPORT = """
import time
begun = time.perf_counter()
import trainkit
print(time.perf_counter() - begun)
"""
CONTEXT = """
import time
begun = time.perf_counter()
from trainkit import Run
Run.get_context()
print(time.perf_counter() - begun)
"""
LOG = f"""
import time
from trainkit import Run
run = Run.get_context()
run.log("loss", 0.0)
begun = time.perf_counter()
for n in range({CALLS}):
    run.log("loss", n / 7)
print((time.perf_counter() - begun) / {CALLS})
"""
READ = f"""
import sys, time
from trainkit import events
begun = time.perf_counter()
found = events.metrics(sys.argv[1])
print(time.perf_counter() - begun)
assert sum(map(len, found.values())) == {VALUES}
"""
LIST = f"""
import pathlib, sys, time
begun = time.perf_counter()
from trainkit.experiment import summaries
found = summaries(pathlib.Path(sys.argv[1]), metrics=None)
print(time.perf_counter() - begun)
assert len(found) == {RUNS} and all(len(run["metrics"]) == {METRICS} for run in found)
"""
COMMAND = """
import subprocess, sys, time
begun = time.perf_counter()
done = subprocess.run([sys.executable, "-m", "trainkit.cli", "runs"], cwd=sys.argv[1], check=True, capture_output=True)
print(time.perf_counter() - begun)
"""

PEER_CALLS, PEER_VALUES = 200, 10_000
PEER = f"""
import json, os, sys, time
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # newer releases ask before they write files
begun = time.perf_counter()
import mlflow
times = {{"import": time.perf_counter() - begun}}
from mlflow.entities import Metric
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
experiment = client.create_experiment("listing")
def batch(run_id, names, count):
    values = [Metric(names[n % len(names)], n / 7, 1, n) for n in range(count)]
    for first in range(0, count, 1000):
        client.log_batch(run_id, metrics=values[first : first + 1000])
begun = time.perf_counter()
mlflow.start_run()
times["context"] = time.perf_counter() - begun
mlflow.log_metric("loss", 0.0)
begun = time.perf_counter()
for n in range({PEER_CALLS}):
    mlflow.log_metric("loss", n / 7, step=n)
times["log"] = (time.perf_counter() - begun) / {PEER_CALLS}
run = client.create_run(experiment)
names = ["m%d" % n for n in range({NAMES})]
batch(run.info.run_id, names, {PEER_VALUES})
begun = time.perf_counter()
found = [len(client.get_metric_history(run.info.run_id, name)) for name in names]
times["read"] = time.perf_counter() - begun
assert sum(found) == {PEER_VALUES}
client.delete_run(run.info.run_id)
for _ in range({RUNS}):
    batch(client.create_run(experiment).info.run_id, ["m%d" % n for n in range({METRICS})], {METRICS})
begun = time.perf_counter()
found = client.search_runs([experiment], max_results={RUNS})
times["list"] = time.perf_counter() - begun
assert len(found) == {RUNS} and all(len(run.data.metrics) == {METRICS} for run in found)
print(json.dumps({{"version": mlflow.__version__, **times}}))
"""


def timed(script: str, repeats: int, *arguments: str, **environment: str) -> list[float]:
    """The seconds that a script prints, each time in a new process."""
    command = [sys.executable, "-c", script, *arguments]
    values = {**os.environ, **environment}
    found = []
    for _ in range(repeats):
        done = subprocess.run(command, env=values, check=True, capture_output=True, text=True)
        found.append(float(done.stdout))
    return found


def rank_environment(run: Run) -> dict[str, str]:
    """What the context needs of a rank's environment."""
    return {"TRAINKIT_RUN_DIR": str(run.directory), "TRAINKIT_RANK": "0", "TRAINKIT_WORLD_SIZE": "1",
            "TRAINKIT_ATTEMPT": "1"}  # fmt: skip


def started(experiment: Experiment) -> Run:
    """A run without a snapshot."""
    return experiment.start_logging(snapshot_directory=None)


def own(folder: Path, repeats: int) -> dict[str, list[float]]:
    """trainkit's times by row."""
    workspace = Workspace.create("tracking", path=folder)
    scratch, large = Experiment(workspace, "scratch"), Experiment(workspace, "large")
    job = started(scratch)
    times = {
        "import": timed(IMPORT, repeats),
        "context": timed(CONTEXT, repeats, **rank_environment(job)),
        "log": timed(LOG, repeats, **rank_environment(job)),
    }
    job.complete()
    full = started(large)
    for n in range(VALUES):
        full.log(f"m{n % NAMES}", n / 7)
    full.complete()
    times["read"] = timed(READ, repeats, str(full.directory))
    listed = Workspace.create("listing", path=folder / "listing")
    experiment = Experiment(listed, "listing")
    for _ in range(RUNS):
        with started(experiment) as run:
            for n in range(METRICS):
                run.log(f"m{n}", n / 7)
    times["list"] = timed(LIST, repeats, str(listed.root))
    times["command"] = timed(COMMAND, repeats, str(folder / "listing"))
    return times


def peer(python: str, folder: Path) -> dict[str, Any]:
    """MLflow's times for each of its stores; a sentence in place of those that could not be had."""
    found: dict[str, Any] = {}
    for store, uri in (("files", (folder / "files").as_uri()), ("sqlite", f"sqlite:///{folder / 'tracking.db'}")):
        done = subprocess.run([python, "-c", PEER, uri], capture_output=True, text=True, cwd=folder)
        if done.returncode == 0:
            found[store] = json.loads(done.stdout.splitlines()[-1])
        elif "No module named 'mlflow'" in done.stderr:
            return {"missing": f"MLflow is not installed for {Path(python).name}; --peer-python names one that has it"}
        else:
            found[store] = {"failed": (done.stderr.strip().splitlines() or ["without a word"])[-1]}
    return found


ROWS = {
    "import": ("import the package", 1e3, "ms", 100.0),
    "context": ("import it and get the run, in a rank", 1e3, "ms", 50.0),
    "log": ("log one value", 1e6, "us", 15.0),
    "read": (f"read {VALUES:,} values", 1e3, "ms", 1000.0),
    "list": (f"list {RUNS} runs of {METRICS} metrics", 1e3, "ms", 300.0),
    "command": (f"`trainkit runs` over {RUNS} runs, whole command", 1e3, "ms", 300.0),
}


def rows(times: dict[str, list[float]], peers: dict[str, Any]) -> list[dict[str, Any]]:
    """Medians beside their limits, and the peers'."""
    table = []
    for key, (words, factor, unit, limit) in ROWS.items():
        others = {
            f"mlflow, {store}": values[key] * factor * (VALUES / PEER_VALUES if key == "read" else 1.0)
            for store, values in peers.items()
            if isinstance(values, dict) and key in values
        }
        median = statistics.median(times[key]) * factor
        best = min(times[key]) * factor
        table.append({"what": words, "unit": unit, "median": median, "best": best, "limit": limit,
                      "within": median <= limit, **others})  # fmt: skip
    return table


def show(table: list[dict[str, Any]], peers: dict[str, Any]) -> None:
    """The table, for people."""
    columns = ["mlflow, files", "mlflow, sqlite"]
    print(f"{'':48} {'median':>9} {'best':>9} {'limit':>9}    " + " ".join(f"{c:>15}" for c in columns))
    for row in table:
        others = " ".join(f"{row[c]:>15,.1f}" if c in row else f"{'-':>15}" for c in columns)
        print(f"{row['what']:48} {row['median']:9.1f} {row['best']:9.1f} {row['limit']:9.0f} {row['unit']:3} {others}")
    if "missing" in peers:
        print(peers["missing"])
    for store, values in peers.items():
        if isinstance(values, dict) and "failed" in values:
            print(f"mlflow, {store}: {values['failed']}")
    if any("mlflow" in key for row in table for key in row):
        print(f"MLflow logs {PEER_CALLS} values one by one, reads {PEER_VALUES:,}, shown for {VALUES:,}; one round.")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has MLflow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "peer").mkdir()
        times = own(Path(folder) / "own", options.repeats)
        peers = peer(options.peer_python, Path(folder) / "peer")
    table = rows(times, peers)
    show(table, peers)
    conditions = {"python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine(),
                  "repeats": options.repeats, "load": os.getloadavg()[0]}  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"conditions": conditions, "rows": table, "peers": peers}, indent=1) + "\n")
    return 0 if all(row["within"] for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
