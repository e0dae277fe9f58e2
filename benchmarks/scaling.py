"""Samples a second on 1, 2 and 4 ranks whose network is slow: TorchLoop beside DistributedDataParallel and Horovod.

    make bench NAME=scaling [ARGS="--steps 12 --repeats 3"]

A perceptron of 10.5 MB, 64 samples a rank and step, one thread and one rank a node, on nodes of a testbed (which needs
root) whose links are limited to 100 and to 1000 Mbit/s each way. All train the same network on the same samples with
SGD and momentum: TorchLoop with its defaults over gloo, beside a plain loop with DDP under torchrun; TorchLoop under
the spread horovod, beside a plain loop with Horovod's DistributedOptimizer under horovodrun. A step's time is that from
one loss to the next, its median over a run without the first two; runs take turns. Samples a second are of all ranks.
The nodes share this machine's cores: with more ranks than cores the trend counts.
Prints a table, writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the testbed, and the ways to start ranks

from benchmarks.startup import Bench, Way, by_trainkit, horovodrun, torchrun
from tests.engines.testbed import Testbed

RESULT = Path(__file__).parent / "results" / "scaling.json"
RANKS, MBITS, BATCH = (1, 2, 4), (100, 1000), 64
# Each way's script, and its peer.
WAYS = {"TorchLoop": "DDP", "DDP": "", "TorchLoop, horovod": "Horovod", "Horovod": ""}
COMMON = """
import os, statistics, sys, time
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from torch import nn
torch.set_num_threads(1)
steps, batch = %d, %d
torch.manual_seed(0)
sizes = (512, 1024, 1024, 1024, 10)
layers = []
for before, after in zip(sizes, sizes[1:]):
    layers += [nn.Linear(before, after), nn.ReLU()]
model = nn.Sequential(*layers[:-1])
assert 10e6 < 4 * sum(p.numel() for p in model.parameters()) < 11e6
times = []
def loss(outputs, targets):
    times.append(time.perf_counter())
    return nn.functional.cross_entropy(outputs, targets)
def samples(count):
    return torch.randn(count, 512), torch.randint(10, (count,))
def plainly(model, optimizer, rank):
    inputs, targets = samples(batch * steps)
    for step in range(steps):
        part = slice(step * batch, (step + 1) * batch)
        optimizer.zero_grad()
        loss(model(inputs[part]), targets[part]).backward()
        optimizer.step()
    note(rank)
def note(rank):
    assert len(times) == steps
    passed = statistics.median(b - a for a, b in zip(times[2:], times[3:]))
    with open(f"{sys.argv[1]}/{os.path.basename(__file__)[:-3]}-{rank}", "w") as file:
        file.write(repr(passed))
def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
"""
LOOP = """
from trainkit.loops import TorchLoop
from trainkit.loops.world import join
world = join()
loop = TorchLoop(model=model, loss=loss, optimizer=momentum(model), train=samples(batch * steps * world.size),
                 batch=batch * world.size, device="cpu", quiet=True)
loop.fit(epochs=1)
note(world.rank)
"""
SCRIPTS = {
    "TorchLoop": LOOP,
    "TorchLoop, horovod": LOOP,
    "DDP": """
import torch.distributed as dist
dist.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(model)
plainly(model, momentum(model), dist.get_rank())
dist.destroy_process_group()
""",
    "Horovod": """
import horovod.torch as hvd
hvd.init()
optimizer = hvd.DistributedOptimizer(momentum(model), named_parameters=model.named_parameters())
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
plainly(model, optimizer, hvd.rank())
hvd.shutdown()
""",
}


def starting(name: str, ranks: int) -> Way:
    """How this way's ranks are started."""
    if name.startswith("TorchLoop"):
        launcher, spread = "ssh" if ranks > 1 else "local", "horovod" if "horovod" in name else "fork"
        return by_trainkit(launcher, spread, nodes=ranks)
    return torchrun(ranks) if name == "DDP" else horovodrun(ranks)


def file_of(name: str) -> str:
    """The name of a way's script, which must not be that of a module."""
    return "train-" + name.lower().replace(", ", "-")


def measure(steps: int, repeats: int) -> list[dict[str, Any]]:
    """Rows: a way on so many ranks with such links; one rank has no use for a link."""
    scripts = {file_of(name): COMMON % (steps, BATCH) + text for name, text in SCRIPTS.items()}
    cells = [(ranks, mbit) for mbit in MBITS for ranks in RANKS if ranks > 1]
    times: dict[tuple[int, int, str], list[float]] = {}
    with Testbed(nodes=max(RANKS)) as bed:
        bench = Bench(bed, {"ssh": ["hosts=" + ",".join(bed.names)]}, scripts)
        for _ in range(repeats):
            for ranks, mbit in [(1, 0), *cells]:
                for node in bed.names:
                    bed.limit(node, mbit)
                for name in WAYS:
                    found, _, passed = bench.run(starting(name, ranks), file_of(name))
                    times.setdefault((ranks, mbit, name), []).append(BATCH * ranks / max(found))
                    speed = times[ranks, mbit, name][-1]
                    print(f"{ranks} x {mbit} Mbit {name}: {speed:.0f} a second ({passed:.0f} s)", file=sys.stderr)
    rows = []
    for (ranks, mbit, name), speeds in times.items():
        row = {"ranks": ranks, "mbit": mbit, "way": name, "samples_a_second": statistics.median(speeds)}
        alone, peers = times[1, 0, name], times.get((ranks, mbit, WAYS[name]), [])
        row["over_one"] = statistics.median(a / b for a, b in zip(speeds, alone, strict=True))
        row["peer"] = WAYS[name]
        row["ratio"] = statistics.median(a / b for a, b in zip(speeds, peers, strict=True)) if peers else None
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table: a line for each number of ranks and each link."""
    print("| ranks | link, Mbit/s | " + " | ".join(WAYS) + " | TorchLoop / DDP | TorchLoop, horovod / Horovod |")
    print("|---|---|" + "---|" * (len(WAYS) + 2))
    for place in dict.fromkeys((row["ranks"], row["mbit"]) for row in rows):
        here = {row["way"]: row for row in rows if (row["ranks"], row["mbit"]) == place}
        cells = [f"{here[name]['samples_a_second']:.0f} ({here[name]['over_one']:.2f} x)" for name in WAYS]
        cells += [f"{here[name]['ratio']:.2f} x" for name, peer in WAYS.items() if peer]
        print(f"| {place[0]} | {place[1] or ''} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12, help="of each run")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    load = os.getloadavg()
    rows = measure(options.steps, options.repeats)
    show(rows)
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "kernel": platform.release(),
               "load before": load, "load after": os.getloadavg()}  # fmt: skip
    report = {"machine": machine, "steps": options.steps, "repeats": options.repeats, "batch": BATCH, "rows": rows}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
