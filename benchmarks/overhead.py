"""What a loop costs beside the model: time a step over the bare loop, for a network so small that little else counts.

    make bench NAME=overhead [ARGS="--steps 3000 --repeats 7"]

All train one multilayer perceptron (32-64-10, batch 32, SGD with momentum) on the same prepared batches in the same
order, in one thread. trainkit runs with its defaults: a recorded run, a checkpoint at the epoch's end, metrics,
preemption, the step timer; of the peers everything optional is off (loggers, progress bars, checkpoints). Each is timed
for N and for 2 N steps and the difference counts, so that what happens once a fit does not. Repeats are interleaved;
medians are reported. Before, the losses of trainkit and the bare loop are compared, bit by bit. Then, alone: what a
step of a loop on several ranks writes into the page of memory in which its agent sees that it goes on; --page measures
only that and leaves the other results. Prints a table, writes benchmarks/results/overhead.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainkit.boot import pulse

RESULT = Path(__file__).parent / "results" / "overhead.json"
BAR_MICROSECONDS = 60
BAR_PULSE_MICROSECONDS = 1.0
Batch = tuple[Tensor, Tensor]


class Prepared:
    """Batches that were made in advance, as a source of trainkit's and as a dataset of torch's."""

    def __init__(self, count: int) -> None:
        numbers = torch.Generator().manual_seed(0)
        self.made = [
            (torch.randn(32, 32, generator=numbers), torch.randint(10, (32,), generator=numbers)) for _ in range(64)
        ]
        self.count = count

    def __len__(self) -> int:
        return self.count * 32

    def batches(self, shares: Iterable[np.ndarray], epoch: int, seed: int) -> Iterator[Batch]:
        """One for each share, whatever its ids are."""
        for i, _ in enumerate(shares):
            yield self.made[i % 64]

    def loader(self) -> DataLoader[Batch]:
        """The same for those that want a DataLoader; it does nothing but hand out."""
        return DataLoader(_Listed(self), batch_size=None)


class _Listed(torch.utils.data.Dataset[Batch]):
    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    def __len__(self) -> int:
        return self.prepared.count

    def __getitem__(self, i: int) -> Batch:
        return self.prepared.made[i % 64]


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same weights for all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


Loss = Callable[[Tensor, Tensor], Tensor]


def bare(data: Prepared, loss: Loss) -> None:
    """The loop that everybody writes first."""
    model, optimizer = network()
    model.train()
    for i in range(data.count):
        inputs, targets = data.made[i % 64]
        optimizer.zero_grad()
        found = loss(model(inputs), targets)
        found.backward()
        optimizer.step()


def bare_loader(data: Prepared, loss: Loss) -> None:
    """The same over a DataLoader, which most peers need."""
    model, optimizer = network()
    model.train()
    for inputs, targets in data.loader():
        optimizer.zero_grad()
        found = loss(model(inputs), targets)
        found.backward()
        optimizer.step()


def trainkit(data: Prepared, loss: Loss) -> None:
    """TorchLoop with its defaults."""
    from trainkit.loops import TorchLoop

    model, optimizer = network()
    TorchLoop(model=model, loss=loss, optimizer=optimizer, train=data, batch=32, quiet=True).fit(epochs=1)


def accelerate(data: Prepared, loss: Loss) -> None:
    """Accelerate's five lines."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = network()
    model, optimizer, loader = accelerator.prepare(model, optimizer, data.loader())
    model.train()
    for inputs, targets in loader:
        optimizer.zero_grad()
        accelerator.backward(loss(model(inputs), targets))
        optimizer.step()
    accelerator.free_memory()


def fabric(data: Prepared, loss: Loss) -> None:
    """Lightning Fabric."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(*network())
    loader = fabric.setup_dataloaders(data.loader())
    model.train()
    for inputs, targets in loader:
        optimizer.zero_grad()
        fabric.backward(loss(model(inputs), targets))
        optimizer.step()


def lightning(data: Prepared, loss: Loss) -> None:
    """Lightning's Trainer."""
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.optimizer = network()

        def training_step(self, batch: Batch, number: int) -> Tensor:
            return loss(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Module(), data.loader())  # fmt: skip


