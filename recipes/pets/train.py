"""Fine-tunes a network on the Oxford-IIIT Pets with fastai: python train.py --task cats --data FOLDER

The Learner, its metrics and its schedule are fastai's; FastaiLoop trains it. The same file runs alone, under
`mpirun -np 4 python train.py`, `torchrun train.py` and `srun python train.py`, and as a job of trainkit; it may be
copied anywhere. The weights after the last epoch are what is saved: the validation pictures choose nothing.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from trainkit import Run
from trainkit.export import to_onnx_file
from trainkit.export.preprocessing import Preprocessing
from trainkit.loops import FastaiLoop, FineTune, freeze_statistics
from trainkit.loops.images import Tree
from trainkit_recipes.birds.data import cache_folder
from trainkit_recipes.birds.models import WEIGHTS, build_model, groups, precision, preprocessing, save_model
from trainkit_recipes.pets.data import TASKS, dataloaders, find_pets, pictures, read_pets
from trainkit_recipes.pets.report import report

SIZE = 224  # pixels


def learner(name: str, tree: Tree, task: str, weights: str, shape: Preprocessing, batch: int) -> Any:
    """fastai's Learner for the network `name`: its last layer is one parameter group, what is before it another.

    Where weights were loaded, the earliest layers and the statistics of batch normalisation stay as they are.
    """
    from fastai.vision.all import CrossEntropyLossFlat, Learner, error_rate

    network = build_model(name, len(tree.classes), weights, cache_folder(os.environ))
    parts = [group["params"] for group in groups(name, network, 1.0, 1.0, 1.0)]
    if weights == "none":
        network.requires_grad_(True)
        parts[0] = [p for p in network.parameters() if all(p is not other for other in parts[1])]
    else:
        freeze_statistics(network)
    return Learner(
        dataloaders(tree, task, shape, batch), network, loss_func=CrossEntropyLossFlat(), metrics=error_rate,
        splitter=lambda _: parts, train_bn=False,
    )  # fmt: skip


def finish(loop: FastaiLoop, tree: Tree, name: str, shape: Preprocessing, folder: Path) -> None:
    """Log what the network gets wrong; write the learner, the weights, and an ONNX file that was compared with them."""
    run, files = Run.get_context(), [file for file, _ in tree.val]
    error = report(run, loop.predictions(), files, tree.classes)
    if loop.world.rank > 0:
        return
    print(f"error rate {error:.4f} of {len(files)} pictures", flush=True)
    save_model(folder / "model.pt", name, loop.learner.model, tree.classes, shape)
    loop.learner.export((folder / "export.pkl").absolute())  # a pickle: load it only where you trust who wrote it
    print(to_onnx_file(folder / "model.pt", folder / "model.onnx", files[:7]), flush=True)


def build(
    task: str = "cats",
    data: str = "",
    model: str = "resnet34",
    weights: str = "",
    epochs: int = 1,
    freeze_epochs: int = 1,
    base_lr: float = 1e-2,
    batch_size: int = 16,
    output_dir: Path = Path("./outputs"),
    seed: int = 0,
) -> FastaiLoop:
    """The loop; `data` is a folder of pictures, or "" for the published ones, which are then fetched."""
    output_dir.mkdir(parents=True, exist_ok=True)  # now: not after an hour of training
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)  # numbers near zero cost ten times the time on some processors
    tree = read_pets(find_pets(data, cache_folder(os.environ)), task)
    shape = preprocessing(model, SIZE)
    return FastaiLoop(
        learner(model, tree, task, weights, shape, batch_size),
        plan=FineTune(epochs, base_lr, freeze_epochs),
        train=pictures(tree.train, shape, changed=True),
        val=pictures(tree.val, shape, changed=False),
        precision=precision(model),
        channels_last=True,
        seed=seed,
        then=lambda loop: finish(loop, tree, model, shape, output_dir),
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fine-tune a classifier of pets.")
    parser.add_argument("--task", choices=sorted(TASKS), default="cats", help="cat or dog, or which of 37 breeds")
    parser.add_argument("--data", default="", help="a folder of pictures; without it the published ones are fetched")
    parser.add_argument("--model", choices=sorted(WEIGHTS), default="resnet34")
    parser.add_argument("--weights", default="", help="packaged (efficientnet_lite0), imagenet (resnets), or none")
    parser.add_argument("--epochs", type=int, default=1, help="of all layers, after those of the last one")
    parser.add_argument("--freeze_epochs", type=int, default=1, help="of the last layer alone")
    parser.add_argument("--base_lr", type=float, default=1e-2)
    parser.add_argument("--batch_size", type=int, default=16, help="pictures a step, over all ranks")
    parser.add_argument("--output_dir", type=Path, default=Path("./outputs"), help="where the results are written")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    build(**vars(arguments())).fit()
