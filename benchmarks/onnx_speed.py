"""Classifying on a CPU: the exported file in onnxruntime beside the same network in eager PyTorch (both layouts).

    make bench NAME=onnx_speed [ARGS="--repeats 30 --threads 2"]

Both are given the same preprocessed pictures and the same number of threads; they take turns, so that whatever else
the machine does meets both. Prints a table of medians and writes benchmarks/results/onnx_speed.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

MODELS = ("resnet18", "efficientnet_lite0")
BATCHES = (1, 32)
RESULT = Path(__file__).parent / "results" / "onnx_speed.json"


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each, in turns of five.

    Idle threads of one library still spin for a moment, at the cost of the other: so each turn starts with a pause and
    with a call that does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    while min(map(len, times.values())) < repeats:
        for name, call in calls.items():
            time.sleep(0.5)
            call()
            times[name] += [seconds(call) for _ in range(5)]
    return times


def eager(model: Any, pictures: Any) -> Callable[[], object]:
    """A call of the network as PyTorch runs it."""
    import torch

    def call() -> object:
        with torch.inference_mode():
            return model(pictures)

    return call


def compare(model_name: str, batches: tuple[int, ...], repeats: int, threads: int) -> list[dict[str, Any]]:
    """One row for each batch size."""
    import torch

    from trainkit.export import Classifier, Preprocessing, to_onnx
    from trainkit.export.architectures import build

    torch.manual_seed(0)
    model = build(model_name, 2).eval()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    pictures = torch.randn(max(batches), 3, 224, 224)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        report = to_onnx(model, pictures[:2], path, class_names=["a", "b"], preprocessing=Preprocessing(256, 224))
        classifier = Classifier(path, threads=threads)
        for batch in batches:
            calls: dict[str, Callable[[], object]] = {
                "pytorch": eager(model, pictures[:batch]),
                "channels_last": eager(other, pictures[:batch].to(memory_format=torch.channels_last)),
                "onnxruntime": partial(classifier.logits, pictures[:batch].numpy()),
            }
            times = in_turns(calls, repeats // (1 if batch == 1 else 2))
            rows.append(
                {"model": model_name, "batch": batch, "max_difference": report.max_difference, **medians(times)}
            )
    return rows


def medians(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and quartiles in milliseconds, and how many times faster onnxruntime is than PyTorch's better layout."""
    values: dict[str, Any] = {"repeats": len(times["pytorch"])}
    for name, taken in times.items():
        quartiles = statistics.quantiles(taken, n=4)
        values[name + "_ms"] = round(statistics.median(taken) * 1000, 3)
        values[name + "_quartiles_ms"] = [round(quartiles[0] * 1000, 3), round(quartiles[2] * 1000, 3)]
    peer = min(values["pytorch_ms"], values["channels_last_ms"])
    values["speedup"] = round(peer / values["onnxruntime_ms"], 2)
    return values


def main() -> None:
    """Run everything, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="calls of each at batch 1; half of them at 32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    import onnxruntime
    import torch

    torch.set_num_threads(args.threads)
    rows = [row for name in MODELS for row in compare(name, BATCHES, args.repeats, args.threads)]
    columns = ("pytorch_ms", "channels_last_ms", "onnxruntime_ms")
    print(
        f"{'model':20}{'batch':>6}" + "".join(f"{name:>18}" for name in columns) + f"{'speed-up':>10}{'images/s':>10}"
    )
    for row in rows:
        rate = row["batch"] / row["onnxruntime_ms"] * 1000
        times = "".join(f"{row[name]:>18.1f}" for name in columns)
        print(f"{row['model']:20}{row['batch']:>6}{times}{row['speedup']:>9.2f}x{rate:>10.1f}")
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    machine = {"threads": args.threads, "machine": platform.machine(), "cores": os.cpu_count(), **versions}
    machine["load_average_at_the_end"] = round(os.getloadavg()[0], 1)  # well above `threads`: measure again
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"conditions": machine, "rows": rows}, indent=1) + "\n")
    print(f"Written: {RESULT}")


if __name__ == "__main__":
    main()
