"""The pets recipe on real photographs: its error, and its speed beside fastai's own Learner.

    TRAINKIT_TEST_DATA=FOLDER make bench NAME=pets [ARGS="--parts errors --seeds 0 1 2"]

FOLDER/pets holds the pictures. One fixed fifth validates and chooses nothing; the weights after the last epoch count.
Both sides train one epoch with all but the head frozen and one of everything, from the same weights, on the same
pictures with the same batch, and measure the same pictures. fastai's side is vision_learner with fastai's defaults
(its head, its rates, its data pipeline with a worker for each core). The recipe's is train.py with its defaults: of a
pretrained network it leaves the first layers and the statistics of batch normalisation as they are, and in the first
epoch it computes gradients for the head alone, where fastai trains all batch normalisation.
Time is that of the whole fit, validation and checkpoints included, each in a process of its own, one after the other.
Speed is measured on some of the pictures, the sides taking turns. Prints two tables, writes
benchmarks/results/pets.json and pets.md; a part that is not measured stays as it was. About 20 minutes on two cores.
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

RESULTS = Path(__file__).parent / "results"
BATCH = 16
BARS = {"cats": 0.02, "breeds": 0.15, "efficientnet_lite0": 1.2, "resnet34": 2.0}
BARS_OF_ERRORS = ("cats", "breeds")
WEIGHTS = {"efficientnet_lite0": "packaged", "resnet34": "none"}


def ours(task: str, data: str, model: str, seed: int) -> dict[str, Any]:
    """The recipe: seconds of its fit, and its error."""
    from trainkit_recipes.pets.train import build

    loop = build(task, data, model, WEIGHTS[model], batch_size=BATCH, seed=seed)
    loop.then, loop.quiet = None, True
    started = time.perf_counter()
    history = loop.fit()
    return {"seconds": time.perf_counter() - started, "error": history["error_rate"][-1]}


def fastais(task: str, data: str, model: str, seed: int) -> dict[str, Any]:
    """fastai's own Learner on the same pictures."""
    from fastai.vision.all import error_rate, set_seed, vision_learner
    from torchvision.models import resnet34

    from trainkit_recipes.birds.models import _packaged_lite0, in_order, preprocessing
    from trainkit_recipes.pets.data import dataloaders, read_pets

    set_seed(seed)
    tree = read_pets(Path(data), task)
    dls = dataloaders(tree, task, preprocessing(model, 224), BATCH)
    for loader in dls.loaders:
        loader.fake_l.num_workers = os.cpu_count() or 1  # fastai's default
    arch = resnet34 if model == "resnet34" else "tf_efficientnet_lite0"
    learner = vision_learner(dls, arch, pretrained=False, normalize=False, metrics=error_rate)
    if model == "efficientnet_lite0":
        from trainkit.export import architectures

        network = architectures.build(model, 1000)
        network.load_state_dict(in_order(_packaged_lite0(), network.state_dict()))
        missing, _ = learner.model[0].model.load_state_dict(network.state_dict(), strict=False)
        assert not missing, missing
    started = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(1)
    return {"seconds": time.perf_counter() - started, "error": float(learner.recorder.values[-1][-1])}


SIDES = {"ours": ours, "fastai": fastais}


def measured(side: str, *arguments: Any) -> dict[str, Any]:
    """What one side does in a process of its own, in an empty folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--side", side, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{side:7} {' '.join(map(str, arguments))}: error {found['error']:.4f} in {found['seconds']:.1f} s", flush=True
    )
    return found


def error_row(task: str, runs: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """One task's line: errors of each seed, and fastai's where it ran too."""
    errors = [run["error"] for run in runs]
    return {
        "task": task,
        "errors": errors,
        "mean": statistics.mean(errors),
        "bar": BARS[task],
        "fastai": [run["error"] for run in theirs],
    }


def speed_row(model: str, runs: list[dict[str, Any]], theirs: list[dict[str, Any]], pictures: int) -> dict[str, Any]:
    """One network's line: images a second (of training and validation, both epochs) by medians."""
    mine, other = (statistics.median(2 * pictures / run["seconds"] for run in side) for side in (runs, theirs))
    return {
        "model": model, "pictures": pictures, "ours": mine, "fastai": other, "times": mine / other,
        "bar": BARS[model], "seconds": [run["seconds"] for run in runs],
        "fastai_seconds": [run["seconds"] for run in theirs],
        "errors": [run["error"] for run in runs], "fastai_errors": [run["error"] for run in theirs],
    }  # fmt: skip


