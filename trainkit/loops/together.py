"""What can fail in one rank alone, such as rank 0's disk: where it does, all ranks raise, and say its cause.

A rank that raised by itself would leave the others waiting in their next sum, for as long as its script lives on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from trainkit.errors import CheckpointError, TrainkitError, UserErrorException
from trainkit.loops.collectives import Collective, gather, total

_T = TypeVar("_T")
_KINDS = {kind.__name__: kind for kind in (CheckpointError, UserErrorException)}


def each(collective: Collective, act: Callable[[], Any]) -> list[Any]:
    """The JSON values that `act` gives in every rank, in rank order. Raises in all ranks what it raises in one."""
    mine: Any = None
    error: Exception | None = None
    try:
        mine = json.dumps([act()])
    except Exception as caught:
        error = caught
        kind = type(caught).__name__
        text = caught.message if isinstance(caught, TrainkitError) else f"{kind}: {caught}"
        mine = json.dumps({"kind": kind, "text": text})
    found = [json.loads(data) for data in gather(collective, mine.encode())]
    if error is not None:
        raise error
    for rank, values in enumerate(found):
        if isinstance(values, dict):
            raise _KINDS.get(values["kind"], TrainkitError)(f"Rank {rank} has failed: {values['text']}")
    return [values[0] for values in found]


def together(collective: Collective, act: Callable[[], _T]) -> _T:
    """What `act` gives in this rank, once it has succeeded in all. Raises in all ranks what it raises in one."""
    found: list[_T] = []
    each(collective, lambda: found.append(act()))
    return found[0]


def any_of(collective: Collective, asked: bool) -> bool:
    """Whether any rank asks for something."""
    return asked if collective.size == 1 else bool(total(collective, torch.tensor([int(asked)])).item())


def refuse_differences(collective: Collective, settings: dict[str, Any]) -> None:
    """Raises UserErrorException, in all ranks, where a rank has built its loop with other settings than rank 0."""
    ours, *others = each(collective, lambda: settings)
    for rank, theirs in enumerate(others, start=1):
        odd = [f"{name} is {theirs.get(name)!r} and not {value!r}" for name, value in ours.items()
               if theirs.get(name) != value]  # fmt: skip
        if odd:
            raise UserErrorException(
                f"Rank {rank} has another fit than rank 0: {'; '.join(odd)}. Build the loop from the same arguments, "
                "and from the same data, in every rank."
            )
