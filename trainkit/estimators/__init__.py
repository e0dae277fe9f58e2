"""Estimators: a training script with everything it needs, in one object that `Experiment.submit` takes.

Another estimator is a class with a method `to_script_run_config() -> ScriptRunConfig`; nothing has to be registered.
"""

from __future__ import annotations

from trainkit.estimators.backends import Gloo, Mpi, Nccl
from trainkit.estimators.estimator import Estimator
from trainkit.estimators.fastai import Fastai
from trainkit.estimators.pytorch import PyTorch

__all__ = ["Estimator", "Fastai", "Gloo", "Mpi", "Nccl", "PyTorch"]
