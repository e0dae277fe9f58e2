"""A trained classifier as recipes save it: model, classes, preprocessing and state_dict; loaded weights-only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import ExportError
from trainkit.export import architectures
from trainkit.export.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainkit.model import Model

_KEYS = ("model", "classes", "preprocessing", "state_dict")
_FORMAT = f"torch.save of a dictionary with {', '.join(_KEYS)}"


@dataclass(frozen=True)
class Checkpoint:
    """What a recipe's `outputs/model.pt` holds."""

    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    state_dict: dict[str, torch.Tensor]

    def module(self) -> nn.Module:
        """The network with its trained weights, in evaluation mode. Raises ExportError where they do not fit."""
        model = architectures.build(self.architecture, len(self.classes))
        try:
            model.load_state_dict(self.state_dict)
        except RuntimeError as e:
            lines = str(e).splitlines()
            raise ExportError(
                f"The weights are not those of {self.architecture} with {len(self.classes)} classes: "
                f"{' '.join(' '.join(lines[:2]).split())[:300]}"
            ) from e
        return model.eval()


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint without running any code in it. Raises ExportError, which names the file and what is wrong."""
    values = _weights_only(Path(path))
    missing = [key for key in _KEYS if key not in values] if isinstance(values, dict) else list(_KEYS)
    if missing:
        raise ExportError(f"{path} has no {', '.join(missing)}: a checkpoint is a {_FORMAT}.")
    classes, weights = values["classes"], values["state_dict"]
    if not isinstance(values["model"], str):
        raise ExportError(f"{path}: model is the name of a network, not {values['model']!r}.")
    if not isinstance(classes, (list, tuple)) or not classes or not all(isinstance(each, str) for each in classes):
        raise ExportError(f"{path}: classes is a list of names, not {classes!r}.")
    if not isinstance(weights, dict) or not all(hasattr(tensor, "dtype") for tensor in weights.values()):
        raise ExportError(f"{path}: state_dict is not a dictionary of tensors.")
    try:
        preprocessing = Preprocessing.from_json(values["preprocessing"])
    except ExportError as e:
        raise ExportError(f"{path}: {e.message}") from e
    return Checkpoint(values["model"], tuple(classes), preprocessing, dict(weights))


def checkpoint_of(model: Model) -> Path:
    """The path of a registered model's checkpoint, checked: its only .pt file, or the one that is called model.pt."""
    files = [name for name in model.files if name.endswith((".pt", ".pth"))]
    chosen = files if len(files) == 1 else [name for name in files if name.split("/")[-1] == "model.pt"]
    if len(chosen) != 1:
        raise ExportError(f"Which file of model {model.id} is its checkpoint? It has {', '.join(model.files)}.")
    return model.verified(chosen[0])


def _weights_only(path: Path) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused a moment later
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise ExportError(f"The checkpoint {path} cannot be read: {e.strerror or e}.") from e
    except pickle.UnpicklingError as e:
        raise ExportError(
            f"{path} is refused: it holds more than weights (code that would run, or a whole pickled module), or is "
            f"no PyTorch file. Save a {_FORMAT}."
        ) from e
    except Exception as e:  # torch raises RuntimeError, EOFError, KeyError and more for damaged files
        raise ExportError(f"{path} is not a PyTorch file that can be read: it is damaged or cut off.") from e
