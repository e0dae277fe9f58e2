"""The GPUs of this machine, counted without importing anything that would start them.

The driver's files tell them in less than a millisecond; loading the driver's library can take seconds on a machine
where nothing keeps it loaded, and does not happen here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import List, Mapping, Optional, Tuple

UNKNOWN = "NVIDIA GPU"


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name for people, and `id`, which CUDA_VISIBLE_DEVICES knows it by."""

    id: str
    name: str = UNKNOWN
    uuid: str = ""


def installed(proc: Path = Path("/proc/driver/nvidia/gpus"), dev: Path = Path("/dev")) -> List[Gpu]:
    """The NVIDIA GPUs that this process may open, in the order of their bus addresses."""
    nodes = {int(p.name[6:]) for p in dev.glob("nvidia[0-9]*") if p.name[6:].isdigit() and os.access(str(p), os.R_OK)}
    found: List[Tuple[str, str]] = []
    for path in sorted(proc.glob("*/information")):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        minor = _field(text, "Device Minor")
        if minor.isdigit() and int(minor) in nodes:
            found.append((_field(text, "Model") or UNKNOWN, _field(text, "GPU UUID")))
    if not found:  # a container may have the devices without the driver's files
        found = [(UNKNOWN, "") for _ in sorted(nodes)]
    return [Gpu(str(n), name, uuid) for n, (name, uuid) in enumerate(found)]


def visible(env: Optional[Mapping[str, str]] = None, gpus: Optional[List[Gpu]] = None) -> List[Gpu]:
    """The GPUs that are installed and that CUDA_VISIBLE_DEVICES, where it is set, leaves to programs; in its order."""
    env = os.environ if env is None else env
    gpus = installed() if gpus is None else gpus
    text = env.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return gpus
    chosen: List[Gpu] = []
    for word in (w.strip() for w in text.split(",")):
        match = [g for g in gpus if g.id == word or (word.startswith("GPU-") and g.uuid.startswith(word))]
        if word.startswith("MIG-") and gpus:  # a part of one GPU, which its driver alone can name
            match = [Gpu(word, "part of an " + gpus[0].name)]
        if len(match) != 1 or match[0] in chosen:
            break  # CUDA too takes those before the first that it does not know
        chosen.append(Gpu(word, match[0].name, match[0].uuid))
    return chosen


def _field(text: str, name: str) -> str:
    match = re.search(r"^" + name + r":\s*(.*?)\s*$", text, re.MULTILINE)
    return match.group(1) if match else ""
