"""What a job goes on from: a run, a folder of checkpoints or one of them, as a path that its ranks can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainkit.boot.newrun import find_run
from trainkit.boot.rundir import RunDir
from trainkit.errors import UserErrorException

_MANIFEST = "manifest.json"


def resume_path(value: object, root: Path | None = None) -> Path | None:
    """The absolute path that `resume_from=` means; None for None. `root` is the workspace's, for a run's id.

    Raises UserErrorException where it does not exist, or holds no checkpoint.
    """
    if value is None:
        return None
    directory = getattr(value, "directory", value)  # of a trainkit.Run
    if not isinstance(directory, (str, os.PathLike)) or not str(directory) or "\0" in str(directory):
        raise UserErrorException(
            f"resume_from is a run, a run's directory, a folder of checkpoints or one checkpoint, not {value!r}."
        )
    path = Path(directory).expanduser().absolute()
    if not path.exists() and root is not None and isinstance(value, str):
        path = find_run(root, value) or path
    if not path.is_dir():
        raise UserErrorException(f"resume_from: there is no run or folder {path}.")
    if not _has_checkpoint(path):
        raise UserErrorException(
            f"resume_from: {path} has no checkpoint: neither is it one, nor does it hold any, nor is it a run that has "
            "written some. What a script has saved in its own way, give it as an argument."
        )
    return path


def _has_checkpoint(path: Path) -> bool:
    folders = (path, RunDir(path).checkpoints)
    return (path / _MANIFEST).is_file() or any(next(f.glob(f"step-*/{_MANIFEST}"), None) for f in folders)


def record_of(path: Path | None) -> dict[str, Any] | None:
    """What a run's record says of what it went on from: the path, and the run that it belongs to."""
    if path is None:
        return None
    run = next((folder for folder in (path, *path.parents[:3]) if RunDir(folder).run.is_file()), None)
    return {"path": str(path), "run": run.name if run else None}
