"""The health of this machine's NVIDIA GPUs in words: by nvidia-smi's report and the kernel's log, without CUDA.

Nothing is changed; nvidia-smi is given a few seconds, in which the caller does something else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from typing import Dict, List, NamedTuple, Optional
from xml.etree import ElementTree

_SECONDS = 3.0
_KERNEL_LOG = "/dev/kmsg"
# NVIDIA's numbers of driver events that are not a program's own fault, and what to do.
XIDS: Dict[int, str] = {
    48: "an uncorrectable memory error; reset it (nvidia-smi --gpu-reset) or restart the machine",
    62: "its controller stopped; restart the machine",
    64: "a bad memory row could not be replaced; have the GPU exchanged",
    74: "an NVLink error; check bridges and the other GPUs",
    79: "it fell off the bus; restart the machine, check power and cooling",
    92: "many corrected memory errors; watch it",
    94: "an uncorrectable memory error that ended one program",
    95: "an uncorrectable memory error that may have reached all programs; reset it or restart the machine",
    119: "its firmware does not answer; restart the machine",
    120: "its firmware failed; restart the machine",
}
_SLOW = {
    "hw_thermal_slowdown": "slowed down by heat: check its cooling",
    "sw_thermal_slowdown": "slowed down by heat: check its cooling",
    "hw_power_brake_slowdown": "slowed down by the power supply's brake signal",
}


class Health(NamedTuple):
    """What is wrong with GPUs (`bad`: they should not be used) and what is worth knowing (`notes`), in words."""

    bad: List[str]
    notes: List[str]


class Asked:
    """nvidia-smi at work; `answer` waits for it."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [program, "-q", "-x"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._deadline = time.monotonic() + _SECONDS

    def answer(self) -> Health:
        """The findings; that nvidia-smi does not answer is one too."""
        try:
            out, _ = self._process.communicate(timeout=max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return Health([], ["nvidia-smi did not answer within %g s" % _SECONDS])
        text = out.decode("utf-8", "replace")
        if self._process.returncode:
            return Health(["nvidia-smi failed: %s" % (text.strip().splitlines() or ["no message"])[-1][:200]], [])
        found = from_report(text)
        return Health(found.bad, found.notes + from_log(kernel_log()))


def ask() -> Optional[Asked]:
    """Start nvidia-smi; None where there is none."""
    program = shutil.which("nvidia-smi")
    try:
        return Asked(program) if program else None
    except OSError:
        return None


def from_report(xml: str) -> Health:
    """Read what `nvidia-smi -q -x` printed."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return Health([], ["nvidia-smi's report could not be read"])
    bad: List[str] = []
    notes: List[str] = []
    for number, gpu in enumerate(root.findall("gpu")):
        name = "GPU %d (%s)" % (number, (gpu.findtext("product_name") or "NVIDIA GPU").strip())
        bad += ["%s: %s" % (name, words) for words in _bad(gpu)]
        notes += ["%s: %s" % (name, words) for words in _notes(gpu)]
    return Health(bad, notes)


def _bad(gpu: ElementTree.Element) -> List[str]:
    """What keeps a GPU from being used."""
    found = []
    if _says(gpu, "remapped_rows/remapped_row_failure", "yes"):
        found.append("a bad memory row could not be replaced; have the GPU exchanged")
    action = (gpu.findtext("gpu_recovery_action") or "").strip()
    if action.lower() not in ("", "none", "n/a"):
        found.append("the driver asks for: %s" % action)
    if _says(gpu, "gpu_reset_status/reset_required", "yes"):
        found.append("it needs a reset (nvidia-smi --gpu-reset)")
    return found


def _notes(gpu: ElementTree.Element) -> List[str]:
    """What may explain a slow or a failing GPU."""
    found = []
    errors = sum(_number(e) for e in gpu.findall("ecc_errors/volatile/*") if "uncorrectable" in e.tag)
    if errors:
        found.append("%d uncorrectable memory errors since the driver was loaded" % errors)
    if _says(gpu, "remapped_rows/remapped_row_pending", "yes") or _says(gpu, "retired_pages/pending_retirement", "yes"):
        found.append("bad memory is replaced at its next reset")
    for reason in gpu.iter():
        short = re.sub(r"^clocks_(event|throttle)_reason_", "", reason.tag)
        if short in _SLOW and (reason.text or "").strip() == "Active" and _SLOW[short] not in found:
            found.append(_SLOW[short])
    return found


def _says(gpu: ElementTree.Element, path: str, value: str) -> bool:
    return (gpu.findtext(path) or "").strip().lower() == value


def _number(element: ElementTree.Element) -> int:
    text = (element.text or "").strip()
    return int(text) if text.isdigit() else 0


def kernel_log() -> str:
    """The kernel's messages, as far as this user may read them."""
    parts: List[bytes] = []
    try:
        handle = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        while len(parts) < 100_000:
            try:
                parts.append(os.read(handle, 8192))
            except BrokenPipeError:  # a message was overwritten meanwhile
                continue
    except OSError:  # all are read
        pass
    finally:
        os.close(handle)
    return b"".join(parts).decode("utf-8", "replace")


def from_log(text: str) -> List[str]:
    """The driver's events (Xid) in the kernel's messages, each kind once for a GPU.

    They are no reason to refuse a GPU: it may have been reset since.
    """
    found: List[str] = []
    for bus, digits in re.findall(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (\d+)", text):
        words = XIDS.get(int(digits))
        line = "GPU at %s, since the machine started: %s (Xid %s)" % (bus, words, digits)
        if words and line not in found:
            found.append(line)
    return found
