"""A small fastai Learner that tests start, interrupt and compare; all of fastai's kinds of randomness on request."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import torch
from torch import Tensor, nn

COUNT = 45  # 37 to train with: with batches of 8 the last has 5


def learner(plain: bool = False, count: int = COUNT, batch: int = 8, **values: Any) -> Any:
    """Pictures of noise that are to be told apart; `plain`: no dropout, no normalisation, nothing drawn for a batch."""
    from fastai.vision.all import (
        Brightness,
        Categorize,
        CrossEntropyLossFlat,
        Datasets,
        F1Score,
        Flip,
        L,
        Learner,
        TensorImage,
        error_rate,
        params,
        set_seed,
    )  # fmt: skip

    numbers = torch.Generator().manual_seed(5)
    pictures = torch.rand(count, 3, 12, 12, generator=numbers)
    labels = (pictures[:, 0].mean((1, 2)) > pictures[:, 1].mean((1, 2))).long().tolist()
    set_seed(1)

    def noisy(number: int) -> Tensor:
        return TensorImage(pictures[number] + 0.05 * torch.randn(3, 12, 12) * random.random())

    def label(number: int) -> int:
        return int(labels[number])

    train = count * 5 // 6
    splits = list(range(train)), list(range(train, count))
    datasets = Datasets(list(range(count)), [[noisy], [label, Categorize(vocab=[0, 1])]], splits=splits)
    changes = [] if plain else [Flip(p=0.5), Brightness(p=0.5)]
    dls = datasets.dataloaders(bs=batch, after_batch=changes, num_workers=0)
    between = [] if plain else [nn.BatchNorm2d(6)]
    body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), *between, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    head = nn.Sequential(*([] if plain else [nn.Dropout(0.2)]), nn.Linear(24, 2))
    return Learner(
        dls, nn.Sequential(body, head), loss_func=CrossEntropyLossFlat(),
        **{"metrics": [error_rate, F1Score()], "splitter": lambda model: L(model[0], model[1]).map(params), **values},
    )  # fmt: skip


def bits(learner: Any) -> str:
    """A hash of all weights, statistics and optimizer state, and of where the streams of random numbers stand."""
    found = hashlib.sha256()
    for name, value in learner.model.state_dict().items():
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    for parameter in learner.model.parameters():
        for name, value in sorted(learner.opt.state[parameter].items()):
            found.update(f"{name} {value.tolist() if isinstance(value, Tensor) else value}".encode())
    found.update(repr([sorted((k, float(v)) for k, v in group.items()) for group in learner.opt.hypers]).encode())
    found.update(repr((torch.rand(1).item(), random.random())).encode())
    return found.hexdigest()
