"""What a driver does between taking a run and queueing it: the environment, its record beside the run, the boot zip.

Writes the run's environment.json and requirements.lock, once each.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.boot.rundir import RunDir, replace
from trainkit.errors import EnvironmentBuildError
from trainkit.job import Job

if TYPE_CHECKING:
    from trainkit.prepare import Prepared


def prepare_run(run: RunDir, root: Path, plan: Mapping[str, Any], travels: bool, password: str = "") -> Prepared:
    """The run's environment, built in the workspace `root` where it is not there yet, and recorded.

    `travels` says that other machines need it too; `password` is that of the image's registry, where it was given by
    value. Raises EnvironmentBuildError.
    """
    from trainkit.environment import EnvironmentSpec
    from trainkit.prepare import prepare

    spec = EnvironmentSpec.from_json(plan["environment"])
    prepared = prepare(spec, root / "envs", run.prepare_log, run.cancel.exists, password, travels)
    record: dict[str, Any] = {"interpreter": prepared.interpreter, "digest": prepared.digest, "words": prepared.words}
    if prepared.container is not None:
        record["container"] = dataclasses.asdict(prepared.container)
        record["bases"] = list(prepared.bases)
    for name, lock, place in (
        ("lock", prepared.lock, run.packages),
        ("conda_lock", prepared.conda_lock, run.conda_packages),
    ):
        if lock:
            record[name] = place.name
            partial = place.with_name(f".{place.name}")
            shutil.copyfile(lock, partial)
            os.replace(partial, place)
    replace(run.environment, record)  # over what a driver that is gone prepared, which may have been another one
    if spec.image is not None and spec.image.registry is not None:
        kind, _, name = spec.image.registry.reference.partition(":")
        if kind == "env":
            os.environ.pop(name, None)  # the password has served: neither cluster nor nodes need to see it
    return prepared


def told(job: Job, prepared: Prepared, root: Path, travels: bool) -> Job:
    """The job with what was prepared. Raises EnvironmentBuildError where that lacks what the job needs."""
    where = prepared.interpreter if prepared.container is None else f"the image {prepared.container.name}"
    if prepared.needs_boot and job.module:
        raise EnvironmentBuildError(
            f"A job with loop= needs the whole of trainkit, but {where} has none of this version: "
            "install it there, or name it in the environment's packages."
        )
    interpreter, engine = prepared.interpreter, ""
    if prepared.container is not None:
        engine = prepared.container.engine
        interpreter = interpreter if engine else prepared.container.interpreter  # without one nodes are containers
    job = dataclasses.replace(job, interpreter=interpreter, container=prepared.container)
    if not prepared.needs_boot and not travels and prepared.container is None:
        return job
    from trainkit.bundle import bundle

    with_spread = travels or prepared.container is not None
    return dataclasses.replace(job, boot=str(bundle(root / "boot", job.spread if with_spread else "", engine)))
