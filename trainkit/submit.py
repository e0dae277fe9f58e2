"""Carries out a plan: snapshot, records, driver. A run exists with all its files, or not at all."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.boot import newrun
from trainkit.boot.reserved import Reserved
from trainkit.boot.rundir import RunDir, make_private, publish, sweep
from trainkit.errors import ExperimentExecutionException, UserErrorException
from trainkit.plan import Plan, decide

if TYPE_CHECKING:
    from trainkit.experiment import Experiment
    from trainkit.run import Run
    from trainkit.snapshot import Snapshot
    from trainkit.workspace import Workspace

__all__ = ["plan", "submit"]


def submit(
    experiment: Experiment, config: object, tags: object = None, parent: str | None = None, **kwargs: Any
) -> Run:
    """Check the job, record it, and start its driver; returns as soon as that is done.

    `config` is a ScriptRunConfig or an estimator, `parent` the run that this one is a child of. Raises the error that
    says what cannot be, and then leaves nothing.
    """
    from trainkit.run import Run

    _refuse_unknown(kwargs)
    workspace = experiment.workspace
    run_dir = carry_out(workspace, decide(workspace, experiment.name, config, tags), parent)
    return Run(experiment, run_dir.name)


def plan(workspace: Workspace, experiment: str, config: object, tags: object = None) -> dict[str, Any]:
    """What `submit` would do, as plain values; everything is checked, nothing is written."""
    from trainkit.snapshot import listing

    decided = decide(workspace, experiment, config, tags)
    files = listing(decided.source, workspace.root)
    _refuse_left_out(decided, {file.path for file in files.files}, files.left_out)
    snapshot = {"files": len(files.files), "bytes": files.bytes, "left_out": files.left_out}
    return {"experiment": experiment, **decided.record(), "snapshot": snapshot}


def carry_out(workspace: Workspace, decided: Plan, parent: str | None = None) -> Path:
    """The new run's directory, in which its driver is at work."""
    root = workspace.prepare_root()
    run_id = newrun.new_id(decided.experiment)
    final = newrun.experiment_dir(root, decided.experiment) / run_id
    making = final.with_name("." + run_id)
    try:
        make_private(making)
        sweep(making.parent, directories=True)
        _write(workspace, decided, RunDir(making), final, parent)
        os.rename(making, final)
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise ExperimentExecutionException(f"The run could not be recorded in {final}: {error}.") from error
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    try:
        _start(workspace, decided, final)
    except BaseException as error:
        shutil.rmtree(final, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExperimentExecutionException(f"The run's driver could not be started: {error}.") from error
        raise
    return final


def _write(workspace: Workspace, decided: Plan, making: RunDir, final: Path, parent: str | None) -> None:
    """All files of the new run, under its temporary name."""
    from trainkit import __version__, gitinfo

    snapshot = _take_snapshot(workspace, decided, making.code)
    record = newrun.record(
        workspace.root, decided.experiment, final.name, newrun.SUBMITTED, workspace.name, parent, **decided.record()
    )
    record["workspace"].update(subscription_id=workspace.subscription_id, resource_group=workspace.resource_group)
    record["snapshot"] = dataclasses.asdict(snapshot)
    record["git"] = gitinfo.read(decided.source)
    record["trainkit"] = __version__
    publish(making.run, record)
    job = dataclasses.replace(decided.job, run_id=final.name, run_dir=str(final))
    job = dataclasses.replace(job, log_limit_bytes=workspace.config.log_limit_bytes or job.log_limit_bytes)
    target = decided.target
    publish(
        making.job,
        {
            "job": job.to_json(),
            "environment": decided.environment.to_json(),
            "target": {
                "name": target.name,
                "launcher": target.launcher,
                "options": target.options,
                "max_nodes": target.max_nodes,
            },
            "root": str(workspace.root),
        },
    )
    Reserved(making.state).leave()  # room for how the run ends, whatever becomes of the disk


def _take_snapshot(workspace: Workspace, decided: Plan, code: Path) -> Snapshot:
    from trainkit.snapshot import DEFAULT_LIMIT_BYTES, take

    config = workspace.config
    snapshot = take(
        decided.source,
        code,
        workspace.root / "snapshots",
        config.snapshot_limit_bytes or DEFAULT_LIMIT_BYTES,
        config.snapshot_limit_files,
        workspace.root,
    )
    script = decided.entry
    _refuse_left_out(decided, {script} if (code / script).exists() else set(), snapshot.left_out)
    return snapshot


def _refuse_left_out(decided: Plan, files: set[str], left_out: list[str]) -> None:
    """Raises ExperimentExecutionException where the script itself is not in the snapshot."""
    script = decided.entry
    if script and script not in files:
        why = next((line for line in left_out if line.startswith(script)), f"{script}: named by an ignore file")
        raise ExperimentExecutionException(
            f"The script is not in the snapshot of {decided.source} ({why}). Take it out of .amlignore or .gitignore."
        )


def _start(workspace: Workspace, decided: Plan, run_dir: Path) -> None:
    """A place in the target's queue, in the order of submission, and a driver."""
    from trainkit import drivers
    from trainkit.slots import Slots

    slots = Slots(workspace.root / "targets" / decided.target.name, decided.target.max_nodes)
    slots.request(run_dir.name, run_dir, decided.job.nodes)
    try:
        drivers.spawn(run_dir, decided.password)
        drivers.adopt(workspace.root)  # what lost its driver, as by a restart of the machine, goes on too
    except BaseException:
        slots.release(run_dir.name)
        raise


def _refuse_unknown(kwargs: dict[str, Any]) -> None:
    """The old SDK's keyword `show_output` has no effect on submitting; any other one is a mistake."""
    kwargs.pop("show_output", None)
    if kwargs:
        raise UserErrorException(f"submit has no argument {', '.join(kwargs)}; it takes a configuration and tags.")
