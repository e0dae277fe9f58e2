"""What each of a fit's first steps computed, written down by every rank: `trainkit check` compares such traces.

One file a rank, `rank-N.jsonl`: its first line says of which world it is, each further line is one optimizer step. What
all ranks have in common after the gradients were summed (their norms, the learning rates) is rank 0's to write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from trainkit.boot.rundir import Lines
from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.loops.feed import Batch


class Trace:
    """Writes one rank's trace, and ends the process, successfully, after `steps` steps."""

    def __init__(self, folder: str | Path, rank: int, size: int, steps: int) -> None:
        if steps < 1:
            raise UserErrorException(f"A trace is of at least 1 step, not {steps}.")
        path = Path(folder) / f"rank-{rank}.jsonl"
        if path.exists():
            raise UserErrorException(f"{path} exists already: one fit can be traced into one folder.")
        self.rank, self.left = rank, steps
        self._lines = Lines(path)
        self._lines.append({"rank": rank, "size": size, "steps": steps})

    def step(
        self,
        number: int,
        batches: list[Batch],
        loss_sum: Tensor,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        rates: list[float],
    ) -> None:
        """Write down one optimizer step, before its update; raises SystemExit(0) after the last one.

        `loss_sum` is this rank's part of the step's mean loss, `named_parameters` have gradients summed over the ranks.
        """
        row: dict[str, Any] = {"step": number, "loss": float(loss_sum), "samples": _samples(batches)}
        row["total"] = batches[0].total if batches else 0
        if self.rank == 0:
            row["rates"] = rates
            parameters = [(name, p) for name, p in named_parameters if p.requires_grad]
            row["gradients"] = {name: _norm(p.grad) for name, p in parameters}
            row["double"] = all(p.dtype == torch.float64 for _, p in parameters)
        self._lines.append(row)
        self.left -= 1
        if not self.left:
            self._lines.close()
            raise SystemExit(0)


def _norm(gradient: Tensor | None) -> float | None:
    return None if gradient is None else float(torch.linalg.vector_norm(gradient.detach().double()))


def _samples(batches: list[Batch]) -> list[list[Any]]:
    """(id, hash of its input) of this rank's samples; the hash is empty where samples cannot be told apart."""
    found: list[list[Any]] = []
    for batch in batches:
        if batch.inputs is None:
            continue
        ids = [int(number) for number in np.asarray(batch.ids).tolist()]
        found += [[number, hash_] for number, hash_ in zip(ids, _hashes(batch.inputs, len(ids)), strict=True)]
    return found


def _hashes(inputs: Any, count: int) -> list[str]:
    """A hash of each sample's values; of a nest of tensors, all of them."""
    tensors = list(_tensors(inputs))
    if not tensors or any(tensor.dim() == 0 or len(tensor) != count for tensor in tensors):
        return [""] * count
    states = [hashlib.sha256() for _ in range(count)]
    for tensor in tensors:
        whole = tensor.detach().cpu().contiguous().flatten(1) if tensor.dim() > 1 else tensor.detach().cpu().view(-1, 1)
        for state, row in zip(states, whole, strict=True):
            state.update(str(tensor.dtype).encode())
            state.update(row.contiguous().view(torch.uint8).numpy().tobytes())
    return [state.hexdigest()[:32] for state in states]


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
