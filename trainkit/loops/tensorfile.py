"""Tensors as one safetensors file: laid out in a reused buffer exactly as they will lie in the file, and read back.

Copying into the buffer is all that training waits for. A tensor in another memory format (channels last) is copied as
it lies, which is several times faster, and put into the file's order by whoever writes the file.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainkit.errors import CheckpointError
from trainkit.loops.writer import Piece

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LARGE = 4 << 20  # bytes from which huge pages are worth asking for


class TensorFile:
    """The buffer of one file, for tensors of the names, types and shapes that `described` tells."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.description = described(tensors)
        names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that all are aligned
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._slices: dict[str, slice] = {}
        end = 0
        for name in names:
            tensor = tensors[name]
            begin, end = end, end + tensor.numel() * tensor.element_size()
            self._slices[name] = slice(begin, end)
            header[name] = {
                "dtype": _type_name(name, tensor),
                "shape": list(tensor.shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        buffer = _buffer(end, pinned=any(tensor.is_cuda for tensor in tensors.values()))
        self._bytes: NDArray[np.uint8] = buffer.numpy()
        self._orders = {name: order_of(tensors[name]) for name in names}
        self._filled = [name for name in names if tensors[name].numel()]
        self._views = {name: self._view(buffer[self._slices[name]], tensors[name]) for name in self._filled}

    def _view(self, data: Tensor, tensor: Tensor) -> Tensor:
        shape = [tensor.shape[dim] for dim in order_of(tensor)] or list(tensor.shape)
        return data.view(tensor.dtype).view(shape)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors' values into the buffer; copies from a GPU are on their way when it returns."""
        distant: tuple[list[Tensor], list[Tensor]] = [], []
        for name in self._filled:
            source = _as_it_lies(tensors[name].detach(), self._orders[name])
            if source.is_cuda:
                distant[0].append(self._views[name])
                distant[1].append(source)
            elif source.is_contiguous() and not source.is_complex() and not source.is_neg():
                # By this thread alone: torch's wait for each other at every tensor, on busy cores ten times longer.
                np.copyto(self._bytes[self._slices[name]], source.reshape(-1).view(torch.uint8).numpy())
            else:
                self._views[name].copy_(source)
        if distant[0]:
            torch._foreach_copy_(*distant, non_blocking=True)

    def pieces(self) -> Iterator[Piece]:
        """The file, in order."""
        yield self._header
        start = 0
        for name, order in self._orders.items():
            if order:
                place = self._slices[name]
                yield self._bytes[start : place.start]
                yield _in_files_order(self._bytes[place], self._views[name], order)
                start = place.stop
        yield self._bytes[start:]


def described(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """What a buffer's layout depends on."""
    return tuple((name, t.dtype, t.shape, t.is_cuda, order_of(t)) for name, t in tensors.items())


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions by falling stride, where that is another order than the usual one and leaves no gaps; else ()."""
    if tensor.is_contiguous():
        return ()
    strides = tensor.stride()
    order = tuple(sorted(range(tensor.dim()), key=lambda dim: -strides[dim]))
    return order if tensor.permute(order).is_contiguous() else ()


def _as_it_lies(tensor: Tensor, order: Sequence[int]) -> Tensor:
    return tensor.permute(*order) if order else tensor


def in_order(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """A copy of the tensor that lies in memory with its dimensions in this order; () is the usual one."""
    if not order:
        return tensor.clone(memory_format=torch.contiguous_format)
    copy = tensor.permute(*order).clone(memory_format=torch.contiguous_format)
    return copy.permute(*(int(dim) for dim in np.argsort(order)))


def _in_files_order(data: NDArray[np.uint8], view: Tensor, order: Sequence[int]) -> NDArray[np.uint8]:
    """With numpy: torch would set all cores to work for it, which training needs."""
    lying = data.view(f"V{view.element_size()}").reshape(tuple(view.shape))
    return np.ascontiguousarray(lying.transpose(np.argsort(order))).reshape(-1).view(np.uint8)


def _type_name(name: str, tensor: Tensor) -> str:
    found = _NAMES.get(tensor.dtype)
    if found is None or tensor.layout != torch.strided or tensor.is_meta or name == "__metadata__":
        raise CheckpointError(
            f"The tensor {name!r} ({tensor.dtype}, {tensor.layout}, on {tensor.device}) cannot be stored in a "
            f"safetensors file: it takes dense tensors of {', '.join(str(dtype)[6:] for dtype in _NAMES)}."
        )
    return found


def _buffer(size: int, pinned: bool) -> Tensor:
    """Memory for `size` bytes: pinned where a GPU copies into it, else of huge pages, which are quick to touch."""
    if pinned or size < _LARGE:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    area = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8)


def parse(path: Path, data: NDArray[np.uint8]) -> dict[str, Tensor]:
    """The tensors of a safetensors file that was read into memory, which they share. Raises CheckpointError."""
    try:
        length = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + length].tobytes())
        area, found, end = data[8 + length :], {}, 0
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, stop = entry["data_offsets"]
            if begin != end or stop > len(area) or min(entry["shape"], default=0) < 0:
                raise ValueError(f"{name} has data from {begin} to {stop}")
            found[name] = torch.from_numpy(area[begin:stop]).view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
            end = stop
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no safetensors file ({error})") from error
    if end != len(area):
        raise CheckpointError(f"{path} is no safetensors file ({len(area) - end} bytes belong to no tensor)")
    return found
