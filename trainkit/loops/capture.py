"""What training consists of, apart from the order of its data: model, optimizer, scaler and streams of random numbers.

`capture` copies nothing: its tensors are those of the model and the optimizer. `restore` is exact to the last bit, down
to how optimizer state lies in memory, because that decides which of torch's kernels runs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainkit.errors import CheckpointError
from trainkit.loops.packing import pack, unpack

Tensors = dict[str, dict[str, Tensor]]
_LIKE_PARAMETERS = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg"}


def capture(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> tuple[Tensors, dict[str, Any]]:
    """All tensors by group ("model", "optimizer") and name, and the rest as JSON.

    Raises CheckpointError where the state holds something that is neither a plain value nor a tensor.
    """
    tensors: Tensors = {"model": {}, "optimizer": {}}
    others: dict[str, Any] = {}
    for name, value in _plain(model).state_dict().items():
        if isinstance(value, Tensor):
            tensors["model"][name] = value
        else:
            others[name] = value
    extra: dict[str, Tensor] = {}
    state = {
        "model": pack(others, extra, "model"),
        "optimizer": pack(optimizer.state_dict(), tensors["optimizer"]),
        "scaler": pack(scaler.state_dict() if scaler is not None else {}, extra, "scaler"),
    }
    if extra:
        tensors["extra"] = extra
    return tensors, state


def restore(
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Give model, optimizer and scaler what `capture` saw, in place.

    Raises CheckpointError, before anything has changed, where it does not fit them.
    """
    if not {"model", "optimizer"} <= set(tensors) or not {"model", "optimizer", "scaler"} <= set(state):
        raise CheckpointError("This checkpoint holds no model and optimizer: it was saved by something else.")
    extra = tensors.get("extra", {})
    model = _plain(model)
    wanted = {**tensors["model"], **unpack(state["model"], extra)}
    saved = unpack(state["optimizer"], tensors["optimizer"])
    scale = unpack(state["scaler"], extra)
    _check_model(model, wanted)
    _check_optimizer(optimizer, saved)
    scaled = scaler is not None and scaler.is_enabled()
    if scaled != bool(scale):
        was, now = ("with" if scale else "without"), ("with" if scaled else "without")
        raise CheckpointError(
            f"This checkpoint was saved {was} a gradient scaler, and training goes on {now} one: keep precision= as it "
            "was."
        )
    try:
        model.load_state_dict(wanted)
        optimizer.load_state_dict(saved)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"The checkpoint does not fit the model: {error}") from error
    _keep_types(optimizer, saved["state"])
    if scaler is not None and scaled:
        scaler.load_state_dict(scale)


def _plain(model: nn.Module) -> nn.Module:
    """The model itself, where this is its compiled form: the same names are saved with and without compiling."""
    original = getattr(model, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else model


def _check_model(model: nn.Module, wanted: Mapping[str, Any]) -> None:
    current = model.state_dict()
    missing, unknown = [n for n in current if n not in wanted], [n for n in wanted if n not in current]
    if missing or unknown:
        of = [*(f"{n} is not in the checkpoint" for n in missing), *(f"{n} is not in the model" for n in unknown)]
        more = f"; and {len(of) - 3} more" if len(of) > 3 else ""
        raise CheckpointError(f"The checkpoint is of another model: {'; '.join(of[:3])}{more}.")
    for name, value in current.items():
        found = wanted[name]
        if isinstance(value, Tensor) and isinstance(found, Tensor) and _kind(value) != _kind(found):
            raise CheckpointError(
                f"The checkpoint is of another model: {name} is {_kind(found)} in the checkpoint and {_kind(value)} in "
                "the model."
            )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype)[6:]}{list(tensor.shape)}"


def _check_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """The same groups of as many parameters, with the same options, and state of those parameters' shapes."""
    groups, found = optimizer.param_groups, saved["param_groups"]
    sizes, saved_sizes = [len(group["params"]) for group in groups], [len(group["params"]) for group in found]
    if sizes != saved_sizes:
        raise CheckpointError(
            f"The checkpoint's optimizer has groups of {saved_sizes} parameters, this one of {sizes}: make it from the "
            "same parameters, in the same groups."
        )
    for other in found:
        unknown = [str(name) for name in optimizer.defaults if name not in other]
        if unknown:
            raise CheckpointError(
                f"The checkpoint's optimizer is no {type(optimizer).__name__}, or one of an older version of torch: it "
                f"does not know {', '.join(unknown)}."
            )
    parameters = [parameter for group in groups for parameter in group["params"]]
    for index, values in saved["state"].items():
        shape = parameters[index].shape
        for name in _LIKE_PARAMETERS & set(values):
            if isinstance(values[name], Tensor) and values[name].shape != shape:
                raise CheckpointError(
                    f"The checkpoint's optimizer has {name} of {list(values[name].shape)} for parameter {index}, whose "
                    f"shape is {list(shape)}: its parameters are in another order."
                )


def _keep_types(optimizer: torch.optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Undo what torch does on loading: it gives state the type of its parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved.items():
        loaded = optimizer.state[parameters[index]]
        for name, value in values.items():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device)


def streams() -> dict[str, Any]:
    """The state of this rank's streams of random numbers, as JSON: torch's on CPU and GPU, numpy's, Python's."""
    values: dict[str, Any] = {
        "torch": _hex(torch.get_rng_state()),
        "numpy": pack(np.random.get_state(legacy=False), {}),
        "python": pack(random.getstate(), {}),
    }
    if torch.cuda.is_available():
        values["cuda"] = _hex(torch.cuda.get_rng_state())
    return values


def set_streams(values: Mapping[str, Any]) -> None:
    """Continue all streams from where `streams` saw them. Raises CheckpointError where they are not such values."""
    try:
        torch.set_rng_state(_tensor(values["torch"]))
        np.random.set_state(unpack(values["numpy"], {}))
        random.setstate(unpack(values["python"], {}))
        if "cuda" in values and torch.cuda.is_available():
            torch.cuda.set_rng_state(_tensor(values["cuda"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"The checkpoint's streams of random numbers cannot be read ({error}).") from error


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
