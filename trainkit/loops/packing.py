"""Python values as JSON and tensors, and back without any loss: what an optimizer's state is made of.

Numbers, texts, truth values, None, lists and dicts with texts as keys are themselves. All else is an object whose key
"$" says what it is: a tensor (kept apart, by name), a tuple, a dict with other keys, a number that JSON lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trainkit.errors import CheckpointError
from trainkit.loops.tensorfile import in_order, order_of

_KIND = "$"


def pack(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """`value` as JSON; its tensors are added to `tensors` under names that begin with `name`.

    Raises CheckpointError for what is neither a plain value nor a tensor.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is float:
        return {_KIND: "float", "value": repr(value)}
    if isinstance(value, Tensor):
        tensors[name] = value
        order = order_of(value)
        return {_KIND: "tensor", "name": name, **({"order": list(order)} if order else {})}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        shape = list(value.shape)
        return {_KIND: "array", "dtype": value.dtype.str, "shape": shape, "value": value.tobytes().hex()}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {_KIND: "scalar", "dtype": value.dtype.str, "value": value.tobytes().hex()}
    if isinstance(value, (list, tuple)):
        entries = [pack(entry, tensors, f"{name}.{n}") for n, entry in enumerate(value)]
        return entries if isinstance(value, list) else {_KIND: "tuple", "value": entries}
    if isinstance(value, Mapping):
        packed = [(key, pack(entry, tensors, f"{name}.{key}" if name else str(key))) for key, entry in value.items()]
        if all(type(key) is str for key in value) and _KIND not in value:
            return dict(packed)
        return {_KIND: "dict", "value": [[pack(key, {}), entry] for key, entry in packed]}
    if isinstance(value, (bool, int, float, str)):  # subclasses: the plain value is what counts
        return pack(next(base for base in (bool, int, float, str) if isinstance(value, base))(value), tensors, name)
    raise CheckpointError(
        f"{name or 'The state'} holds a {kind.__name__}, which no checkpoint can hold: tensors, numbers, texts, None, "
        "lists, tuples and dicts can be saved."
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that was packed. Its tensors are copies, which lie in memory as those that were saved did."""
    if isinstance(value, list):
        return [unpack(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: unpack(entry, tensors) for key, entry in value.items()}
    try:
        return _special(kind, value, tensors)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"The checkpoint's state has a {kind!r} that cannot be read ({error}).") from error


def _special(kind: str, value: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    if kind == "tensor":
        return in_order(tensors[value["name"]], value.get("order", ()))
    content = value["value"]
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(unpack(entry, tensors) for entry in content)
    if kind == "dict":
        return {unpack(key, tensors): unpack(entry, tensors) for key, entry in content}
    if kind == "array":
        return np.frombuffer(bytes.fromhex(content), np.dtype(value["dtype"])).reshape(value["shape"]).copy()
    if kind == "scalar":
        return np.frombuffer(bytes.fromhex(content), np.dtype(value["dtype"]))[0]
    raise ValueError("no such kind")
