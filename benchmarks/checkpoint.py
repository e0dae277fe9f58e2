"""How long training is blocked by a checkpoint, beside a plain torch.save of the same, which is not even fsynced.

    make bench NAME=checkpoint [ARGS="--repeats 15"]

A resnet34 with the state of its optimizer. "idle": nothing else runs. "training": steps go on all the time; there the
whole price is told too, which a background thread hides: by how much the steps beside it are slowed down. All times of
a row are medians of interleaved repeats. Prints a table and writes benchmarks/results/checkpoint.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from trainkit.loops.capture import capture
from trainkit.loops.checkpoints import Checkpoints

RESULT = Path(__file__).parent / "results" / "checkpoint.json"
BAR = 0.25
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, 1e-3),
}


class Training:
    """A resnet34 that has made its first steps, on a small picture so that they are short."""

    def __init__(self, optimizer: str, channels_last: bool) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = torchvision.models.resnet34(num_classes=37).to(memory_format=layout)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.inputs = torch.randn(2, 3, 64, 64).to(memory_format=layout)
        for _ in range(2):
            self.step()

    def step(self) -> float:
        """One step; its seconds."""
        begun = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.model(self.inputs), torch.tensor([0, 1])).backward()
        self.optimizer.step()
        return time.perf_counter() - begun


def measured(training: Training, folder: Path, repeats: int, steps: int) -> dict[str, float]:
    """Medians of one row: seconds blocked by each, and by how much the steps that follow take longer in all."""
    checkpoints = Checkpoints(folder / "ours", keep=2)
    blocked: dict[str, list[float]] = {"torch.save": [], "ours": []}
    after: dict[str, list[float]] = {"nothing": [], "torch.save": [], "ours": []}
    written: list[float] = []
    for repeat in range(repeats + 1):  # the first one, with files and buffers that are new, is not counted
        times: dict[str, float] = {}
        times["nothing after"] = sum(training.step() for _ in range(steps))
        begun = time.perf_counter()
        state = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
        torch.save(state, folder / f"plain-{repeat % 2}.pt")
        times["torch.save"] = time.perf_counter() - begun
        times["torch.save after"] = sum(training.step() for _ in range(steps))
        os.sync()  # what the kernel has still to write of one is not the other's price
        begun = time.perf_counter()
        tensors, state = capture(training.model, training.optimizer)
        checkpoints.save(repeat, tensors, state, [{}], "")
        times["ours"] = time.perf_counter() - begun
        times["ours after"] = sum(training.step() for _ in range(steps))
        checkpoints.wait()
        times["written"] = time.perf_counter() - begun
        if repeat == 0:
            continue
        for name in blocked:
            blocked[name].append(times[name])
        for name in after:
            after[name].append(times[name + " after"])
        written.append(times["written"])
    middle = statistics.median
    plain, ours = middle(blocked["torch.save"]), middle(blocked["ours"])
    return {
        "torch_save_seconds": plain, "blocked_seconds": ours, "ratio": ours / plain,
        "on_disk_seconds": middle(written), "steps": steps,
        "steps_seconds": middle(after["nothing"]),
        "steps_after_torch_save_seconds": middle(after["torch.save"]),
        "steps_after_ours_seconds": middle(after["ours"]),
    }  # fmt: skip


def main() -> int:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="steps of training beside a checkpoint")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    cores = len(os.sched_getaffinity(0))
    print("| state | memory | while | torch.save | blocked | ratio | on disk after | steps | steps beside it |")
    print("|---|---|---|---|---|---|---|---|---|")
    for optimizer in OPTIMIZERS:
        for channels_last in (False, True):
            training = Training(optimizer, channels_last)
            for steps in (0, options.steps):
                with tempfile.TemporaryDirectory() as folder:
                    row: dict[str, Any] = measured(training, Path(folder), options.repeats, steps)
                row = {"optimizer": optimizer, "channels_last": channels_last, **row}
                rows.append(row)
                memory, beside = "channels last" if channels_last else "usual", "training" if steps else "idle"
                print(
                    f"| {optimizer} | {memory} | {beside} | {1e3 * row['torch_save_seconds']:.0f} ms "
                    f"| {1e3 * row['blocked_seconds']:.0f} ms | {row['ratio']:.0%} | {row['on_disk_seconds']:.2f} s "
                    f"| {row['steps_seconds']:.2f} s | {row['steps_after_ours_seconds']:.2f} s |", flush=True,
                )  # fmt: skip
    machine = {"cores": cores, "machine": platform.machine(), "python": platform.python_version()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**machine, "torch": torch.__version__, "bar": BAR, "rows": rows}, indent=1) + "\n")
    missed = [row for row in rows if row["ratio"] > BAR]
    print(f"the bar of {BAR:.0%} is {'missed' if missed else 'kept'}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
