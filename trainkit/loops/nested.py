"""Tensors in nested tuples, lists and dicts: what models take and give, and data comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest with `change` of each leaf; named tuples stay what they are, mappings become dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [mapped(part, change) for part in value]
    if isinstance(value, Mapping):
        return {name: mapped(part, change) for name, part in value.items()}
    return change(value)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a nest, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(part)
