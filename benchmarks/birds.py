"""The birds recipe beside the plain script that tutorials print: images a second of a training epoch, and accuracy.

    TRAINKIT_TEST_DATA=FOLDER make bench NAME=birds [ARGS="--repeats 3 --seeds 0 1 2 --epochs 4"]

Both train the same network on the same pictures (FOLDER/hymenoptera) with the same batch, optimizer, schedule, frozen
parts and augmentation. The plain script is torchvision's ImageFolder and transforms in a DataLoader and the loop of
PyTorch's transfer learning tutorial; the recipe is train.py as it is. A third row is the recipe on batches that were
made in advance: what its data costs. Runs take turns; a speed is the median over epochs, the first of each run (nothing
decoded yet) also by itself. Prints tables, writes benchmarks/results/birds.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainkit.export.preprocessing import Preprocessing
from trainkit.loops import Callback, TorchLoop, WarmupCosine, freeze_statistics
from trainkit.loops.freezing import training_mode
from trainkit.loops.images import read_tree
from trainkit_recipes.birds import train as recipe
from trainkit_recipes.birds.data import CHANGES
from trainkit_recipes.birds.models import build_model, groups, preprocessing

RESULTS = Path(__file__).parent / "results"
MODELS = {"resnet18": ("none", 2.2), "efficientnet_lite0": ("packaged", 1.25)}
SYNTHETIC_BAR = 0.95
BATCH, WORKERS = 8, 2
Epochs = list[tuple[float, float]]  # images a second of its training, validation accuracy


def plain(data: Path, model: str, epochs: int, seed: int) -> Epochs:
    """The tutorial's loop."""
    from torchvision import datasets, transforms

    torch.manual_seed(seed)
    shape = preprocessing(model, read_tree(data).pixels())
    part = max(32, shape.size * 7 // 8 // 16 * 16)
    normal = [transforms.ToTensor(), transforms.Normalize(shape.mean, shape.std)]
    changed = transforms.Compose([
        transforms.RandomResizedCrop(part, CHANGES.scale, CHANGES.ratio), transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(CHANGES.brightness, CHANGES.contrast), *normal,
    ])  # fmt: skip
    centre = transforms.Compose([transforms.Resize(shape.resize), transforms.CenterCrop(shape.size), *normal])
    sets = {name: datasets.ImageFolder(str(data / name), how) for name, how in (("train", changed), ("val", centre))}
    loaders = {
        name: torch.utils.data.DataLoader(each, BATCH, shuffle=name == "train", num_workers=WORKERS)
        for name, each in sets.items()
    }
    weights = MODELS[model][0]
    network = build_model(model, len(sets["train"].classes), weights, Path()).to(memory_format=torch.contiguous_format)
    learning: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if weights != "none":
        freeze_statistics(network)
        learning = groups(model, network, 0.001, recipe.BODY_RATE, recipe.HEAD_RATE)
    optimizer = torch.optim.SGD(learning, 0.001, 0.9, weight_decay=recipe.WEIGHT_DECAY, nesterov=True)
    steps = epochs * len(loaders["train"])
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: WarmupCosine()(min(step, steps - 1), steps))
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.LABEL_SMOOTHING)
    found = []
    for _ in range(epochs):
        training_mode(network)
        started, running_loss, running_corrects = time.perf_counter(), 0.0, torch.zeros(())
        for inputs, labels in loaders["train"]:
            optimizer.zero_grad()
            outputs = network(inputs)
            _, preds = torch.max(outputs, 1)
            loss = criterion(outputs, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.MAX_NORM)
            optimizer.step()
            rates.step()
            running_loss += loss.item() * inputs.size(0)
            running_corrects += torch.sum(preds == labels.data)
        seconds = time.perf_counter() - started
        network.eval()
        right = 0
        with torch.no_grad():
            for inputs, labels in loaders["val"]:
                right += int((network(inputs).argmax(1) == labels).sum())
        found.append((len(sets["train"]) / seconds, right / len(sets["val"])))
    return found


class Clock(Callback):
    """Times each epoch's training."""

    def __init__(self) -> None:
        self.found: Epochs = []

    def on_epoch_start(self, training: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, training: Any, metrics: Any) -> None:
        self.speed = training.order.count / (time.perf_counter() - self.started)

    def on_epoch_end(self, training: Any, metrics: Any) -> None:
        self.found.append((self.speed, metrics["val_acc"]))


class Silent(recipe.Report):
    """The recipe's own callback, without its lines."""

    def say(self, training: Any, text: str) -> None:
        """Nothing."""


