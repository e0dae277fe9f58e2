"""PyTorch classifier in, ONNX file out: one file, any batch size, compared with PyTorch before it exists.

The file ends in logits (softmax is `predict`'s), and carries class names and preprocessing in its metadata. It is made
and checked in memory, and appears by one rename: where anything is wrong there is no file.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trainkit
from trainkit.errors import ExportError
from trainkit.export.checkpoint import load_checkpoint
from trainkit.export.predict import CLASS_NAMES, INPUT, OUTPUT, PREPROCESSING
from trainkit.export.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn

PathLike = str | os.PathLike[str]
MAX_DIFFERENCE = 1e-4  # between any two logits of the file and of PyTorch
BATCHES = (1, 2, 7)  # sizes that are compared
_MOST_BYTES = (1 << 31) - (1 << 24)  # one ONNX file is one protobuf message


@dataclass(frozen=True)
class Report:
    """An export that agreed with PyTorch: the largest difference of any two logits, and on what it was found."""

    path: str
    bytes: int
    opset: int
    class_names: tuple[str, ...]
    max_difference: float
    batches: tuple[int, ...]
    inputs: str  # "7 pictures", "7 generated pictures"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.bytes / 1e6:.1f} MB, opset {self.opset}, {len(self.class_names)} classes; differs "
            f"from PyTorch by at most {self.max_difference:.1e} (batches of {self.batches}; {self.inputs})"
        )


def to_onnx_file(source: PathLike, path: PathLike, images: Sequence[PathLike] = ()) -> Report:
    """Export a recipe's checkpoint to `path`, compared with PyTorch on the pictures `images`.

    Without pictures, on seven generated ones. Raises ExportError, and leaves no file, where the checkpoint is damaged
    or the export disagrees; UserErrorException where a picture cannot be read.
    """
    import numpy as np
    import torch

    checkpoint = load_checkpoint(source)
    model = checkpoint.module()
    arrays = [checkpoint.preprocessing.read(image) for image in images[: max(BATCHES)]]
    inputs = torch.from_numpy(np.stack(arrays or _generated(checkpoint.preprocessing)))
    return to_onnx(
        model,
        inputs[:1],
        path,
        class_names=checkpoint.classes,
        preprocessing=checkpoint.preprocessing,
        check_inputs=inputs,
        inputs_words=f"{len(inputs)} pictures" if arrays else f"{len(inputs)} generated pictures",
        metadata={"trainkit.architecture": checkpoint.architecture},
    )


def to_onnx(
    model: nn.Module,
    sample: torch.Tensor,
    path: PathLike,
    *,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    check_inputs: torch.Tensor | None = None,
    inputs_words: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Report:
    """Export `model`, which maps N x 3 x size x size preprocessed pictures to N x classes logits, to `path`.

    `sample` is one or more such pictures, `check_inputs` (else `sample`) the real ones on which the file is compared
    with PyTorch, in batches of 1, 2 and 7. `model` itself is not changed. Raises ExportError, and leaves no file, where
    the model cannot be exported or a logit differs by more than 1e-4.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ExportError(f"The folder {path.parent} does not exist; make it, or write to another one.")
    inputs = sample if check_inputs is None else check_inputs
    names = _checked_names(class_names)
    for tensor in (sample, inputs):
        _check_shape(tensor, preprocessing.size)
    ready = _ready(model)
    proto = _exported(ready, sample.detach().cpu().float())
    _describe(proto, names, preprocessing, metadata or {})
    data = _serialized(proto)
    difference = _difference(ready, data, inputs.detach().cpu().float(), len(names))
    _write(path, data)
    opset = next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))
    words = inputs_words or f"{len(inputs)} given inputs"
    return Report(str(path), len(data), opset, names, difference, BATCHES, words)


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = (class_names,) if isinstance(class_names, str) else tuple(class_names)
    if isinstance(class_names, str) or not names or not all(isinstance(name, str) and name for name in names):
        raise ExportError(f"class_names is a list of names, one for each output of the network; not {class_names!r}.")
    if len(set(names)) != len(names):
        raise ExportError(f"class_names has a name twice: {list(names)}.")
    return names


def _check_shape(tensor: torch.Tensor, size: int) -> None:
    shape = tuple(getattr(tensor, "shape", ()))
    if len(shape) != 4 or shape[0] < 1 or shape[1:] != (3, size, size):
        raise ExportError(
            f"The network's inputs are N x 3 x {size} x {size}, as the preprocessing makes them; not {shape}."
        )


