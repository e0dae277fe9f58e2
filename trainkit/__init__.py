"""trainkit trains PyTorch and fastai models: one process, many ranks or many nodes from the same script.

Every public name is importable from here and loaded on first use, so that `import trainkit` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Workspace": "workspace",
    "Experiment": "experiment",
    "Environment": "environment",
    "CondaDependencies": "environment",
    "ContainerRegistry": "environment",
    "DockerBuildContext": "environment",
    "ComputeTarget": "compute",
    "AmlCompute": "compute",
    "AttachedCompute": "attached",
    "ScriptRunConfig": "runconfig",
    "RunConfiguration": "runconfig",
    "DockerConfiguration": "runconfig",
    "MpiConfiguration": "runconfig",
    "PyTorchConfiguration": "runconfig",
    "Estimator": "estimators",
    "PyTorch": "estimators",
    "Fastai": "estimators",
    "Run": "run",
    "Model": "model",
    "TrainkitError": "errors",
    "UserErrorException": "errors",
    "UnsupportedJob": "errors",
    "MissingPackage": "errors",
    "WorkspaceException": "errors",
    "ComputeTargetException": "errors",
    "TrainingException": "errors",
    "RunConfigurationException": "errors",
    "ExperimentExecutionException": "errors",
    "SnapshotException": "errors",
    "EnvironmentBuildError": "errors",
    "LaunchError": "errors",
    "RunEnvironmentException": "errors",
    "ActivityFailedException": "errors",
    "WebserviceException": "errors",
    "ModelNotFoundException": "errors",
    "ModelPathNotFoundException": "errors",
    "CheckpointError": "errors",
    "ExportError": "errors",
}

__all__ = sorted(_HOME) + ["__version__"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'trainkit' has no attribute {name!r}")
    value = getattr(importlib.import_module("trainkit." + home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
