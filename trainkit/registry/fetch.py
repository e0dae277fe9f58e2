"""Files out of the model registry: checked against their sha256, and put in place only when all of them are good."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from trainkit.errors import WebserviceException
from trainkit.hashing import file_sha256
from trainkit.registry.store import Record, copy_and_hash


def top_of(record: Record) -> str:
    """What a download makes in its target: a file's or a folder's name, or "" where the model has several."""
    tops = {entry["name"].split("/")[0] for entry in record["files"]}
    return tops.pop() if len(tops) == 1 else ""


def verify(record: Record, directory: Path, names: Iterable[str] | None = None) -> None:
    """Compare the registered files (or those of `names`) with their recorded sha256; WebserviceException names one."""
    wanted = None if names is None else set(names)
    for entry in record["files"]:
        if wanted is None or entry["name"] in wanted:
            path = directory / "files" / entry["name"]
            try:
                found = file_sha256(path)
            except OSError as e:
                raise _lost(record, entry["name"], e) from e
            _compare(record, entry["name"], entry["sha256"], found)


def _compare(record: Record, name: str, expected: str, found: str) -> None:
    if expected != found:
        raise WebserviceException(
            f"The file {name} of model {record['name']}:{record['version']} is corrupted: its sha256 is {found}, "
            f"it was registered with {expected}. Nothing was downloaded; register the model again from its run."
        )


def _lost(record: Record, name: str, error: OSError) -> WebserviceException:
    return WebserviceException(
        f"The file {name} of model {record['name']}:{record['version']} cannot be read: {error.strerror}."
    )


def download(record: Record, directory: Path, target_dir: Path, exist_ok: bool) -> Path:
    """Copy a version's files into `target_dir`; the path of the file or folder that the model is.

    Everything is copied and checked beside its place first: a corrupted file or a full disk leaves nothing new there.
    """
    names = [entry["name"] for entry in record["files"]]
    _check_target(target_dir, names, exist_ok)
    made = [path for path in (target_dir, *target_dir.parents) if not path.exists()]
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".trainkit-download-", dir=target_dir))
        try:
            for entry in record["files"]:
                _fetch(record, entry, directory / "files", staging)
            _move(staging, target_dir, names)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BaseException as e:
        with contextlib.suppress(OSError):  # missing, or somebody else has put something there
            for path in made:
                path.rmdir()
        if isinstance(e, OSError):
            raise WebserviceException(
                f"Model {record['name']}:{record['version']} could not be downloaded to {target_dir}: {e.strerror}."
            ) from e
        raise
    return target_dir / top_of(record)


def _check_target(target_dir: Path, names: Iterable[str], exist_ok: bool) -> None:
    for name in names:
        path = target_dir / name
        if path.is_dir():
            raise WebserviceException(f"{path} is a folder where the model has a file; choose another target_dir.")
        if not exist_ok and os.path.lexists(path):
            raise WebserviceException(f"File already exists. To overwrite, set exist_ok to True. ({path})")
        for parent in path.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise WebserviceException(f"{parent} is a file, not a folder; choose another target_dir.")
                break


def _fetch(record: Record, entry: dict[str, str], files: Path, staging: Path) -> None:
    target = staging / entry["name"]
    target.parent.mkdir(parents=True, exist_ok=True)
    source = files / entry["name"]
    try:
        with open(source, "rb"):
            pass
    except OSError as e:
        raise _lost(record, entry["name"], e) from e
    _, found = copy_and_hash(source, target, 0o666)
    _compare(record, entry["name"], entry["sha256"], found)


def _move(staging: Path, target_dir: Path, names: Iterable[str]) -> None:
    """Put checked files in their place: a new file or folder in one step, into an existing folder file by file."""
    for name in names:
        top = name.split("/")[0]
        if not os.path.lexists(staging / top):
            continue  # went with its folder
        if not os.path.lexists(target_dir / top):
            os.rename(staging / top, target_dir / top)
        else:
            (target_dir / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, target_dir / name)
