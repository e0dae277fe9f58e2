"""ONNX: a trained classifier as one checked file, and predictions from that file alone.

`to_onnx` and `to_onnx_file` write it (they need torch), `Classifier` and `predict.predict` use it (onnxruntime, Pillow
and numpy are enough). Every name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Preprocessing": "preprocessing",
    "Classifier": "predict",
    "Prediction": "predict",
    "Report": "onnx",
    "to_onnx": "onnx",
    "to_onnx_file": "onnx",
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "build": "architectures",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'trainkit.export' has no attribute {name!r}")
    return getattr(importlib.import_module("trainkit.export." + home), name)
