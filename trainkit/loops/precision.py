"""Number formats: float32, bfloat16 by autocast, or float16 by autocast with a scaled loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from trainkit.errors import UserErrorException

PRECISIONS = ("float32", "bf16", "fp16")


def fast_bf16(device: torch.device | None = None) -> bool:
    """Whether a device multiplies bfloat16 matrices by itself: GPUs since Ampere, x86 processors with AMX or AVX512."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[object]] | None:
    """What to enter around each forward pass; None for float32, so that nothing is entered."""
    if precision not in PRECISIONS:
        raise UserErrorException(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}.")
    if precision == "float32":
        return None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    if device.type == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
        raise UserErrorException(
            f"{torch.cuda.get_device_name(device)} has no bfloat16; use precision='fp16' or 'float32'."
        )
    return lambda: torch.autocast(device.type, dtype)


def scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """For float16: what keeps small gradients from vanishing (Micikevicius et al., "Mixed Precision", 2018)."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None
