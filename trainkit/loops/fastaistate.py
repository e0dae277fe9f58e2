"""The state of a fastai Learner as JSON values and tensors: optimizer, callbacks, counters; and back, exactly.

fastai's own way to save an optimizer is a pickle, and callbacks have none. Here every value of known kind is kept as
what it is; a callback's attributes of other kinds (functions, models, open files) are its setup, which the script makes
again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_COUNTERS = ("epoch", "train_iter", "pct_train", "loss", "smooth_loss", "final_record")
_SETUP = ("learn", "start_epoch")  # of a callback: not state; the second is a wall clock


class Unkept(Exception):
    """A value of a kind that no checkpoint keeps."""


def encode(value: Any, tensors: dict[str, Tensor] | None = None, name: str = "") -> Any:
    """`value` as JSON; its tensors go into `tensors` under names that begin with `name`, or without it are written out.

    Raises Unkept for what is none of: numbers, texts, tensors, arrays, and lists, tuples, fastcore's L and dicts of
    them, and fastai's metrics.
    """
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if math.isfinite(value) else {"is": "float", "value": str(value)}
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if isinstance(value, Tensor):
        if tensors is not None:
            tensors[name] = value.detach()
            return {"is": "tensor", "name": name}
        return {"is": "scalars", "dtype": _dtype(value), "shape": list(value.shape), "values": _numbers([value])}
    if isinstance(value, (np.generic, np.ndarray)):
        if value.dtype.kind not in "biuf":
            raise Unkept(str(value.dtype))
        values = [encode(each) for each in value.reshape(-1).tolist()]
        return {"is": "numpy", "dtype": str(value.dtype), "shape": list(value.shape), "values": values,
                "scalar": isinstance(value, np.generic)}  # fmt: skip
    if isinstance(value, Mapping):
        pairs = [[encode(k), encode(v, tensors, f"{name}.{k}")] for k, v in value.items()]
        return {"is": "dict", "items": pairs}
    kind = type(value).__name__
    if isinstance(value, (list, tuple)) or kind in ("L", "CollBase"):
        kind = "L" if kind == "CollBase" else kind
        if kind not in ("list", "tuple", "L"):
            raise Unkept(kind)
        items = list(value)
        if tensors is None and _are_numbers(items):  # a history of losses
            return {"is": "losses", "of": kind, "dtype": _dtype(items[0]), "values": _numbers(items)}
        return {"is": kind, "items": [encode(each, tensors, f"{name}.{i}") for i, each in enumerate(items)]}
    if _is_metric(value):
        return {"is": "object", "attributes": attributes(value)}
    raise Unkept(kind)


def decode(coded: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """The inverse of `encode`."""
    if isinstance(coded, float) or not isinstance(coded, dict):
        return coded
    kind = coded["is"]
    if kind == "float":
        return float(coded["value"])
    if kind == "tensor":
        assert tensors is not None
        return tensors[coded["name"]].clone()
    if kind == "scalars":
        values = [decode(each) for each in coded["values"]]
        return torch.tensor(values, dtype=getattr(torch, coded["dtype"])).view(coded["shape"])
    if kind == "losses":
        numbers = torch.tensor([decode(each) for each in coded["values"]], dtype=getattr(torch, coded["dtype"]))
        return _collection(coded["of"], [each.clone() for each in numbers])
    if kind == "numpy":
        array = np.array([decode(each) for each in coded["values"]], dtype=coded["dtype"]).reshape(coded["shape"])
        return array[()] if coded["scalar"] else array
    if kind == "dict":
        return {decode(k): decode(v, tensors) for k, v in coded["items"]}
    return _collection(kind, [decode(each, tensors) for each in coded["items"]])


def _collection(kind: str, items: list[Any]) -> Any:
    if kind == "L":
        from fastcore.foundation import L

        return L(items)
    return tuple(items) if kind == "tuple" else items


def _are_numbers(items: list[Any]) -> bool:
    """Whether these are tensors of one number each, all of one type."""
    return all(isinstance(each, Tensor) and each.ndim == 0 for each in items) and len({i.dtype for i in items}) == 1


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _numbers(tensors: list[Tensor]) -> list[Any]:
    """Exactly: each float is the same number in double precision."""
    flat = torch.stack([each.detach().cpu() for each in tensors]).reshape(-1)
    return [encode(each) for each in flat.as_subclass(Tensor).tolist()]


def _is_metric(value: Any) -> bool:
    from fastai.learner import Metric

    return isinstance(value, Metric)


def attributes(thing: Any) -> dict[str, Any]:
    """What is kept of an object's attributes."""
    kept = {}
    for name, value in vars(thing).items():
        if name not in _SETUP:
            try:
                kept[name] = encode(value)
            except Unkept:
                continue
    return kept


