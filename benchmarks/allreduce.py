"""What averaging gradients over two ranks costs: our reducer beside torch's DistributedDataParallel, MPI beside gloo.

    make bench NAME=allreduce [ARGS="--repeats 9"]

Two ranks of mpirun on this machine. Rounds of training steps alternate between the two ways within the same processes,
so that both meet the same load; a ratio is the median over rounds of one way's time over the other's. Prints a table
and writes benchmarks/results/allreduce.json.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "allreduce.json"
BARS = {"resnet18": 0.99, "mlp": 0.99, "average": 1.2}
WORDS = {
    "resnet18": "training step, resnet18, 2 x 4 images of 64 px",
    "mlp": "training step, MLP of 4 layers of 64",
    "average": "averaging the gradients of resnet18 (46.8 MB)",
}


def networks() -> dict[str, tuple[Any, Any]]:
    """Each row's model and this rank's inputs."""
    import torch
    import torchvision
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    mlp = nn.Sequential(*layers, nn.Linear(64, 10))
    return {
        "resnet18": (torchvision.models.resnet18(num_classes=10), torch.randn(4, 3, 64, 64)),
        "mlp": (mlp, torch.randn(32, 64)),
    }


def stepper(model: Any, inputs: Any, line: Any) -> Callable[[], None]:
    """A training step, by our reducer if there is a line, else by DistributedDataParallel."""
    import torch

    from trainkit.loops.reducer import Reducer

    reducer = Reducer(list(model.parameters()), line) if line is not None else None
    forward = model if reducer is not None else torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        if reducer is not None:
            reducer.arm()
        loss = forward(inputs).square().mean()
        (loss / 2 if reducer is not None else loss).backward()  # ours sums, the other averages
        if reducer is not None:
            reducer.finish()
        optimizer.step()

    return step


def averager(model: Any, line: Any) -> Callable[[], None]:
    """One average of all gradients of a model, which are there already."""
    import torch

    from trainkit.loops.reducer import Reducer

    reducer = Reducer(list(model.parameters()), line)
    gradients = [torch.randn_like(parameter) / 2 for parameter in model.parameters()]

    def average() -> None:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        reducer.finish()

    return average


def rounds(first: Callable[[], None], second: Callable[[], None], steps: int, repeats: int, line: Any) -> Any:
    """Seconds a step of both ways, round by round, in turns that change sides."""
    from trainkit.loops.collectives import barrier

    times: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            barrier(line)
            begun = time.perf_counter()
            for _ in range(steps):
                (first, second)[side]()
            barrier(line)
            if number:  # the first round warms both up
                times[side].append((time.perf_counter() - begun) / steps)
    return times


def rank(repeats: int) -> None:
    """What each rank does; rank 0 prints the times."""
    import copy

    from trainkit.loops.world import join

    gloo = join("gloo")
    found = {}
    for name, (model, inputs) in networks().items():
        ours = stepper(copy.deepcopy(model), inputs, gloo.collective)
        theirs = stepper(copy.deepcopy(model), inputs, None)
        found[name] = rounds(ours, theirs, 10 if name == "resnet18" else 300, repeats, gloo.collective)
    model = networks()["resnet18"][0]
    by_mpi = averager(copy.deepcopy(model), join("mpi").collective)
    by_gloo = averager(copy.deepcopy(model), gloo.collective)
    found["average"] = rounds(by_mpi, by_gloo, 10, repeats, gloo.collective)
    if gloo.rank == 0:
        print(json.dumps(found), flush=True)


def table(times: dict[str, Any]) -> list[dict[str, Any]]:
    """Medians, and how much faster the first way is than the second."""
    rows = []
    for name, (first, second) in times.items():
        ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
        rows.append({"what": WORDS[name], "ms": statistics.median(first) * 1e3,
                     "peer": "gloo" if name == "average" else "DDP", "peer_ms": statistics.median(second) * 1e3,
                     "ratio": ratio, "bar": BARS[name], "within": ratio >= BARS[name]})  # fmt: skip
    return rows


def main() -> int:
    """Start the ranks, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank(options.repeats)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        mpirun = Path(sys.executable).parent / "mpirun"
        command = [str(mpirun), "--oversubscribe", "--bind-to", "none", "-np", "2", sys.executable, __file__, "--rank",
                   "--repeats", str(options.repeats)]  # fmt: skip
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        load = os.getloadavg()[0]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment)
    rows = table(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':50} {'trainkit':>12} {'peer':>17} {'ratio':>7} {'bar':>6}")
    for row in rows:
        print(f"{row['what']:50} {row['ms']:9.3f} ms {row['peer']:>5} {row['peer_ms']:8.3f} ms "
              f"{row['ratio']:6.2f}x {row['bar']:5.2f}x")  # fmt: skip
    conditions = {"python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine(),
                  "ranks": 2, "repeats": options.repeats, "load": load}  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")
    return 0 if all(row["within"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
