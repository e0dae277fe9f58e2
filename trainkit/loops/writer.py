"""Puts a checkpoint on the disk, whole or not at all: files, a manifest with their hashes, fsync, then one rename.

A directory that has its final name is whole. Names that begin with a dot are in the making or on their way out, and are
swept when the next writer begins. Nothing here knows what a tensor is: files come as pieces of bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainkit.boot.rundir import encode, make_private
from trainkit.errors import CheckpointError

MANIFEST = "manifest.json"
Piece = bytes | NDArray[np.uint8]
_NAME = re.compile(r"step-([0-9]{8,})(\.old)?")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\.(safetensors|json)")
_CHUNK = 4 << 20  # hashed and written in turns, while it is in the processor's cache


def directory_name(step: int) -> str:
    """The name of the checkpoint of this step."""
    return f"step-{step:08d}"


def checked_file_name(name: str) -> str:
    """The name of a file of a checkpoint. Raises CheckpointError for one that could lead out of its directory."""
    if not _FILE.fullmatch(name) or name == MANIFEST:
        raise CheckpointError(
            f"A checkpoint has no file named {name!r}: names are letters, digits, - and _, then .safetensors or .json."
        )
    return name


def directories(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, in the order in which they were written, those without a readable manifest
    first. Raises CheckpointError where the folder cannot be read."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"The checkpoints in {folder} cannot be read: {error.strerror}.") from error
    return [path for _, path in sorted((_age(path), path) for path in found)]


def _age(path: Path) -> tuple[int, int]:
    try:
        manifest = read_manifest(path)
    except CheckpointError:
        return 0, 0
    return manifest["sequence"], manifest["step"]


def write(folder: Path, step: int, files: Mapping[str, Iterable[Piece]], facts: Mapping[str, Any], keep: int) -> Path:
    """Write one checkpoint, then remove the oldest beyond `keep`; its directory.

    `facts` enter the manifest. Raises OSError where the disk does not take it; then nothing of it is left, and what
    was there before is as it was.
    """
    make_private(folder)
    sequence = 1 + max((_age(path)[0] for path in directories(folder)), default=0)
    making = folder / f".{directory_name(step)}.{os.getpid()}"
    final = folder / directory_name(step)
    try:
        making.mkdir(mode=0o700)
        written = {name: _write_file(making / checked_file_name(name), pieces) for name, pieces in files.items()}
        manifest = {"format": 1, "step": step, "sequence": sequence, "time": time.time(), **facts, "files": written}
        _write_file(making / MANIFEST, [encode({**manifest, "digest": _digest(manifest)})])
        _sync(making)
        _publish(making, final)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    _sync(folder)
    _remove(_aside(final))
    for path in directories(folder)[:-keep]:
        _remove(path)
    return final


def _write_file(path: Path, pieces: Iterable[Piece]) -> dict[str, Any]:
    """Write a new file and force it onto the disk; its hash and size."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb", buffering=0, opener=_private) as file:
        for piece in pieces:
            view = memoryview(piece) if isinstance(piece, bytes) else piece.data
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                digest.update(chunk)
                while chunk:
                    chunk = chunk[file.write(chunk) :]
            size += len(view)
        os.fsync(file.fileno())
    return {"sha256": digest.hexdigest(), "size": size}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _publish(making: Path, final: Path) -> None:
    """Give a finished directory its name. One of the same step steps aside, to a name that readers know too."""
    if final.exists():
        _remove(_aside(final))
        final.rename(_aside(final))
    making.rename(final)


def _aside(final: Path) -> Path:
    return final.with_name(final.name + ".old")


def _remove(path: Path) -> None:
    """Remove a checkpoint: by one rename out of readers' sight, then file by file."""
    gone = path.with_name(f".gone-{path.name}.{os.getpid()}")
    try:
        path.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left half made or half removed; for the folder's one writer, before it begins."""
    for pattern in (".step-*", ".gone-step-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(manifest: Mapping[str, Any]) -> str:
    """The hash of a manifest's own content: a flipped bit in a number is still a number."""
    plain = json.dumps({k: v for k, v in manifest.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint's directory. Raises CheckpointError, saying what is wrong with it."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / MANIFEST} is no JSON") from error
    if not isinstance(manifest, dict) or manifest.get("digest") != _digest(manifest):
        raise CheckpointError(f"{path / MANIFEST} was changed after it was written")
    if manifest.get("format") != 1:
        raise CheckpointError(f"{path} has format {manifest.get('format')!r}; this trainkit reads format 1")
    whole = all(isinstance(manifest.get(key), int) for key in ("step", "sequence", "world_size"))
    if not whole or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{path / MANIFEST} lacks what a manifest has to have")
    return manifest


def read_file(path: Path, fact: Mapping[str, Any]) -> NDArray[np.uint8]:
    """A file's bytes in memory, the very ones that were verified. Raises CheckpointError where they are others."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != fact["size"]:
                raise CheckpointError(f"{path} has {size} bytes instead of {fact['size']}")
            data, digest, done = np.empty(size, np.uint8), hashlib.sha256(), 0
            while done < size:
                view = data[done : done + _CHUNK].data
                count = file.readinto(view) or 0
                if count == 0:
                    raise CheckpointError(f"{path} ended after {done} of {size} bytes")
                digest.update(view[:count])
                done += count
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no hash and size in its manifest") from error
    if digest.hexdigest() != fact["sha256"]:
        raise CheckpointError(f"{path} has another sha256 than its manifest says")
    return data