def _ready(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, in float32 on the CPU, without the wrapper that distributed training put around it."""
    from torch.nn.parallel import DistributedDataParallel

    inner = model.module if isinstance(model, DistributedDataParallel) else model
    weights = (*inner.parameters(), *inner.buffers())
    if sum(tensor.numel() for tensor in weights) * 4 > _MOST_BYTES:
        raise ExportError("The model has more than 2 GB of weights; one ONNX file cannot hold them.")
    try:
        return copy.deepcopy(inner).cpu().float().eval()
    except Exception as e:
        raise ExportError(f"The model cannot be copied, so it was not exported: {_first_line(e)}") from e


def _exported(model: nn.Module, sample: torch.Tensor) -> Any:
    """The network as an ONNX message with a free batch size."""
    import torch

    pair = torch.cat([sample, sample])[:2]  # a batch of one would be taken for a fixed size
    try:
        program = torch.onnx.export(
            model,
            (pair,),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
        proto = program.model_proto if program is not None else None
    except Exception as e:  # tracing runs the model's own code
        raise ExportError(f"The model cannot be exported to ONNX: {_first_line(e)}") from e
    if proto is None or [len(proto.graph.input), len(proto.graph.output)] != [1, 1]:
        raise ExportError("The model cannot be exported to ONNX: a classifier has one input and one output.")
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ExportError("The model cannot be exported to ONNX with a free batch size: its code fixes it.")
    return proto


def _describe(proto: Any, names: Sequence[str], preprocessing: Preprocessing, metadata: Mapping[str, str]) -> None:
    """Write our metadata; drop the exporter's, which tells the paths of this machine."""
    graph = proto.graph
    functions = [node for function in proto.functions for node in function.node]
    for each in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, *functions):
        del each.metadata_props[:]
        each.doc_string = ""
    for each in (proto, graph, *proto.functions):
        del each.metadata_props[:]
    texts = {
        CLASS_NAMES: json.dumps(list(names)),
        PREPROCESSING: json.dumps(preprocessing.to_json()),
        "trainkit.output": "logits",
        "trainkit.version": trainkit.__version__,
        **metadata,
    }
    for key, value in texts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value


def _serialized(proto: Any) -> bytes:
    """The message as checked bytes."""
    import onnx

    try:
        data: bytes = proto.SerializeToString()
        onnx.checker.check_model(data, full_check=True)
    except Exception as e:  # protobuf's and the checker's own errors
        raise ExportError(f"The exported model is not valid ONNX: {_first_line(e)}") from e
    return data


def _difference(model: nn.Module, data: bytes, inputs: torch.Tensor, classes: int) -> float:
    """The largest difference of any two logits over all batch sizes; ExportError above the limit."""
    import numpy as np
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise ExportError(f"onnxruntime cannot load the exported model: {_first_line(e)}") from e
    largest = 0.0
    for size in BATCHES:
        batch = inputs[torch.arange(size) % len(inputs)]
        with torch.no_grad():
            expected = model(batch).numpy()
        if expected.shape != (size, classes):
            raise ExportError(f"The network gives {expected.shape} for {size} pictures and {classes} class names.")
        if not np.isfinite(expected).all():
            raise ExportError("The network's own output is not finite, so it was not exported; did training diverge?")
        try:
            found = session.run([OUTPUT], {INPUT: batch.numpy()})[0]
        except Exception as e:
            raise ExportError(f"The exported model fails on a batch of {size}: {_first_line(e)}") from e
        same = found.shape == expected.shape
        difference = float(np.abs(found.astype(np.float64) - expected).max()) if same else float("inf")
        if not difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"The exported model disagrees with PyTorch by {difference:.1e} on a batch of {size}; at most "
                f"{MAX_DIFFERENCE:.0e} is allowed, so no file was written."
            )
        largest = max(largest, difference)
    return largest


def _write(path: Path, data: bytes) -> None:
    """Put the file in place in one step."""
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=".onnx", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as e:
        raise ExportError(f"{path} cannot be written: {e.strerror}.") from e


def _first_line(error: Exception) -> str:
    """What an error of another library says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _generated(preprocessing: Preprocessing) -> list[Any]:
    """Seven preprocessed pictures of coloured noise, always the same, from coarse to fine."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    pictures = []
    for level in range(max(BATCHES)):
        pixels = random.integers(0, 256, (2 << level, 3 << level, 3), dtype=np.uint8)
        pictures.append(preprocessing.apply(Image.fromarray(pixels)))
    return pictures