def set_attributes(thing: Any, kept: Mapping[str, Any]) -> None:
    """The inverse of `attributes`, on an object that its maker has set up."""
    own = vars(thing)
    for name, coded in kept.items():
        if isinstance(coded, dict) and coded["is"] == "object":
            if name in own:
                set_attributes(own[name], coded["attributes"])
        else:
            own[name] = decode(coded)


def progress_of(learner: Any) -> dict[str, Any]:
    """A rank's own state of a fit: counters, and what callbacks and metrics know."""
    counters = {name: encode(vars(learner)[name]) for name in _COUNTERS if name in vars(learner)}
    callbacks = [[type(callback).__name__, attributes(callback)] for callback in learner.cbs]
    return {"counters": counters, "callbacks": callbacks}


def set_progress(learner: Any, kept: Mapping[str, Any]) -> None:
    """The inverse of `progress_of`. A callback takes what one of its kind left, in the order in which they stand."""
    for name, coded in kept["counters"].items():
        vars(learner)[name] = decode(coded)
    left: dict[str, list[Mapping[str, Any]]] = {}
    for kind, found in kept["callbacks"]:
        left.setdefault(kind, []).append(found)
    for callback in learner.cbs:
        if left.get(type(callback).__name__):
            set_attributes(callback, left[type(callback).__name__].pop(0))


def join_losses(learner: Any, kept: Sequence[Mapping[str, Any]]) -> None:
    """Give the smoothed training loss the mean of what ranks knew of it: each has smoothed its own part."""
    recorder = learner.recorder
    values = []
    for each in kept:
        mine = dict(each["callbacks"])[type(recorder).__name__]["smooth_loss"]["attributes"]
        values.append(decode(mine["val"]).double())
    mean = torch.stack(values).mean()
    recorder.smooth_loss.val = mean.to(recorder.smooth_loss.val.dtype)


def optimizer_state(optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A fastai optimizer (its own kind, or PyTorch's in an OptimWrapper) as tensors and JSON values."""
    tensors: dict[str, Tensor] = {}
    coded = encode(optimizer.state_dict(), tensors, "state")
    wanted = [p.requires_grad for group in optimizer.param_lists for p in group]
    return tensors, {"state": coded, "frozen_idx": optimizer.frozen_idx, "requires_grad": wanted}


def set_optimizer(optimizer: Any, tensors: Mapping[str, Tensor], kept: Mapping[str, Any]) -> None:
    """The inverse of `optimizer_state`; also which parameters are frozen."""
    optimizer.load_state_dict(decode(kept["state"], tensors))
    optimizer.frozen_idx = kept["frozen_idx"]
    parameters = [p for group in optimizer.param_lists for p in group]
    for parameter, wanted in zip(parameters, kept["requires_grad"], strict=True):
        parameter.requires_grad_(wanted)
    if isinstance(getattr(optimizer, "opt", None), torch.optim.Optimizer):
        return  # PyTorch's optimizers place their state themselves
    for parameter in parameters:
        state = optimizer.state[parameter]
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:  # on its device, in its memory format
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
            elif isinstance(value, Tensor):
                state[name] = value.to(parameter.device)
