"""The pets recipe on real photographs: its error, and its speed beside fastai's own Learner.

    TRAINKIT_TEST_DATA=FOLDER make bench NAME=pets [ARGS="--seeds 0 1 2 --repeats 3 --pictures 320"]

FOLDER/pets holds the pictures. One fixed fifth validates and chooses nothing; the weights after the last epoch count.
Both sides train one epoch with all but the head frozen and one of everything, from the same weights, on the same
pictures with the same batch, and measure the same pictures. fastai's side is vision_learner with fastai's defaults
(its head, its rates, its data pipeline with a worker for each core). The recipe's is train.py with its defaults: of a
pretrained network it leaves the first layers and the statistics of batch normalisation as they are, and in the first
epoch it computes gradients for the head alone, where fastai trains all batch normalisation.
Time is that of the whole fit, validation and checkpoints included, each in a process of its own, one after the other.
Prints two tables, writes benchmarks/results/pets.json and pets.md. About 20 minutes on two idle cores.
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


def main() -> int:
    """Run it; the exit status is 1 where a bar is missed or an error is worse than fastai's."""
    parser = argparse.ArgumentParser(description="Error and speed of the pets recipe on real photographs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="of resnet34, which has no weights to start from")
    parser.add_argument("--pictures", type=int, default=320, help="for resnet34's speed")
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
    lite: dict[str, list[dict[str, Any]]] = {"ours": [], "fastai": []}
    for seed in args.seeds:
        for side in SIDES:
            lite[side].append(measured(side, "breeds", pets, "efficientnet_lite0", seed))
    cats = [measured("ours", "cats", pets, "efficientnet_lite0", seed) for seed in args.seeds]
    resnet: dict[str, list[dict[str, Any]]] = {"ours": [], "fastai": []}
    with tempfile.TemporaryDirectory() as folder:
        few = some_of(pets, args.pictures, Path(folder))
        for repeat in range(args.repeats):
            for side in SIDES:
                resnet[side].append(measured(side, "cats", few, "resnet34", repeat))
        counted = len(list(few.iterdir()))
    errors = [error_row("cats", cats, []), error_row("breeds", lite["ours"], lite["fastai"])]
    speeds = [
        speed_row("resnet34", resnet["ours"], resnet["fastai"], counted),
        speed_row("efficientnet_lite0", lite["ours"], lite["fastai"], len(list(pets.glob("*.jpg")))),
    ]
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "processor": platform.machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pets.json").write_text(json.dumps({"machine": machine, "errors": errors, "speeds": speeds}, indent=1))
    (RESULTS / "pets.md").write_text(tables(errors, speeds))
    print(tables(errors, speeds), end="")
    missed = any(row["mean"] > row["bar"] for row in errors) or any(row["times"] < row["bar"] for row in speeds)
    return int(missed or statistics.mean(errors[1]["errors"]) > statistics.mean(errors[1]["fastai"]))


if __name__ == "__main__":
    raise SystemExit(main())
