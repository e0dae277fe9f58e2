"""Networks by name, rebuilt without weights and without the network: what a checkpoint's weights are put into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainkit.errors import ExportError, MissingPackage

if TYPE_CHECKING:
    from torch import nn


def _resnet18(num_classes: int) -> nn.Module:
    from torchvision.models import resnet18

    model: nn.Module = resnet18(weights=None, num_classes=num_classes)
    return model


def _resnet34(num_classes: int) -> nn.Module:
    from torchvision.models import resnet34

    model: nn.Module = resnet34(weights=None, num_classes=num_classes)
    return model


def _efficientnet_lite0(num_classes: int) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as e:
        raise MissingPackage("efficientnet_lite0 is a network of timm: pip install 'trainkit[recipes]'.") from e
    model: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=num_classes)
    return model


_BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": _resnet18,
    "resnet34": _resnet34,
    "efficientnet_lite0": _efficientnet_lite0,
}


def names() -> list[str]:
    """The networks that `build` knows."""
    return sorted(_BUILDERS)


def build(name: str, num_classes: int) -> nn.Module:
    """The network of this name with random weights. Raises ExportError for an unknown one, MissingPackage."""
    if name not in _BUILDERS:
        raise ExportError(f"There is no network {name!r} here, only {', '.join(names())}; export others with to_onnx.")
    return _BUILDERS[name](num_classes)
