"""From a command to ranks that run: every launcher with every spread, beside what people type by hand.

    make bench NAME=startup [ARGS="--repeats 3 --joins 1 --only ssh"]

Two ranks, one on each of two nodes of a testbed (which needs root), or two on one machine where it is local. All are
commands given on the testbed's ctl, timed from the start of the command's own process: until the last rank has reached
its script's first line, until the command has ended, and, with another script that imports torch, until both ranks have
joined one gloo group. `trainkit submit --wait` runs with its defaults, so with the preflight; peers run the same
scripts with the same interpreter. All take turns; those to a joined group come first and warm the disk's cache up. Ray,
which keeps a core busy by itself, has a part of its own. `ray job submit` alone starts one process, not two. Ratios are
medians of those of each turn.
Prints a table, writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import compileall
import itertools
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the testbed

from tests.engines.testbed import Testbed

RESULT = Path(__file__).parent / "results" / "startup.json"
BIN, RAY = Path(sys.executable).parent, Path.home() / ".cache" / "trainkit"
SECONDS = 150.0
WHO = """
import time
now = time.time()
import os, sys
def told(*names):
    return next((os.environ[name] for name in names if name in os.environ), "0")
rank = told("RANK", "OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "SLURM_PROCID")
def note(what, when):
    with open(f"{sys.argv[1]}/.{what}-{rank}", "w") as file:
        file.write(repr(when))
    os.rename(f"{sys.argv[1]}/.{what}-{rank}", f"{sys.argv[1]}/{what}-{rank}")
"""
SCRIPTS = {
    "first": WHO + "note('first', now)\n",
    "joined": WHO
    + """
import torch, torch.distributed as dist
if "MASTER_ADDR" not in os.environ:
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = sys.argv[2].split(":")
    os.environ["RANK"] = rank
    os.environ["WORLD_SIZE"] = told("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE", "SLURM_NTASKS")
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 2
note("joined", time.time())
dist.destroy_process_group()
""",
}
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}  # fmt: skip
PORTS = itertools.count(29500)


@dataclass(frozen=True)
class Way:
    """One way to start the ranks: from a script, a folder for its notes and a meeting place, a command line."""

    name: str
    words: Callable[[str, str, str], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 2
    peer: str = ""  # the way by hand that does the same


def by_trainkit(launcher: str, spread: str, peer: str = "", *more: str, nodes: int = 2) -> Way:
    """`trainkit submit`, in a workspace where the launcher is a target."""
    size = ["--nodes", str(nodes), "--ranks", "1", "--gpu", "no", "--wait", *more]

    def words(script: str, notes: str, place: str) -> list[str]:
        shape = ["--target", launcher, "--spread", spread, *size]
        return [str(BIN / "trainkit"), "submit", f"{script}.py", *shape, "--", notes, place]

    return Way(" ".join(("trainkit", f"{launcher},", spread, *more)), words, ranks=nodes, peer=peer)


def over_ssh(name: str, each: Callable[[int, str, str], list[str]], nodes: int = 2) -> Way:
    """A command line on each of the nodes, by ssh, as one types it; `each` gets its number, the place and the port."""

    def words(script: str, notes: str, place: str) -> list[str]:
        parts = []
        for node in range(nodes):
            line = shlex.join([*each(node, *place.split(":")), f"{script}.py", notes, place])
            parts.append(f"ssh node{node + 1} {shlex.quote(f'cd {shlex.quote(os.path.dirname(notes))} && {line}')} &")
        return ["bash", "-c", " ".join([*parts, "wait"])]

    return Way(name, words, ranks=nodes)


def torchrun(nodes: int = 2) -> Way:
    """torchrun on each of the nodes."""

    def each(node: int, head: str, port: str) -> list[str]:
        options = [f"--nnodes={nodes}", f"--node-rank={node}", "--nproc-per-node=1"]
        place = [f"--master-addr={head}", f"--master-port={port}"]
        return [sys.executable, "-m", "torch.distributed.run", *options, *place]

    return over_ssh("torchrun over ssh", each, nodes)


def simply(name: str, *before: str, environment: Mapping[str, str] | None = None, ranks: int = 2) -> Way:
    """The script behind some words."""

    def words(script: str, notes: str, place: str) -> list[str]:
        return [*before, sys.executable, f"{os.path.dirname(notes)}/{script}.py", notes, place]

    return Way(name, words, environment or {}, ranks)


def horovodrun(nodes: int = 2) -> Way:
    """horovodrun over the nodes; one rank on this machine."""
    hosts = ",".join(f"node{number + 1}:1" for number in range(nodes))
    place = ["-H", hosts] if nodes > 1 else ["-H", "localhost:1", "--network-interfaces", "lo"]
    return simply("horovodrun", str(BIN / "horovodrun"), "--gloo", "-np", str(nodes), *place, ranks=nodes)


def batch() -> Way:
    """A batch script with one srun, as one writes it."""

    def words(script: str, notes: str, place: str) -> list[str]:
        line = shlex.join(["srun", sys.executable, f"{script}.py", notes, place])
        options = ["--wait", "--nodes=2", "--ntasks-per-node=1", "--output=/dev/null"]
        return ["sbatch", *options, f"--chdir={os.path.dirname(notes)}", "--wrap", line]

    return Way("sbatch of an srun", words)


def by_hand() -> list[Way]:
    """The peers."""

    def accelerate(node: int, head: str, port: str) -> list[str]:
        options = {"num_machines": 2, "num_processes": 2, "machine_rank": node, "main_process_ip": head,
                   "main_process_port": port, "mixed_precision": "no", "dynamo_backend": "no"}  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        return [str(BIN / "accelerate"), "launch", "--multi_gpu", *words]

    alone = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python"]
    return [
        simply("torchrun, one machine", *alone),
        torchrun(),
        over_ssh("accelerate launch over ssh", accelerate),
        simply("mpirun", str(BIN / "mpirun"), "-H", "node1:1,node2:1", "-np", "2", environment=MPI),
        horovodrun(),
        simply("srun", "srun", "--nodes=2", "--ntasks-per-node=1"),
        batch(),
    ]


def ways() -> list[Way]:
    """All of the first part, each beside its peer."""
    spreads = {"fork": "", "torchrun": "torchrun over ssh", "mpi": "mpirun", "horovod": "horovodrun"}
    peers = {("local", "torchrun"): "torchrun, one machine", ("slurm", "fork"): "sbatch of an srun"}
    found = by_hand()
    for launcher in ("local", "ssh", "slurm"):
        for spread, peer in spreads.items():
            found.append(by_trainkit(launcher, spread, peers.get((launcher, spread), peer * (launcher == "ssh"))))
    return [*found, by_trainkit("ssh", "torchrun", "torchrun over ssh", "--no-preflight")]


class Bench:
    """A workspace on a testbed's ctl, with the launchers as targets."""

    def __init__(self, bed: Testbed, targets: Mapping[str, Sequence[str]], scripts: Mapping[str, str]) -> None:
        self.bed, self.folder, self.number = bed, bed.shared / "startup", itertools.count()
        self.folder.mkdir()
        for name, text in scripts.items():
            (self.folder / f"{name}.py").write_text(text)
        commands = [["init"]]
        for launcher, options in targets.items():
            given = [word for option in options for word in ("--option", option)]
            commands.append(["compute", "add", launcher, "--launcher", launcher, *given])
        for words in commands:
            bed.run("ctl", [str(BIN / "trainkit"), *words], cwd=self.folder, check=True)

    def run(self, way: Way, script: str) -> tuple[list[float], float, float]:
        """What each rank has noted, when the command was begun, how long it took. RuntimeError where not all have."""
        notes = self.folder / f".notes-{next(self.number)}"
        notes.mkdir()
        place = f"{self.bed.names[0]}:{next(PORTS)}"
        with open(self.folder / ".output", "w+") as output:
            words = way.words(script, str(notes), place)
            began = time.time()
            process = self.bed.start(
                "ctl", words, env=way.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output,
            )  # fmt: skip
            try:
                code = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
            passed = time.time() - began
            output.seek(0)
            found = [float(file.read_text()) for file in notes.glob(f"{script}-*")]
            if code or len(found) != way.ranks:
                raise RuntimeError(f"{way.name}: {code}, {len(found)} ranks:\n{output.read()[-3000:]}")
        return found, began, passed


def measure(bench: Bench, chosen: Sequence[Way], repeats: int, joins: int) -> Iterator[dict[str, Any]]:
    """Rows: all ways in turns, for each script; one that fails says so."""
    times: dict[str, dict[str, list[float]]] = {way.name: {"first": [], "ended": [], "joined": []} for way in chosen}
    wrong: dict[str, str] = {}
    for script, number in (("joined", joins), ("first", repeats)):
        for _, way in itertools.product(range(number), chosen):
            if way.name in wrong or (script == "joined" and way.ranks == 1):
                continue
            try:
                found, began, ended = bench.run(way, script)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                wrong[way.name] = str(error).partition("\n")[0]
                continue
            reached = max(found) - began
            print(f"{script} {way.name}: {reached:.2f} s, ended after {ended:.2f} s", file=sys.stderr, flush=True)
            times[way.name][script].append(reached)
            if script == "first":
                times[way.name]["ended"].append(ended)
    for way in chosen:
        row: dict[str, Any] = {"way": way.name, "peer": way.peer, "wrong": wrong.get(way.name, "")}
        for what, values in times[way.name].items():
            row[what] = statistics.median(values) if values else None
            peers = times.get(way.peer, {}).get(what, [])
            pairs = list(zip(values, peers, strict=False))
            row[f"{what}_ratio"] = statistics.median(a / b for a, b in pairs) if pairs else None
        yield row


def with_ray(chosen: Callable[[Way], bool], repeats: int, joins: int) -> list[dict[str, Any]]:
    """The second part."""
    from tests.engines.test_ray import Cluster

    if not (made := sorted(RAY.glob("ray-*/done"))):
        print("no Ray is here (scripts/ray-venv makes one): left out", file=sys.stderr)
        return []
    venv = made[-1].parent

    with Testbed(nodes=2) as bed:
        address = Cluster(bed, venv).address
        plain = simply(
            "ray job submit", str(venv / "bin" / "ray"), "job", "submit", "--address", address, "--", ranks=1
        )
        found = [plain, *(by_trainkit("ray", spread, plain.name) for spread in ("fork", "torchrun", "mpi", "horovod"))]
        bench = Bench(bed, {"ray": [f"address={address}", f"python={venv / 'bin' / 'python'}"]}, SCRIPTS)
        return list(measure(bench, [way for way in found if chosen(way)], repeats, joins))


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table."""

    def cell(value: float | None, unit: str) -> str:
        return "" if value is None else f"{value:.2f} {unit}"

    print("| way | all ranks' first line | x | joined | x | command ended | x |\n|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [cell(row[what + end], unit) for what in ("first", "joined", "ended")
                 for end, unit in (("", "s"), ("_ratio", "x"))]  # fmt: skip
        print(f"| {row['way']} | {' | '.join(cells)} | {row['wrong']}")


def main() -> int:
    """Measure, print, write; 1 where a way did not work."""
    for package in ("trainkit", "launchers"):  # as an installation does: this checkout may never have been imported
        compileall.compile_dir(Path(__file__).parent.parent / package, quiet=1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2, help="turns to the first line")
    parser.add_argument("--joins", type=int, default=1, help="turns to a joined process group")
    parser.add_argument("--only", nargs="+", default=[""], help="ways that have one of these words; writes nothing")
    options, load = parser.parse_args(), os.getloadavg()

    def chosen(way: Way) -> bool:
        return any(word in way.name for word in options.only)

    rows: list[dict[str, Any]] = []
    if found := [way for way in ways() if chosen(way)]:
        with Testbed(nodes=2) as bed:
            bed.slurm()
            bench = Bench(bed, {"ssh": ["hosts=" + ",".join(bed.names)], "slurm": ["time=10"]}, SCRIPTS)
            rows += measure(bench, found, options.repeats, options.joins)
    if any(word in "ray job submit, trainkit ray" for word in options.only):
        rows += with_ray(chosen, options.repeats, options.joins)
    show(rows)
    if options.only == [""]:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "kernel": platform.release(),
                   "load before": load, "load after": os.getloadavg()}  # fmt: skip
        report = {"machine": machine, "repeats": options.repeats, "joins": options.joins, "rows": rows}
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
