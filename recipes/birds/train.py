"""Fine-tunes a network on pictures of birds (or of anything else): python train.py --num_epochs 8 --data sample

The same file runs alone, under `mpirun -np 4 python train.py`, `torchrun train.py` and `srun python train.py`, and as
a job of trainkit; it may be copied anywhere. A batch is shared by all ranks, so their number changes the speed only.
The weights after the last epoch are what is saved: the validation pictures choose nothing.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainkit import Run
from trainkit.loops import Accuracy, Callback, TorchLoop, WarmupCosine, freeze_statistics
from trainkit.loops.images import read_tree
from trainkit_recipes.birds.data import cache_folder, find_data, pictures
from trainkit_recipes.birds.models import WEIGHTS, build_model, groups, precision, preprocessing, save_model

# Multiples of --learning_rate where weights were loaded: the last layer is new, the others know something already.
BODY_RATE = 2.0
HEAD_RATE = 6.0
WEIGHT_DECAY = 1e-4
LABEL_SMOOTHING = 0.1
MAX_NORM = 2.0  # of a step's gradient


class Report(Callback):
    """Prints what is known of each epoch, logs the best accuracy so far, and saves the model at the end."""

    def __init__(self, save: Any) -> None:
        self.best, self.save, self.started = 0.0, save, time.monotonic()

    def on_epoch_start(self, training: Any) -> None:
        self.say(training, f"Epoch {training.epoch}/{training.epochs - 1}\n{'-' * 10}")

    def on_train_end(self, training: Any, metrics: Mapping[str, Any]) -> None:
        self.phase(training, "train", metrics)

    def on_epoch_end(self, training: Any, metrics: Mapping[str, Any]) -> None:
        self.best = max(self.best, metrics["val_acc"])
        self.phase(training, "val", metrics)

    def on_end(self, training: Any) -> None:
        seconds = time.monotonic() - self.started
        self.say(
            training, f"Training complete in {seconds // 60:.0f}m {seconds % 60:.0f}s\nBest val Acc: {self.best:4f}"
        )
        if training.world.rank == 0:
            self.save()

    def phase(self, training: Any, name: str, metrics: Mapping[str, Any]) -> None:
        """One line, and the best accuracy: once a phase, so two values an epoch."""
        self.say(training, f"{name} Loss: {metrics[f'{name}_loss']:.4f} Acc: {metrics[f'{name}_acc']:.4f}")
        Run.get_context().log("best_val_acc", self.best)

    def say(self, training: Any, text: str) -> None:
        """From one rank."""
        if training.world.rank == 0:
            print(text, flush=True)

    def state(self) -> dict[str, Any]:
        return {"best": self.best}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        self.best = state["best"]


def build(
    num_epochs: int = 25,
    output_dir: Path = Path("./outputs"),
    learning_rate: float = 0.001,
    momentum: float = 0.9,
    data: str = "sample",
    model: str = "efficientnet_lite0",
    weights: str = "",
    batch_size: int = 8,
    seed: int = 0,
) -> TorchLoop:
    """The loop; `data` is sample, fowl, hymenoptera, or a folder of train/ and val/."""
    output_dir.mkdir(parents=True, exist_ok=True)  # now: not after an hour of training
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)  # numbers near zero cost ten times the time on some processors
    cache = cache_folder(os.environ)
    tree = read_tree(find_data(data, cache))
    shape = preprocessing(model, tree.pixels())
    network = build_model(model, len(tree.classes), weights, cache)
    learning: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if weights != "none":
        freeze_statistics(network)  # known ones are better than those of a few pictures
        learning = groups(model, network, learning_rate, BODY_RATE, HEAD_RATE)
    run = Run.get_context()
    run.log("lr", learning_rate)
    run.log("momentum", momentum)
    return TorchLoop(
        model=network,
        loss=nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING),
        optimizer=torch.optim.SGD(
            learning, learning_rate, momentum, 0, WEIGHT_DECAY, nesterov=momentum > 0, fused=True
        ),
        schedule=WarmupCosine(),
        train=pictures(tree.train, shape, changed=True),
        val=pictures(tree.val, shape, changed=False),
        metrics=[Accuracy("acc")],
        training_metrics=True,
        batch=batch_size,
        val_batch=32,
        epochs=num_epochs,
        precision=precision(model),
        channels_last=True,
        clip=MAX_NORM,
        seed=seed,
        callbacks=[Report(lambda: save_model(output_dir / "model.pt", model, network, tree.classes, shape))],
        quiet=True,
    )


def arguments() -> argparse.Namespace:
    """The command line; --learning_rate and --momentum are what a sweep varies."""
    parser = argparse.ArgumentParser(description="Fine-tune an image classifier.")
    parser.add_argument("--num_epochs", type=int, default=25, help="passes over the training pictures")
    parser.add_argument("--output_dir", type=Path, default=Path("./outputs"), help="where model.pt is written")
    parser.add_argument("--learning_rate", type=float, default=0.001)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--data", default="sample", help="sample, fowl, hymenoptera, or a folder of train/ and val/")
    parser.add_argument("--model", choices=sorted(WEIGHTS), default="efficientnet_lite0")
    parser.add_argument("--weights", default="", help="packaged (efficientnet_lite0), imagenet (resnets), or none")
    parser.add_argument("--batch_size", type=int, default=8, help="pictures a step, over all ranks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.num_epochs < 1 or args.batch_size < 1:
        parser.error("--num_epochs and --batch_size must be at least 1")
    return args


if __name__ == "__main__":
    build(**vars(arguments())).fit()
