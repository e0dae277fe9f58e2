"""Training loops: a model, a loss, an optimizer and data in; a trained model and a record that resumes exactly out.

The same script runs alone and under mpirun, torchrun, srun and horovodrun. Every name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers and editors see what is loaded on first use
    from trainkit.loops.callbacks import Callback as Callback
    from trainkit.loops.callbacks import EarlyStopping as EarlyStopping
    from trainkit.loops.callbacks import KeepBest as KeepBest
    from trainkit.loops.fastailoop import FastaiLoop as FastaiLoop
    from trainkit.loops.fastailoop import FineTune as FineTune
    from trainkit.loops.fastailoop import FitOneCycle as FitOneCycle
    from trainkit.loops.freezing import freeze as freeze
    from trainkit.loops.freezing import freeze_statistics as freeze_statistics
    from trainkit.loops.history import History as History
    from trainkit.loops.metrics import Accuracy as Accuracy
    from trainkit.loops.metrics import ConfusionMatrix as ConfusionMatrix
    from trainkit.loops.metrics import ErrorRate as ErrorRate
    from trainkit.loops.metrics import MeanLoss as MeanLoss
    from trainkit.loops.metrics import Metric as Metric
    from trainkit.loops.metrics import TopK as TopK
    from trainkit.loops.precision import fast_bf16 as fast_bf16
    from trainkit.loops.preemption import Preempted as Preempted
    from trainkit.loops.schedules import OneCycle as OneCycle
    from trainkit.loops.schedules import OneCycleMomentum as OneCycleMomentum
    from trainkit.loops.schedules import StepDecay as StepDecay
    from trainkit.loops.schedules import WarmupCosine as WarmupCosine
    from trainkit.loops.sources import Samples as Samples
    from trainkit.loops.sources import Source as Source
    from trainkit.loops.sources import Tensors as Tensors
    from trainkit.loops.torchloop import Saving as Saving
    from trainkit.loops.torchloop import TorchLoop as TorchLoop
    from trainkit.loops.world import World as World
    from trainkit.loops.world import join as join

_HOME = {
    "TorchLoop": "torchloop",
    "Saving": "torchloop",
    "FastaiLoop": "fastailoop",
    "FineTune": "fastailoop",
    "FitOneCycle": "fastailoop",
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
    "OneCycleMomentum": "schedules",
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