class Synthetic:
    """Batches of the right shapes that cost nothing."""

    def __init__(self, count: int, shape: Preprocessing, part: int, classes: int) -> None:
        self.count, self.classes = count, classes
        self.made = torch.randn(BATCH, 3, part, part).contiguous(memory_format=torch.channels_last)

    def __len__(self) -> int:
        return self.count

    def batches(self, shares: Iterable[Any], epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As many samples as each share has."""
        for ids in shares:
            yield self.made[: len(ids)], torch.from_numpy(ids) % self.classes


def trainkit(data: Path, model: str, epochs: int, seed: int, synthetic: bool = False) -> Epochs:
    """The recipe, with a clock."""
    clock = Clock()
    loop: TorchLoop = recipe.build(
        num_epochs=epochs, data=str(data), model=model, weights=MODELS[model][0], batch_size=BATCH, seed=seed
    )
    loop.callbacks = [clock, *(Silent(each.save) for each in loop.callbacks if isinstance(each, recipe.Report))]
    if synthetic:
        loop.train = Synthetic(len(loop.train), loop.train.preprocessing, loop.train.size, len(read_tree(data).classes))
    loop.fit()
    return clock.found


PEERS = {
    "plain script": plain,
    "recipe": trainkit,
    "recipe, synthetic input": lambda *words: trainkit(*words, synthetic=True),
}


def speeds(data: Path, repeats: int) -> list[dict[str, Any]]:
    """A row for each network."""
    rows = []
    for model, (weights, bar) in MODELS.items():
        seen: dict[str, list[Epochs]] = {name: [] for name in PEERS}
        for seed in range(repeats):
            for name, run in PEERS.items():
                seen[name].append(run(data, model, 2, seed))
                print(f"{model} {name}: {[round(speed, 1) for speed, _ in seen[name][-1]]} images/s", flush=True)
        every = {name: statistics.median(s for run in found for s, _ in run) for name, found in seen.items()}
        first = {name: statistics.median(run[0][0] for run in found) for name, found in seen.items()}
        ratios = [
            a[0] / b[0] for ours, theirs in zip(seen["recipe"], seen["plain script"], strict=True)
            for a, b in zip(ours, theirs, strict=True)
        ]  # fmt: skip
        fed = [
            a[0] / b[0] for real, made in zip(seen["recipe"], seen["recipe, synthetic input"], strict=True)
            for a, b in zip(real, made, strict=True)
        ]  # fmt: skip
        rows.append({
            "model": model, "weights": weights, "bar": bar, "images_per_second": every, "first_epoch": first,
            "ratio": statistics.median(ratios), "of_synthetic": statistics.median(fed),
        })  # fmt: skip
    return rows


def accuracies(data: Path, seeds: list[int], epochs: int) -> list[dict[str, Any]]:
    """The final validation accuracy of each seed."""
    rows = []
    for model in MODELS:
        for name in ("plain script", "recipe"):
            finals = [PEERS[name](data, model, epochs, seed)[-1][1] for seed in seeds]
            rows.append({"model": model, "loop": name, "finals": finals, "mean": statistics.mean(finals)})
            print(f"{model} {name}: {finals}", flush=True)
    return rows


def main() -> int:
    """Run it; the exit status is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="The birds recipe beside a plain script.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4, help="of the runs that measure accuracy")
    args = parser.parse_args()
    root = os.environ.get("TRAINKIT_TEST_DATA", "")
    if not root:
        parser.error("TRAINKIT_TEST_DATA does not name a folder of photographs")
    data = (Path(root) / "hymenoptera").absolute()
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = speeds(data, args.repeats)
        finals = accuracies(data, args.seeds, args.epochs) if args.seeds else []
        os.chdir("/")
    print("\n| network | plain script | recipe | ratio | bar | ratio, first epoch | of synthetic input |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        (was, now), first = [row["images_per_second"][name] for name in ("plain script", "recipe")], row["first_epoch"]
        words = f"{row['model']} | {was:.1f} | {now:.1f} | {row['ratio']:.2f} | {row['bar']}"
        print(f"| {words} | {first['recipe'] / first['plain script']:.2f} | {row['of_synthetic']:.3f} |")
    for row in finals:
        print(f"| {row['model']} | {row['loop']} | {row['mean']:.4f} |")
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    RESULTS.mkdir(exist_ok=True)
    report = {"machine": machine, "batch": BATCH, "speeds": rows, "accuracy": finals, "epochs": args.epochs}
    (RESULTS / "birds.json").write_text(json.dumps(report, indent=1) + "\n")
    missed = [r for r in rows if r["ratio"] < r["bar"] or r["of_synthetic"] < SYNTHETIC_BAR]
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
