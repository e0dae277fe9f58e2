"""Starting a container through trainkit's guard, beside the engine's own `run`; and the digest of a build context.

    make bench NAME=containers [ARGS="--pairs 20 --engine docker"]

One rank in a small image of the tests, by each engine (which need root), timed from the start of the command's own
process until the script's first line. By hand: the engine's `run` of the same words that the guard gives it, so with
the same agent, and in a last column `run` of the script alone. All take turns. Then a folder of 10,000 files: its
digest for the first time, unchanged, and with one file changed. Prints tables, writes
benchmarks/results/containers.json.
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
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the tests' engines

from tests.engines.containers import SMALL, Engine, services
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.inside import IN_CONTAINER
from trainkit.boot.rundir import RunDir, make_private, publish
from trainkit.bundle import bundle
from trainkit.job import Container, Inside, Job, boot_command
from trainkit.prepare.contexts import context_digest
from trainkit.prepare.engines import image_engine

RESULT = Path(__file__).parent / "results" / "containers.json"
GUARD_LIMIT, DIGEST_LIMIT = 0.2, 0.5  # seconds
DEADLINE_SECONDS = 60.0
PYTHON = "/usr/bin/python3"
SCRIPT = "import os, time\nnow = time.time()\nopen('.first', 'w').write(repr(now))\nos.rename('.first', 'first')\n"


def new_run(root: Path, engine: str, image: str) -> tuple[RunDir, Job]:
    """A run directory as a driver would have made it, launched."""
    run_id = f"bench_{uuid.uuid4().hex[:12]}"
    run = RunDir(make_private(root / "runs" / "bench" / run_id))
    make_private(run.code)
    (run.code / "train.py").write_text(SCRIPT)
    attempt = run.attempt(1)
    prepare_attempt(attempt)
    job = Job(
        run_id=run_id, experiment="bench", run_dir=str(run.path), attempt=1, interpreter=sys.executable,
        script="train.py", boot=str(bundle(root / "boot", "fork", engine)),
        container=Container(engine, image, SMALL, PYTHON),
    )  # fmt: skip
    publish(attempt.job, job.to_json())
    publish(attempt.handle, {"handle": "bench", "launcher": "local", "time": time.time()})
    return run, job


def inside(run: RunDir, job: Job, root: Path, argv: tuple[str, ...]) -> list[str]:
    """The engine's `run`, with the words that the guard gives it."""
    assert job.container is not None
    values = Inside(
        name=f"trainkit-{job.run_id}", argv=argv, directory=str(run.path), home=str(make_private(run.home)),
        uid=os.getuid(), gid=os.getgid(), variables=(IN_CONTAINER,),
    )  # fmt: skip
    container = Container(job.container.engine, job.container.image, SMALL, PYTHON, mounts=(str(root),))
    return image_engine(job.container.engine).run(container, values)


def seconds(argv: list[str], first: Path, variables: dict[str, str]) -> float:
    """From a command's start until the script in it wrote when it began."""
    began = time.time()
    with open(first.parent / "bench.log", "wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **variables})
        process.wait(DEADLINE_SECONDS)
    if not first.exists():
        raise RuntimeError((first.parent / "bench.log").read_text())
    return float(first.read_text()) - began


def pair(root: Path, engine: Engine, image: str) -> dict[str, float]:
    """Each way once."""
    variables = {**engine.variables, IN_CONTAINER: "1"}
    run, job = new_run(root, engine.program, image)
    guard = [sys.executable, "-m", "trainkit.boot.guard", str(run.path), "1", "0"]
    times = {"guard": seconds(guard, run.code / "first", dict(engine.variables))}
    run, job = new_run(root, engine.program, image)
    argv = (*boot_command(job, "inside", PYTHON), str(run.path), "1", "0")
    times["run"] = seconds(inside(run, job, root, argv), run.code / "first", variables)
    run, job = new_run(root, engine.program, image)
    argv = (PYTHON, "-c", f"import os; os.chdir({str(run.code)!r}); exec(open('train.py').read())")
    times["alone"] = seconds(inside(run, job, root, argv), run.code / "first", variables)
    return times


def starts(names: list[str], pairs: int) -> list[dict[str, Any]]:
    """One row for each engine."""
    rows = []
    with services() as engines, tempfile.TemporaryDirectory() as folder:
        for name in names:
            engine = engines[name]
            image = json.loads(engine.run("image", "inspect", SMALL).stdout)[0]["Id"]
            pair(Path(folder), engine, image)  # warms the disk's cache up
            times = [pair(Path(folder), engine, image) for _ in range(pairs)]
            medians = {key: round(statistics.median(one[key] for one in times), 3) for key in times[0]}
            added = round(statistics.median(one["guard"] - one["run"] for one in times), 3)
            rows.append({"engine": name, "pairs": pairs, "seconds": medians, "guard_adds_seconds": added})
    return rows


def digests(files: int, repeats: int) -> dict[str, float]:
    """Medians for a folder of so many files."""
    times: dict[str, list[float]] = {"first": [], "unchanged": [], "one file changed": []}
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder) / "context"
        for number in range(files):
            part = context / f"package{number // 100}"
            part.mkdir(parents=True, exist_ok=True)
            (part / f"module{number}.py").write_bytes(os.urandom(1000))
        time.sleep(2.5)  # a file younger than that is read again
        for number in range(repeats):
            envs = Path(folder) / f"envs{number}"
            for name in times:
                if name == "one file changed":
                    (context / "package0" / "module0.py").write_bytes(os.urandom(1000))
                begun = time.perf_counter()
                context_digest(context, envs)
                times[name].append(time.perf_counter() - begun)
            time.sleep(2.5)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--engine", action="append", choices=["docker", "podman"])
    parser.add_argument("--files", type=int, default=10_000)
    arguments = parser.parse_args()
    rows = starts(arguments.engine or ["docker", "podman"], arguments.pairs)
    print(f"\n{'engine':10} {'guard s':>9} {'run s':>9} {'adds s':>9} {'alone s':>9}")
    for row in rows:
        times = row["seconds"]
        print(
            f"{row['engine']:10} {times['guard']:9.3f} {times['run']:9.3f} {row['guard_adds_seconds']:9.3f} "
            f"{times['alone']:9.3f}"
        )
    context = digests(arguments.files, 5)
    print(f"\n{'a context of ' + format(arguments.files, ',') + ' files':28} {'s':>9}")
    for name, value in context.items():
        print(f"{name:28} {value:9.3f}")
    passed = all(row["guard_adds_seconds"] <= GUARD_LIMIT for row in rows) and context["unchanged"] <= DIGEST_LIMIT
    print(f"\nthe guard adds <= {GUARD_LIMIT} s, an unchanged context <= {DIGEST_LIMIT} s: {'yes' if passed else 'NO'}")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    RESULT.parent.mkdir(exist_ok=True)
    result = {"machine": machine, "starts": rows, "context": {"files": arguments.files, "seconds": context}}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
