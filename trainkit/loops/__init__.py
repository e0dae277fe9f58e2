"""Training loops: a model, a loss, an optimizer and data in; a trained model and a record that resumes exactly out.

The same script runs alone and under mpirun, torchrun, srun and horovodrun. Every name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "TorchLoop": "torchloop",
    "Saving": "torchloop",
    "FastaiLoop": "fastailoop",
    "History": "history",
    "Callback": "callbacks",
    "EarlyStopping": "callbacks",
    "KeepBest": "callbacks",
    "Accuracy": "metrics",
    "ConfusionMatrix": "metrics",
    "ErrorRate": "metrics",
    "MeanLoss": "metrics",
    "Metric": "metrics",
    "TopK": "metrics",
    "OneCycle": "schedules",
    "StepDecay": "schedules",
    "WarmupCosine": "schedules",
    "Samples": "sources",
    "Source": "sources",
    "Tensors": "sources",
    "fast_bf16": "precision",
    "freeze": "freezing",
    "freeze_statistics": "freezing",
    "World": "world",
    "join": "world",
    "Preempted": "preemption",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'trainkit.loops' has no attribute {name!r}")
    return getattr(importlib.import_module("trainkit.loops." + home), name)
