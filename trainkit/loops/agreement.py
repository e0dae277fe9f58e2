"""Gives all ranks rank 0's model, to the bit, after making sure that they have the same one."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from trainkit.errors import UserErrorException
from trainkit.loops.collectives import Collective, gather
from trainkit.loops.collectives.base import as_bytes

_MESSAGE_BYTES = 32 << 20


def agree(model: nn.Module, collective: Collective) -> None:
    """Rank 0's parameters and buffers to all ranks; UserErrorException where a rank has built another model."""
    if collective.size == 1:
        return
    named = [*model.named_parameters(), *model.named_buffers()]
    mine = "\n".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in named)
    digests = gather(collective, hashlib.sha256(mine.encode()).digest())
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise UserErrorException(
            f"Rank {others[0]} has built another model than rank 0: names, shapes or types of its parameters differ. "
            "Build the model from the same arguments in every rank."
        )
    _to_all([tensor for _, tensor in named], collective)


def agree_on_buffers(model: nn.Module, collective: Collective) -> None:
    """Rank 0's buffers to all ranks: the statistics that each has gathered by itself."""
    if collective.size > 1:
        _to_all(list(model.buffers()), collective)


def _to_all(tensors: list[Tensor], collective: Collective) -> None:
    with torch.no_grad():
        for some in _messages([tensor.detach() for tensor in tensors]):
            _send(some, collective)


def _messages(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors in pieces of a size that is quick to send; each piece's on one device."""
    found: list[list[Tensor]] = []
    size = 0
    for tensor in sorted(tensors, key=lambda t: str(t.device)):
        if not found or size > _MESSAGE_BYTES or tensor.device != found[-1][0].device:
            found.append([])
            size = 0
        found[-1].append(tensor)
        size += tensor.numel() * tensor.element_size()
    return found


def _send(tensors: list[Tensor], collective: Collective) -> None:
    packed = torch.cat([as_bytes(tensor.contiguous()) for tensor in tensors])
    collective.broadcast(packed)
    if collective.rank == 0:
        return
    start = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        # a clone: a piece may begin where its type cannot
        tensor.copy_(packed[start : start + size].clone().view(tensor.dtype).view(tensor.shape))
        start += size