def fastai(data: Prepared, loss: Loss) -> None:
    """fastai's Learner, with torch's own optimizer."""
    from fastai.callback.core import Callback, CancelValidException
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    class NoValidation(Callback):  # type: ignore[misc]
        def before_validate(self) -> None:
            raise CancelValidException

    model, _ = network()
    loaders = DataLoaders(data.loader(), data.loader(), device="cpu")

    def make(parameters: Any, lr: float) -> OptimWrapper:
        return OptimWrapper(parameters, torch.optim.SGD, lr=lr, momentum=0.9)

    learner = Learner(loaders, model, loss_func=loss, opt_func=make, lr=0.01, train_bn=False)
    learner.remove_cbs([ProgressCallback])
    learner.recorder.silent = True
    learner.logger = lambda *_: None
    learner.fit(1, cbs=NoValidation())


def ignite(data: Prepared, loss: Loss) -> None:
    """PyTorch Ignite."""
    from ignite.engine import create_supervised_trainer

    model, optimizer = network()
    create_supervised_trainer(model, optimizer, loss).run(data.loader(), max_epochs=1)


PEERS: dict[str, Callable[[Prepared, Loss], None]] = {
    "bare loop": bare,
    "trainkit": trainkit,
    "bare loop, DataLoader": bare_loader,
    "Accelerate": accelerate,
    "Fabric": fabric,
    "Ignite": ignite,
    "fastai": fastai,
    "Lightning": lightning,
}


def losses_of(run: Callable[[Prepared, Loss], None], steps: int) -> list[float]:
    """Every step's loss."""
    found: list[float] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(outputs, targets)
        found.append(value.item())
        return value

    run(Prepared(steps), loss)
    return found


def timed(run: Callable[[Prepared, Loss], None], steps: int) -> float:
    """Microseconds a step."""
    seconds = []
    for count in (steps, 2 * steps):
        data = Prepared(count)
        started = time.perf_counter()
        run(data, nn.functional.cross_entropy)
        seconds.append(time.perf_counter() - started)
    return (seconds[1] - seconds[0]) / steps * 1e6


def pulse_microseconds(repeats: int, steps: int = 100_000) -> float:
    """Processor time (nothing waits here) of one step's words to the agent: what `StepTimer` and averaging write."""
    page, found = pulse.Page.make(0), []
    page.fit(0)
    for _ in range(repeats):
        started = time.process_time()
        for step in range(1, steps + 1):
            page.phase(pulse.COMPUTING)
            page.wait()
            page.phase(pulse.UPDATING)
            page.phase(pulse.DATA)
            page.step(step)
        found.append((time.process_time() - started) / steps * 1e6)
    print(f"words to the agent: {statistics.median(found):.2f} us a step (bar {BAR_PULSE_MICROSECONDS:g})")
    return statistics.median(found)


def main() -> int:
    """Run it; the exit status is 1 where trainkit's overhead is above the bar or a loss differs."""
    parser = argparse.ArgumentParser(description="What a training loop costs a step.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=sorted(PEERS), default=list(PEERS))
    parser.add_argument("--page", action="store_true", help="only what a step tells the agent")
    args = parser.parse_args()
    if args.page:
        known = {**json.loads(RESULT.read_text()), "pulse_us": pulse_microseconds(args.repeats)}
        RESULT.write_text(json.dumps(known, indent=1) + "\n")
        return 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    peers = {name: run for name, run in PEERS.items() if name in args.only}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        same = losses_of(bare, 200) == losses_of(trainkit, 200)
        for run in peers.values():
            timed(run, 100)  # warm
        times: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(args.repeats):
            for name, run in peers.items():
                times[name].append(timed(run, args.steps))
        os.chdir("/")
    base = times["bare loop"]
    rows = {
        name: {
            "step_us": statistics.median(found),
            "over_us": statistics.median(a - b for a, b in zip(found, base, strict=True)),
        }
        for name, found in times.items()
    }
    print(f"losses of trainkit and of the bare loop: {'the same bits' if same else 'THEY DIFFER'}\n")
    print("| loop | a step, us | over the bare loop, us |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['step_us']:.0f} | {row['over_us']:+.0f} |")
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    RESULT.parent.mkdir(exist_ok=True)
    report = {"machine": machine, "steps": args.steps, "repeats": args.repeats, "same_losses": same, "rows": rows}
    report["pulse_us"] = pulse_microseconds(args.repeats)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    return int(not same or rows["trainkit"]["over_us"] > BAR_MICROSECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
