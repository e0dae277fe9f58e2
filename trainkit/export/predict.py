"""Predictions from an exported model file: onnxruntime, Pillow and numpy, no torch.

The file holds the network up to its logits, the class names and the preprocessing; softmax is done here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import ExportError
from trainkit.export.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PathLike = str | os.PathLike[str]
INPUT, OUTPUT = "images", "logits"  # names of the network's input and output
CLASS_NAMES, PREPROCESSING = "trainkit.class_names", "trainkit.preprocessing"  # keys of the file's metadata, JSON
_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What a picture shows: all labels with their probabilities, the most probable first."""

    path: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[0]

    @property
    def probability(self) -> float:
        """That of `label`, 0 to 1."""
        return self.probabilities[0]

    def to_json(self) -> dict[str, Any]:
        """As plain values: path, label, probability, and all probabilities by label."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "probabilities": dict(zip(self.labels, self.probabilities, strict=True)),
        }


class Classifier:
    """An exported model, loaded once for any number of predictions."""

    def __init__(self, path: PathLike, threads: int = 0) -> None:
        """Load `path`, to compute on `threads` threads (0: one a core). Raises ExportError where it is no model."""
        self.path = Path(path)
        self._session = _session(self.path, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.class_names, self.preprocessing = _described(self.path, metadata)
        self.metadata: dict[str, str] = dict(metadata)
        self._check_shapes()

    def _check_shapes(self) -> None:
        size = self.preprocessing.size
        shapes = {each.name: each.shape[1:] for each in (*self._session.get_inputs(), *self._session.get_outputs())}
        if shapes != {INPUT: [3, size, size], OUTPUT: [len(self.class_names)]}:
            raise ExportError(
                f"{self.path} contradicts itself: {len(self.class_names)} classes and pictures of {size} pixels are "
                f"named, the network has {shapes}. Export the model again."
            )

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output, N x classes, for N x 3 x size x size preprocessed pictures."""
        found: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: batch})[0]
        return found

    def predict(self, images: Iterable[PathLike]) -> list[Prediction]:
        """A prediction for each picture file; UserErrorException names the first that cannot be read."""
        import numpy as np

        paths = [os.fspath(image) for image in images]
        predictions = []
        for start in range(0, len(paths), _BATCH):
            chunk = paths[start : start + _BATCH]
            logits = self.logits(np.stack([self.preprocessing.read(path) for path in chunk]))
            if not np.isfinite(logits).all():
                raise ExportError(f"{self.path} computes values that are not finite: its weights are damaged.")
            for path, row in zip(chunk, softmax(logits), strict=True):
                order = np.argsort(-row, kind="stable")
                labels = tuple(self.class_names[i] for i in order)
                predictions.append(Prediction(path, labels, tuple(float(row[i]) for i in order)))
        return predictions


def predict(model_path: PathLike, images: Iterable[PathLike]) -> list[Prediction]:
    """Classify picture files with an exported model; see `Classifier`."""
    return Classifier(model_path).predict([images] if isinstance(images, (str, os.PathLike)) else images)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of each row of logits, in float64."""
    import numpy as np

    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def as_text(predictions: Sequence[Prediction], most: int = 3) -> str:
    """For people: one line a picture, with its `most` most probable labels."""
    lines = []
    for each in predictions:
        shown = list(zip(each.labels, each.probabilities, strict=True))[:most]
        lines.append(f"{each.path}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in shown))
    return "\n".join(lines)


def _session(path: Path, threads: int) -> Any:
    """The file, loaded by onnxruntime; one clear error for everything that can be wrong with it."""
    _check_kind(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has a class for each status
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ExportError(
            f"{path} is not an ONNX model that can be loaded: it is damaged or cut off ({reason}). Export it again."
        ) from e


def _check_kind(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as e:
        raise ExportError(f"The model {path} cannot be read: {e.strerror}.") from e
    if not head:
        raise ExportError(f"{path} is empty; export the model again.")
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise ExportError(f"{path} is a PyTorch file, not an ONNX model: `trainkit export` makes one of it.")


def _described(path: Path, metadata: dict[str, str]) -> tuple[tuple[str, ...], Preprocessing]:
    """Class names and preprocessing out of the file's metadata."""
    for key in (CLASS_NAMES, PREPROCESSING):
        if key not in metadata:
            raise ExportError(
                f"{path} has no {key!r} in its metadata: it was not exported by trainkit, or it is cut off."
            )
    try:
        names = json.loads(metadata[CLASS_NAMES])
        preprocessing = Preprocessing.from_json(json.loads(metadata[PREPROCESSING]))
        if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"class names {names!r}")
    except (ValueError, TypeError, ExportError) as e:
        raise ExportError(f"{path} has damaged metadata ({e}); export the model again.") from e
    return tuple(names), preprocessing
