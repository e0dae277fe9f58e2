"""Fine-tunes a network on pictures of birds (or of anything else): python train.py --num_epochs 8 --data sample

The same file runs alone, under `mpirun -np 4 python train.py`, `torchrun train.py` and `srun python train.py`, and as
a job of trainkit; it may be copied anywhere. A batch is shared by all ranks, so their number changes the speed only.
The weights after the last epoch are what is saved: the validation pictures choose nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
from torch import nn

from trainkit import Run
from trainkit_recipes.birds.data import Loader, cache_folder, find_data, read_tree
from trainkit_recipes.birds.models import WEIGHTS, build, groups, preprocessing
from trainkit_recipes.birds.progress import Progress
from trainkit_recipes.birds.world import Here, join, leave

# Multiples of --learning_rate where weights were loaded: the last layer is new, the others know something already.
BODY_RATE = 2.0
HEAD_RATE = 6.0
WEIGHT_DECAY = 1e-4
LABEL_SMOOTHING = 0.1
MAX_NORM = 2.0  # of a step's gradient
WARMUP = 0.1  # of all steps


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


def schedule(step: int, steps: int) -> float:
    """The learning rate's factor: a short rise, then half a cosine down to zero."""
    rise = max(1, round(WARMUP * steps))
    return min((step + 1) / rise, 0.5 * (1 + math.cos(math.pi * max(0, step - rise) / max(1, steps - rise))))


class Trainer:
    """A network, its optimizer and its data, one epoch at a time."""

    def __init__(self, args: argparse.Namespace, here: Here, run: Run) -> None:
        self.args, self.here, self.run = args, here, run
        cache = cache_folder(os.environ)
        tree = read_tree(find_data(args.data, cache))
        self.classes, self.shape = tree.classes, preprocessing(args.model, tree.pixels())
        self.loaders = {
            "train": Loader(tree.train, self.shape, args.batch_size, here, args.seed),
            "val": Loader(tree.val, self.shape, 32, here, None),
        }
        self.plain = build(args.model, len(tree.classes), args.weights, cache)
        self.pretrained = args.weights != "none"
        learning = [{"params": list(self.plain.parameters())}]
        if self.pretrained:
            learning = groups(args.model, self.plain, args.learning_rate, BODY_RATE, HEAD_RATE)
        self.model = here.model(self.plain)
        self.optimizer = torch.optim.SGD(
            learning, args.learning_rate, args.momentum, 0, WEIGHT_DECAY, nesterov=args.momentum > 0, fused=True
        )
        steps = args.num_epochs * len(self.loaders["train"])
        self.rates = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: schedule(step, steps))

    def epoch(self, number: int, phase: str) -> tuple[float, float]:
        """One pass over the phase's pictures: mean loss and accuracy over all ranks, each picture counted once."""
        training = phase == "train"
        model = self.model if training else self.plain
        model.train(training)
        self.here.agree(self.plain)
        for module in model.modules():  # known statistics are better than those of a few pictures
            if self.pretrained and isinstance(module, nn.BatchNorm2d):
                module.eval()
        loader, smoothing = self.loaders[phase], LABEL_SMOOTHING if training else 0.0
        sums = Progress(self.run, phase, number, self.args.num_epochs, len(loader), self.here.size)
        for pictures, labels in loader.epoch(number):
            labels = labels.to(self.here.device)
            with torch.set_grad_enabled(training):
                scores = model(self.here.put(pictures))
                loss = nn.functional.cross_entropy(scores, labels, reduction="sum", label_smoothing=smoothing)
            if training:
                # ranks average their gradients, so that this makes them those of the whole batch's mean loss
                torch.autograd.backward(loss * self.here.size / loader.batch)
                nn.utils.clip_grad_norm_(self.plain.parameters(), MAX_NORM)
                self.optimizer.step()
                self.rates.step()
                self.optimizer.zero_grad()
            sums.add(loss.item(), int((scores.argmax(1) == labels).sum()), len(labels))
        loss_sum, right, seen = self.here.total(sums.loss, sums.right, sums.seen)
        return loss_sum / seen, right / seen

    def save(self, folder: Path) -> None:
        """Write model.pt: what rebuilds the network, and how its input is made; loadable with weights_only."""
        state = {name: value.cpu().contiguous() for name, value in self.plain.state_dict().items()}
        facts = {"model": self.args.model, "classes": list(self.classes), "preprocessing": self.shape.to_json()}
        torch.save({**facts, "state_dict": state}, folder / ".model.pt")
        os.replace(folder / ".model.pt", folder / "model.pt")  # whole, or not there


def main() -> None:
    """Train, report, save."""
    args = arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)  # now: not after an hour of training
    here = join(os.environ)
    torch.manual_seed(args.seed)
    run = Run.get_context()
    trainer = Trainer(args, here, run)
    run.log("lr", args.learning_rate)
    run.log("momentum", args.momentum)
    say = print if here.rank == 0 else lambda *_: None
    best, started = 0.0, time.monotonic()
    for number in range(args.num_epochs):
        say(f"Epoch {number}/{args.num_epochs - 1}\n{'-' * 10}")
        for phase in ("train", "val"):
            loss, accuracy = trainer.epoch(number, phase)
            say(f"{phase} Loss: {loss:.4f} Acc: {accuracy:.4f}")
            best = max(best, accuracy) if phase == "val" else best
            run.log("best_val_acc", best)  # once a phase: two values an epoch
            run.log(f"{phase}_loss", loss)
            run.log(f"{phase}_acc", accuracy)
    seconds = time.monotonic() - started
    say(f"Training complete in {seconds // 60:.0f}m {seconds % 60:.0f}s\nBest val Acc: {best:4f}")
    if here.rank == 0:
        trainer.save(args.output_dir)
    leave(here)


if __name__ == "__main__":
    main()
