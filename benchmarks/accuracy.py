"""Accuracy on real photographs: one fixed recipe, several seeds, the weights after the last epoch.

    TRAINKIT_TEST_DATA=FOLDER make bench NAME=accuracy [ARGS="--seeds 0 1 2 --data hymenoptera birds"]

FOLDER holds a folder train/ and val/ for each name. The recipe is train.py with its defaults, which are those for the
drawn sample too; nothing in a run is chosen by its validation pictures. Beside each result stands what a linear
classifier reaches on the same network's frozen features. Prints a table, writes benchmarks/results/accuracy.json and
accuracy.md.
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
from pathlib import Path
from typing import Any

EPOCHS = 8
TARGET = 0.93
RESULTS = Path(__file__).parent / "results"
TRAIN = Path(__file__).parents[1] / "recipes" / "birds" / "train.py"


def trained(data: Path, seed: int) -> dict[str, Any]:
    """One run of train.py: its final validation accuracy, the best on the way (for information), its time."""
    from trainkit import events

    command = [sys.executable, str(TRAIN), "--num_epochs", str(EPOCHS), "--data", str(data), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        (run,) = (Path(folder) / ".trainkit" / "runs" / "train").glob("train_*")
        accuracy = events.metrics(run)["val_acc"]
    return {"seed": seed, "final": accuracy[-1], "best": max(accuracy), "seconds": seconds}


def frozen(data: Path) -> float:
    """Validation accuracy of logistic regression on the features of the pretrained network, which is not trained."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    from trainkit.loops.images import read_tree
    from trainkit_recipes.birds.data import pictures
    from trainkit_recipes.birds.models import build_model, preprocessing

    tree = read_tree(data)
    shape = preprocessing("efficientnet_lite0", tree.pixels())
    network: Any = build_model("efficientnet_lite0", len(tree.classes), "packaged", Path()).eval()
    tables = {}
    for split, pairs in (("train", tree.train), ("val", tree.val)):
        shares = np.array_split(np.arange(len(pairs)), max(1, len(pairs) // 32))
        with torch.inference_mode():
            features = [
                network.forward_head(network.forward_features(batch[0]), pre_logits=True)
                for batch in pictures(pairs, shape, changed=False).batches(shares, 0, 0)
                if batch is not None
            ]
        tables[split] = torch.cat(features).numpy(), np.array([label for _, label in pairs])
    linear = LogisticRegression(C=0.01, max_iter=5000).fit(*tables["train"])
    return float(linear.score(*tables["val"]))


def row(name: str, data: Path, seeds: list[int]) -> dict[str, Any]:
    """One data set's line of the table."""
    runs = []
    for seed in seeds:
        runs.append(trained(data, seed))
        print(f"{name}, seed {seed}: {runs[-1]['final']:.4f} in {runs[-1]['seconds']:.0f} s", flush=True)
    finals = [run["final"] for run in runs]
    return {
        "data": name,
        "pictures": {split: sum(1 for p in (data / split).glob("*/*")) for split in ("train", "val")},
        "runs": runs,
        "mean": statistics.mean(finals),
        "deviation": statistics.stdev(finals) if len(finals) > 1 else 0.0,
        "frozen_features": frozen(data),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        f"Validation accuracy after the last of {EPOCHS} epochs: efficientnet_lite0, train.py's defaults.",
        "",
        "| data | train / val pictures | each seed | mean | standard deviation | frozen features, linear |",
        "|---|---|---|---|---|---|",
    ]
    for each in rows:
        finals = ", ".join(f"{run['final']:.4f}" for run in each["runs"])
        counts = "{train} / {val}".format(**each["pictures"])
        lines.append(
            f"| {each['data']} | {counts} | {finals} | {each['mean']:.4f} | {each['deviation']:.4f} "
            f"| {each['frozen_features']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run it; the exit status is 1 where a mean is below the target."""
    parser = argparse.ArgumentParser(description="Accuracy of the birds recipe on real photographs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", default=["hymenoptera", "birds"], help="folders of TRAINKIT_TEST_DATA")
    args = parser.parse_args()
    root = os.environ.get("TRAINKIT_TEST_DATA", "")
    if not root:
        parser.error("TRAINKIT_TEST_DATA does not name a folder of photographs")
    rows = [row(name, Path(root) / name, args.seeds) for name in args.data]
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "processor": platform.machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "accuracy.json").write_text(json.dumps({"machine": machine, "epochs": EPOCHS, "rows": rows}, indent=1))
    (RESULTS / "accuracy.md").write_text(table(rows))
    print(table(rows), end="")
    return int(any(each["mean"] < TARGET for each in rows))


if __name__ == "__main__":
    raise SystemExit(main())
