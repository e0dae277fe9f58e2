"""Registers a run's files as a model, once for all ranks that ask for it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit import runfiles
from trainkit.boot.rundir import RunDir, make_private, publish, read_json
from trainkit.errors import ModelPathNotFoundException, UserErrorException

if TYPE_CHECKING:
    from trainkit.model import Model
    from trainkit.run import Run

_PATIENCE_SECONDS = 120.0  # how long another rank waits for rank 0, which may still be writing the model


def register(run: Run, name: str, model_path: str | None, facts: Mapping[str, Any]) -> Model:
    """Register a file or a folder among the run's files. Raises ModelPathNotFoundException where there is none.

    Where several ranks make the same call, rank 0 registers and all get the one model.
    """

    def act() -> Model:
        from trainkit.model import register_files

        path = name if model_path is None else model_path
        files = runfiles.of_model(run._dir, path)
        if not files:
            raise ModelPathNotFoundException(
                f"Could not locate the provided model_path {path} in the set of files uploaded to the run: "
                f"{run.get_file_names()}"
            )
        model = register_files(run.workspace, name, files, run_id=run.id, **facts)
        return model

    _refuse_away(run)
    if run.world_size == 1 or run._attempt == 0:
        return act()
    from trainkit.model import Model

    asked = json.dumps([run._attempt, name, model_path, facts], sort_keys=True, default=str)
    run._asked[asked] = run._asked.get(asked, 0) + 1
    key = hashlib.sha256(f"{run._asked[asked]}:{asked}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    result = once(run._dir, run._attempt, run.rank, key, lambda: _brief(act()), f"register model {name}")
    return Model(run.workspace, name=result["name"], version=result["version"])


def _refuse_away(run: Run) -> None:
    """Raise UserErrorException in a job on a machine that does not see the workspace: its registry is not there."""
    job = read_json(run._dir.attempt(run._attempt).job) if run._attempt else None
    if job is not None and not job.get("shared", True):
        raise UserErrorException(
            "A model is registered in the workspace, which this machine does not see: its files travel. Register it "
            "from the client once the run has ended: run.register_model(...)."
        )


def _brief(model: Model) -> dict[str, Any]:
    return {"name": model.name, "version": model.version}


def once(run_dir: RunDir, attempt: int, rank: int, key: str, act: Callable[[], Any], words: str) -> Any:
    """The result of `act`, which one rank does and the others read. Rank 0 goes first where it can.

    A rank that dies within `act` loses its lock, and the next one does it.
    """
    from trainkit.boot.processes import hold_lock

    result = make_private(run_dir.once) / f"{key}.result"
    if rank != 0:
        _wait_for_first(run_dir.attempt(attempt).rank_record(0), result, rank, words)
    lock = hold_lock(run_dir.once / f"{key}.lock", wait=True)
    try:
        found = read_json(result)
        if found is None:
            found = {"value": act()}
            publish(result, found)
        return found["value"]
    finally:
        if lock is not None:
            os.close(lock)


def _wait_for_first(record: Path, result: Path, rank: int, words: str) -> None:
    """Return once rank 0 has done it, has ended, or has been given enough time."""
    begun, told = time.monotonic(), False
    while not result.exists() and not record.exists() and time.monotonic() - begun < _PATIENCE_SECONDS:
        if not told and time.monotonic() - begun > 5.0:
            told = True
            print(
                f"trainkit: rank {rank} waits for rank 0 to {words} (at most {_PATIENCE_SECONDS:.0f} s, then it does "
                "so itself)",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(0.02)
