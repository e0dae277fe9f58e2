"""Reading pictures while training: files in, a random part, mirrored, as normalised floats out; nothing else.

    TRAINKIT_TEST_DATA=FOLDER make bench NAME=images [ARGS="--repeats 7 --workers 2"]

FOLDER holds the folders birds, hymenoptera and pets. The bar is torchvision's ImageFolder (Pillow) with
RandomResizedCrop(224), RandomHorizontalFlip, ToTensor and Normalize in a DataLoader, whose workers stay from epoch to
epoch. Beside it: torchvision's own JPEG decoder with its transforms v2; the same code as `Pictures` has, in the
processes of a DataLoader instead of threads; `Pictures` with its cache filled; and both ways to evaluate. All get the
same files, batches of 32 and number of workers, and take turns epoch by epoch. Prints a table of medians and writes
benchmarks/results/images.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from trainkit.export.preprocessing import Preprocessing
from trainkit.loops.images import Augment, Pictures
from trainkit.loops.order import Order

RESULT = Path(__file__).parent / "results" / "images.json"
DATA = ("birds", "hymenoptera", "pets")
BATCH = 32
SHAPE = Preprocessing(resize=256, size=224)
PEER, OURS = "torchvision: ImageFolder, Pillow", "Pictures, cold"
EVALUATION = ("torchvision: evaluation", "Pictures: evaluation, cold", "Pictures: evaluation, cache filled")


class Tensors(Dataset[tuple[Any, int]]):
    """Files decoded by torchvision's own decoder, changed as tensors."""

    def __init__(self, files: list[str], change: Callable[[Any], Any]) -> None:
        self.files, self.change = files, change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.change(decode_image(self.files[number], mode=ImageReadMode.RGB)), 0


class Single(Dataset[tuple[Any, int]]):
    """`Pictures`, one picture at a time, for the processes of a DataLoader."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        ids = torch.tensor([number]).numpy()
        ((images, _),) = self.pictures.batches([ids], 0, 0)
        return images[0], 0


def loaded(data: Dataset[Any], workers: int, shuffle: bool = True) -> Callable[[int], Iterable[Any]]:
    """An epoch of a DataLoader."""
    loader = DataLoader(data, batch_size=BATCH, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0)
    return lambda epoch: loader


def read(pictures: Pictures, shuffle: bool = True) -> Callable[[int], Iterable[Any]]:
    """An epoch of a source."""
    order = Order(len(pictures), BATCH, seed=0, shuffle=shuffle)
    return lambda epoch: pictures.batches(order.steps_from(epoch, 0), epoch, 0)


def ways(folder: Path, workers: int) -> dict[str, Callable[[int], Iterable[Any]]]:
    """What is measured: by name, an epoch's batches."""
    steps = [transforms.ToTensor(), transforms.Normalize(SHAPE.mean, SHAPE.std)]
    train = [transforms.RandomResizedCrop(SHAPE.size), transforms.RandomHorizontalFlip(), *steps]
    evaluate = [transforms.Resize(SHAPE.resize), transforms.CenterCrop(SHAPE.size), *steps]
    tensors = [
        v2.RandomResizedCrop(SHAPE.size, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(SHAPE.mean), list(SHAPE.std)),
    ]
    peer = ImageFolder(str(folder), transforms.Compose(train))
    files = [file for file, _ in peer.samples]

    def ours(augment: Augment | None, cache: bool, threads: int = workers) -> Pictures:
        return Pictures(
            files, [0] * len(files), preprocessing=SHAPE, augment=augment, workers=threads, cache=cache
        )  # fmt: skip

    return {
        PEER: loaded(peer, workers),
        "torchvision: decode_image, transforms v2": loaded(Tensors(files, v2.Compose(tensors)), workers),
        OURS: read(ours(Augment(), False)),
        "Pictures in a DataLoader's processes, cold": loaded(Single(ours(Augment(), False, 0)), workers),
        "Pictures, cache filled": read(ours(Augment(), True)),
        EVALUATION[0]: loaded(ImageFolder(str(folder), transforms.Compose(evaluate)), workers, False),
        EVALUATION[1]: read(ours(None, False), False),
        EVALUATION[2]: read(ours(None, True), False),
    }


def epoch_seconds(batches: Iterable[Any], count: int) -> float:
    """How long it takes to read an epoch."""
    started = time.perf_counter()
    seen = sum(len(labels) for _, labels in batches)
    seconds = time.perf_counter() - started
    assert seen == count, (seen, count)
    return seconds


def measured(folder: Path, workers: int, repeats: int) -> dict[str, Any]:
    """Pictures a second of each way, median of interleaved epochs; the first epoch of each does not count."""
    every = ways(folder, workers)
    count = len(ImageFolder(str(folder)))
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for epoch in range(repeats + 1):
        for name, batches in every.items():
            taken = epoch_seconds(batches(epoch), count)
            if epoch:
                seconds[name].append(taken)
    rates = {name: count / statistics.median(times) for name, times in seconds.items()}
    return {"data": folder.name, "pictures": count, "images_per_second": rates, "seconds": seconds}


def factors(row: dict[str, Any]) -> dict[str, float]:
    """How many times as fast as its peer each way is."""
    rates = row["images_per_second"]
    return {name: rate / rates[EVALUATION[0] if name in EVALUATION else PEER] for name, rate in rates.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        f"| images/s | {' | '.join(row['data'] for row in rows)} | geometric mean of the factors |",
        "|---|" + "---|" * (len(rows) + 1),
    ]
    for name in rows[0]["images_per_second"]:
        cells = [f"{row['images_per_second'][name]:,.0f} ({factors(row)[name]:.2f} x)" for row in rows]
        mean = math.exp(statistics.mean(math.log(factors(row)[name]) for row in rows))
        lines.append(f"| {name} | {' | '.join(cells)} | {mean:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Pictures a second, from files to normalised batches.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    root = os.environ.get("TRAINKIT_TEST_DATA", "")
    if not root:
        parser.error("TRAINKIT_TEST_DATA does not name a folder of photographs (birds/, hymenoptera/, pets/)")
    rows = []
    for name in DATA:
        rows.append(measured(Path(root) / name, args.workers, args.repeats))
        print(f"{name}: {rows[-1]['pictures']} pictures", flush=True)
    print(table(rows))
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    machine: dict[str, Any] = {**versions, "cpus": os.cpu_count(), "processor": platform.machine()}
    machine["load_average_at_the_end"] = round(os.getloadavg()[0], 1)  # well above `workers`: measure again
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(
        json.dumps({"machine": machine, "workers": args.workers, "batch": BATCH, "repeats": args.repeats, "rows": rows},
                   indent=1)
    )  # fmt: skip


if __name__ == "__main__":
    main()
