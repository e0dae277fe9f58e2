"""Where code that uses a model finds it: in the current directory, or fetched into it from the registry."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.errors import ModelNotFoundException, RunEnvironmentException, UserErrorException
from trainkit.registry.store import check_name

if TYPE_CHECKING:
    from trainkit.workspace import Workspace

_CACHE = "azureml-models"


def find(model_name: str, version: int | None, workspace: Workspace | None) -> Path:
    """The path of a model's file or folder; see `Model.get_model_path`."""
    cache = Path.cwd() / _CACHE / check_name(model_name)
    if version is not None and (type(version) is not int or version < 1):
        raise UserErrorException(f"A model's version is a whole number from 1, not {version!r}.")
    cached = _cached(cache, version)
    if cached is not None:
        return cached
    beside = Path.cwd() / model_name
    if version is None and beside.exists():
        return beside
    workspace = workspace or _workspace_of_job()
    if workspace is None:
        raise ModelNotFoundException(
            f"Model {model_name} not found in cache at {_CACHE} or in current working directory {Path.cwd()}; to fetch "
            "it from a workspace, give _workspace."
        )
    return _fetched(workspace, model_name, version, cache)


def _cached(cache: Path, version: int | None) -> Path | None:
    """The model in `azureml-models/NAME/VERSION`, the highest version where none is asked."""
    numbers = [int(entry) for entry in os.listdir(cache) if entry.isdecimal()] if cache.is_dir() else []
    wanted = version if version is not None else max(numbers, default=0)
    if wanted not in numbers:
        return None
    content = sorted((cache / str(wanted)).iterdir())
    return content[0] if len(content) == 1 else cache / str(wanted)


def _workspace_of_job() -> Workspace | None:
    from trainkit.run import Run

    try:
        return Run.get_context(allow_offline=False).workspace
    except RunEnvironmentException:
        return None


def _fetched(workspace: Workspace, model_name: str, version: int | None, cache: Path) -> Path:
    """Download into the cache in one step, whoever else does the same."""
    from trainkit.model import Model

    model = Model(workspace, model_name, version=version)
    cache.mkdir(parents=True, exist_ok=True)
    staging = tempfile.mkdtemp(prefix=".", dir=cache)
    try:
        model.download(staging)
        os.rename(staging, cache / str(model.version))
    except OSError:
        if not (cache / str(model.version)).is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    found = _cached(cache, model.version)
    assert found is not None
    return found