def tables(errors: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        f"Error on a fixed fifth after one epoch of the head and one of all layers: efficientnet_lite0, batch {BATCH}.",
        "", "| task | each seed | mean | bar | fastai's vision_learner, each seed |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in errors:
        mine, other = (", ".join(f"{error:.4f}" for error in row[side]) or "-" for side in ("errors", "fastai"))
        lines.append(f"| {row['task']} | {mine} | {row['mean']:.4f} | {row['bar']} | {other} |")
    lines += [
        "", "Images a second over the whole fit, two epochs with their validation; medians, interleaved.",
        "", "| network | pictures | trainkit | fastai | times | bar |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in speeds:
        lines.append(
            f"| {row['model']}, {WEIGHTS[row['model']]} weights | {row['pictures']} | {row['ours']:.1f} "
            f"| {row['fastai']:.1f} | {row['times']:.2f} | {row['bar']} |"
        )
    return "\n".join(lines) + "\n"


def some_of(folder: Path, count: int, target: Path) -> Path:
    """A folder with `count` of the pictures, of all breeds."""
    files = sorted(folder.glob("*.jpg"))
    for number in range(min(count, len(files))):
        file = files[number * len(files) // count]
        (target / file.name).symlink_to(file)
    return target


def all_errors(pets: Path, seeds: list[int], peer_seeds: list[int]) -> list[dict[str, Any]]:
    """The recipe's errors on both tasks, and fastai's on the harder one."""
    mine = {
        task: [measured("ours", task, pets, "efficientnet_lite0", seed) for seed in seeds] for task in BARS_OF_ERRORS
    }
    theirs = [measured("fastai", "breeds", pets, "efficientnet_lite0", seed) for seed in peer_seeds]
    return [error_row(task, runs, theirs if task == "breeds" else []) for task, runs in mine.items()]


def all_speeds(pets: Path, pictures: int, repeats: int) -> list[dict[str, Any]]:
    """Both networks, on some of the pictures, the sides taking turns."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        few = some_of(pets, pictures, Path(folder))
        counted = len(list(few.iterdir()))
        for model in WEIGHTS:
            found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
            for repeat in range(repeats):
                for side in SIDES:
                    found[side].append(measured(side, "cats", few, model, repeat))
            rows.append(speed_row(model, found["ours"], found["fastai"], counted))
    return rows


def main() -> int:
    """Run it; the exit status is 1 where a bar is missed or an error is worse than fastai's."""
    parser = argparse.ArgumentParser(description="Error and speed of the pets recipe on real photographs.")
    parser.add_argument("--parts", nargs="+", choices=("errors", "speeds"), default=["errors", "speeds"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer-seeds", type=int, nargs="+", default=[0], help="of fastai's Learner")
    parser.add_argument("--repeats", type=int, default=3, help="of each speed")
    parser.add_argument("--pictures", type=int, default=320, help="for speed")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side, task, data, model, seed = args.side
        print(json.dumps(SIDES[side](task, data, model, int(seed))))
        return 0
    if not os.environ.get("TRAINKIT_TEST_DATA"):
        parser.error("TRAINKIT_TEST_DATA does not name a folder of photographs")
    from trainkit_recipes.pets.data import find_pets

    pets = find_pets(str(Path(os.environ["TRAINKIT_TEST_DATA"]) / "pets"), Path())
    known = RESULTS / "pets.json"
    report: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {"errors": [], "speeds": []}
    if "errors" in args.parts:
        report["errors"] = all_errors(pets, args.seeds, args.peer_seeds)
    if "speeds" in args.parts:
        report["speeds"] = all_speeds(pets, args.pictures, args.repeats)
    report["machine"] = {"python": platform.python_version(), "cpus": os.cpu_count(), "processor": platform.machine()}
    errors, speeds = report["errors"], report["speeds"]
    RESULTS.mkdir(exist_ok=True)
    known.write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "pets.md").write_text(tables(errors, speeds))
    print(tables(errors, speeds), end="")
    missed = any(row["mean"] > row["bar"] for row in errors) or any(row["times"] < row["bar"] for row in speeds)
    worse = any(row["fastai"] and row["mean"] > statistics.mean(row["fastai"]) for row in errors)
    return int(missed or worse)


if __name__ == "__main__":
    raise SystemExit(main())
