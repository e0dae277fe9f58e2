"""Fine-tune a network to tell cats from dogs, with what an image with fastai has and nothing of trainkit but `Run`.

For jobs in a container, where trainkit.loops is not: one process, with fastai's own loop, for any fastai 2. The recipe
beside it (train.py) does more. Copy it where you like; the pictures are in `--data`, else fastai fetches them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastai.vision import all as vision

from trainkit import Run


def is_cat(name: str) -> bool:
    """Whether a picture with this file name shows a cat: the names of cats' breeds begin with a capital letter."""
    return name[0].isupper()


def learner(folder: Path, size: int, batch_size: int, pretrained: bool) -> Any:
    """fastai's Learner for the pictures of a folder, a random fifth of them to validate with; `size` is in pixels."""
    files = vision.get_image_files(folder)
    loaders = vision.ImageDataLoaders.from_name_func(
        folder, files, is_cat, valid_pct=0.2, item_tfms=vision.Resize(size), bs=batch_size
    )
    make = getattr(vision, "vision_learner", None) or vision.cnn_learner  # its name until fastai 2.5
    return make(loaders, vision.resnet34, metrics=vision.error_rate, pretrained=pretrained)


def main() -> None:
    """Train as the command line says; the run gets the error rate, and outputs/ the weights."""
    parser = argparse.ArgumentParser(description="Tell cats from dogs.")
    parser.add_argument("--data", default="", help="a folder of pictures; without it the published ones are fetched")
    parser.add_argument("--weights", choices=("imagenet", "none"), default="imagenet", help="what training starts from")
    parser.add_argument("--epochs", type=int, default=1, help="of all layers, after one of the last layer")
    parser.add_argument("--size", type=int, default=224, help="of the pictures, in pixels")
    parser.add_argument("--batch_size", type=int, default=64)
    asked = parser.parse_args()
    folder = Path(asked.data) if asked.data else vision.untar_data(vision.URLs.PETS) / "images"
    learn = learner(folder, asked.size, asked.batch_size, asked.weights == "imagenet")
    learn.fine_tune(asked.epochs)
    run = Run.get_context()
    for _, _, error in learn.recorder.values:
        run.log("error_rate", float(error))
    learn.path = Path("outputs").absolute()
    learn.save("weights")
    print(f"error rate {error:.4f} of {len(learn.dls.valid_ds)} pictures", flush=True)


if __name__ == "__main__":
    main()
