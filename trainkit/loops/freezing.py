"""Parts of a model that stay as they were loaded: weights without gradients, batch statistics without updates."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainkit.errors import UserErrorException


def freeze(model: nn.Module, *names: str) -> None:
    """Take the gradients from the submodules of these names, as in `model.named_modules()`; of all without names.

    Raises UserErrorException for a name that the model does not have.
    """
    parts = dict(model.named_modules())
    for name in names or ("",):
        if name not in parts:
            tops = ", ".join(child for child, _ in model.named_children())
            raise UserErrorException(f"The model has no part {name!r} to freeze; it is made of: {tops}.")
        parts[name].requires_grad_(False)


def freeze_statistics(model: nn.Module) -> None:
    """Let batch normalisation use its loaded statistics in training too: better than those of a few pictures.

    Loops leave these modules in evaluation mode from now on; their weights still learn.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            object.__setattr__(module, "statistics_frozen", True)  # no parameter, buffer or module


def training_mode(model: nn.Module) -> None:
    """`model.train()`, but for the modules whose statistics are frozen."""
    model.train()
    rest_frozen(model)


def rest_frozen(model: nn.Module) -> None:
    """Put the modules whose statistics are frozen into evaluation mode, in a model that is about to train."""
    for module in model.modules():
        if getattr(module, "statistics_frozen", False):
            module.eval()
