"""Checkpoints: saved in the background from reused buffers, and the newest that verifies read back.

<folder>/step-00000123/
   model.safetensors optimizer.safetensors    one file for each group of tensors
   state.json                                 everything else: the loop's own state, and that of each rank
   manifest.json                              sha256 and size of each file, step, world size, hash of the samples seen
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainkit.boot.rundir import RunDir
from trainkit.errors import CheckpointError
from trainkit.loops import writer
from trainkit.loops.tensorfile import TensorFile, described, parse

_STATE = "state.json"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Saved:
    """A checkpoint as it was read; its tensors are on the CPU, and all of one file share its memory."""

    path: Path
    step: int
    world_size: int
    samples: str
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    ranks: list[dict[str, Any]]


class Checkpoints:
    """The checkpoints in one folder, of which the last `keep` are kept. One process writes, any may read."""

    def __init__(self, folder: Path, keep: int = 3) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise CheckpointError(f"keep={keep!r}: give how many checkpoints to keep, at least 1.")
        self.folder, self.keep = Path(folder), keep
        self._files: dict[str, TensorFile] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._swept = False

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        ranks: Sequence[Mapping[str, Any]],
        samples: str,
    ) -> float:
        """Copy everything, and have it written in the background; the seconds for which the caller was blocked.

        Waits for the checkpoint before, if that is still being written, and raises CheckpointError if that failed
        (then nothing is saved now). `ranks` holds one state for each rank; it and `state` have to be JSON.
        """
        begun = time.perf_counter()
        self.wait()
        text = _encoded(state, ranks)
        self._files = {group: self._file(group, named) for group, named in tensors.items()}
        for group, named in tensors.items():
            self._files[group].fill(named)
        for device in {tensor.device for named in tensors.values() for tensor in named.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        facts = {"world_size": len(ranks), "samples": samples}
        self._thread = threading.Thread(target=self._write, args=(step, text, facts), name="trainkit-checkpoint")
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending
            self._thread = None
            self._write(step, text, facts)
            self.wait()
        return time.perf_counter() - begun

    def _file(self, group: str, tensors: Mapping[str, Tensor]) -> TensorFile:
        """The group's buffer, made anew only where names, types or shapes have changed."""
        writer.checked_file_name(group + _SUFFIX)
        found = self._files.get(group)
        if found is None or found.description != described(tensors):
            self._files.pop(group, None)  # its memory is free before the new one's is taken
            del found
            return TensorFile(tensors)
        return found

    def _write(self, step: int, text: bytes, facts: Mapping[str, Any]) -> None:
        """What the background thread does. Its error is kept for the next `save` or `wait`."""
        try:
            if not self._swept:
                writer.sweep(self.folder)
                self._swept = True
            files: dict[str, Any] = {group + _SUFFIX: file.pieces() for group, file in self._files.items()}
            writer.write(self.folder, step, {**files, _STATE: [text]}, facts, self.keep)
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk. Raises CheckpointError, once, where it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is None:
            return
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        kept = [path.name for path in writer.directories(self.folder)[-1:]]
        raise CheckpointError(
            f"The checkpoint could not be written to {self.folder} ({why}); "
            + (f"{kept[0]} and those before it are untouched." if kept else "there is none before it.")
            + " Make room, or name another folder."
        ) from error

    def newest(self) -> Saved | None:
        """The newest checkpoint that verifies, or None; each that does not gets one line on stderr that says why."""
        return next(_verified(self.folder), None)


def load(path: str | Path) -> Saved:
    """A checkpoint from its directory, or the newest that verifies from a folder of them or a run's directory.

    Nothing that is read can run code: tensors are safetensors, all else is JSON. Raises CheckpointError where there is
    none that verifies.
    """
    place = Path(path)
    if (place / writer.MANIFEST).exists():
        return read(place)
    runs_own = RunDir(place).checkpoints
    folder = runs_own if runs_own.is_dir() else place
    found = next(_verified(folder), None)
    if found is not None:
        return found
    seen = len(writer.directories(folder))
    what = f"none of the {seen} checkpoints in {folder} is whole" if seen else f"there is no checkpoint in {folder}"
    raise CheckpointError(
        f"Nothing to resume from: {what}. Name a checkpoint, a folder of checkpoints, or a run's directory."
    )


def _verified(folder: Path) -> Iterator[Saved]:
    """Checkpoints that are whole, the newest first."""
    unreadable, readable = [], []
    for path in writer.directories(folder):
        try:
            writer.read_manifest(path)
            readable.append(path)
        except CheckpointError:
            unreadable.append(path)
    for path in unreadable + readable[::-1]:
        try:
            yield read(path)
        except CheckpointError as error:
            print(f"trainkit: the checkpoint {path.name} is passed over: {error.message}", file=sys.stderr, flush=True)


def read(path: Path) -> Saved:
    """One checkpoint, every file of it verified. Raises CheckpointError, naming the file that is wrong."""
    manifest = writer.read_manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    values: Any = None
    for name, fact in manifest["files"].items():
        data = writer.read_file(path / writer.checked_file_name(name), fact)
        if name.endswith(_SUFFIX):
            tensors[name.removesuffix(_SUFFIX)] = parse(path / name, data)
        elif name == _STATE:
            values = _decoded(path / name, data.tobytes())
    if values is None:
        raise CheckpointError(f"{path / _STATE} is missing")
    state, ranks = values["state"], values["ranks"]
    step, world_size, samples = manifest["step"], manifest["world_size"], str(manifest.get("samples", ""))
    return Saved(path, step, world_size, samples, tensors, state, ranks)


def _encoded(state: Mapping[str, Any], ranks: Sequence[Mapping[str, Any]]) -> bytes:
    values = {"state": dict(state), "ranks": [dict(rank) for rank in ranks]}
    try:
        _check_keys(values)
        return json.dumps(values).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The state cannot be saved, because it is not JSON: {error}.") from error


def _check_keys(value: Any) -> None:
    """JSON would make texts of other keys without a word."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no text")
            _check_keys(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _check_keys(entry)


def _decoded(path: Path, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("state"), dict):
        raise CheckpointError(f"{path} holds no state")
    if not isinstance(values.get("ranks"), list):
        raise CheckpointError(f"{path} holds no ranks")
    return values
