"""From a user's configuration to a decided job: everything is checked here, and nothing is written.

`Plan` is what `trainkit.submit` carries out, and what a dry run prints.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit import checks, containers
from trainkit.boot.gpus import Gpu, visible
from trainkit.boot.newrun import check_experiment_name
from trainkit.boot.plugins import SPREADS, found, launcher, load
from trainkit.boot.settings import RESUME_FROM
from trainkit.distributed import MpiConfiguration, PyTorchConfiguration, World, world_of
from trainkit.environments.build import buildable
from trainkit.environmentspec import EnvironmentSpec, variables_checked
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.gpus import Devices, choose
from trainkit.job import Job
from trainkit.lineage import record_of, resume_path
from trainkit.prepare import digest
from trainkit.runconfig import ScriptRunConfig
from trainkit.sources import source_dir

if TYPE_CHECKING:
    from trainkit.compute import Target
    from trainkit.workspace import Workspace

LOOP_MODULE = "trainkit.loops.run"


@dataclass(frozen=True)
class Plan:
    """A job, decided and checked; `job` has no run yet."""

    experiment: str
    source: Path
    job: Job
    world: World
    target: Target
    environment: EnvironmentSpec
    environment_digest: str
    use_gpu: bool | str
    tags: dict[str, str]
    entry: str = ""  # the file in `source` that the job begins with, where there is one
    loop: str | None = None
    resume_from: Path | None = None
    password: str = field(default="", repr=False)  # of the image's registry, where given by value: recorded nowhere

    def record(self) -> dict[str, Any]:
        """What the run's record says about it, as plain values."""
        environment = self.environment.to_json()
        environment["environment_variables"] = sorted(environment["environment_variables"])
        return {
            "target": self.target.name,
            "target_words": self.target.words,
            "script": self.job.script,
            "loop": self.loop,
            "arguments": list(self.job.arguments[1 if self.loop else 0 :]),
            "command": list(self.job.command),
            "nodes": self.job.nodes,
            "ranks_per_node": self.job.ranks_per_node,
            "spread": self.job.spread,
            "backend": self.job.backend,
            "use_gpu": self.use_gpu,
            "devices": self.job.devices,
            "max_run_duration_seconds": self.job.max_seconds or None,
            "max_restarts": self.job.max_restarts,
            "min_nodes": self.job.min_nodes,
            "hang": self.job.hang,
            "grace_seconds": self.job.grace_seconds,
            "resume_from": record_of(self.resume_from),
            "source_directory": str(self.source),
            "environment": {**environment, "digest": self.environment_digest},
            "tags": self.tags,
        }


def script_run_config(config: object) -> ScriptRunConfig:
    """The configuration itself, or an estimator's; raises UserErrorException for anything else."""
    if isinstance(config, ScriptRunConfig):
        return config
    convert = getattr(config, "to_script_run_config", None)
    if convert is None or isinstance(config, type):
        raise UserErrorException(
            f"submit takes a ScriptRunConfig or an estimator (Estimator, PyTorch), not {config!r}."
        )
    converted = convert()
    if not isinstance(converted, ScriptRunConfig):
        raise UserErrorException(f"{type(config).__name__}.to_script_run_config() returned no ScriptRunConfig.")
    return converted


def decide(
    workspace: Workspace, experiment: str, config: object, tags: object = None, gpus: list[Gpu] | None = None
) -> Plan:
    """The plan of a job. Raises the error that says what cannot be; `gpus` are this machine's, if not those found."""
    from trainkit.compute import resolve

    check_experiment_name(experiment)
    asked = script_run_config(config)
    _refuse_later(asked)
    checks.refuse_both(asked.script, asked.command, asked.loop)
    resumed = resume_path(asked.resume_from, workspace.root)
    source = source_dir(asked.source_directory)
    world = world_of(asked.distributed(), asked.run_config.node_count)
    target = resolve(workspace, asked.run_config.target, asked.vm_size)
    checks.refuse_too_many(world, target.max_nodes, target.name, here=not target.several_machines)
    found_gpus = None if target.several_machines else visible() if gpus is None else gpus
    devices = choose(asked.use_gpu, world, found_gpus, _words(target))
    environment = _environment(workspace, asked, target)
    entry = _entry(source, asked, environment)
    job = _job(experiment, entry, asked, world, devices, environment)
    if resumed is not None:
        job = dataclasses.replace(job, environment={**job.environment, RESUME_FROM: str(resumed)})
    return Plan(
        experiment,
        source,
        job,
        world,
        target,
        environment,
        digest(environment),
        asked.use_gpu,
        checks.tags_of(tags),
        entry,
        asked.loop,
        resumed,
        asked.environment.password() if environment.image is not None and environment.image.registry else "",
    )


def _refuse_later(config: ScriptRunConfig) -> None:
    """Raises UnsupportedJob for what was asked and a later version brings, with what to do instead."""
    for name, remedy in config.later.items():
        raise UnsupportedJob(f"{name}= is not possible in this version: {remedy}.")


def _refuse_missing(group: str, kind: str, name: str) -> None:
    """Raises UnsupportedJob where no installed distribution has a launcher or spread of this name."""
    installed = found(group)
    if name not in installed:
        raise UnsupportedJob(f"There is no {kind} named {name!r}; installed are {', '.join(sorted(installed))}.")


def _words(target: Target) -> str:
    return "this machine" if target.name == "local" else target.name


def _environment(workspace: Workspace, config: ScriptRunConfig, target: Target) -> EnvironmentSpec:
    """The environment, frozen, with the run's own variables; refused where nothing here could build or run it."""
    run = config.run_config
    if not isinstance(run.environment_variables, dict):
        variables_checked(run.environment_variables)
    spec = run.environment.spec(run.docker, workspace.config.default_image)
    variables = {**spec.environment_variables, **variables_checked(run.environment_variables)}
    spec = dataclasses.replace(spec, environment_variables=variables)
    if spec.image is not None and getattr(launcher(target.launcher), "runs_images", False):
        return containers.for_cluster(spec, target.name)
    return buildable(workspace, spec)


def _entry(source: Path, config: ScriptRunConfig, environment: EnvironmentSpec) -> str:
    """The file of the source directory that the job begins with; "" for a command, or a loop that is installed."""
    if config.loop is None:
        if config.command is not None:
            return ""
        script = checks.script_in(source, config.script)
        checks.refuse_shadowing(source, script)
        return script
    from trainkit.loops.building import check_build

    words = checks.arguments_of(config.arguments)
    file = check_build(config.loop, source, words, complete=environment.is_plain)
    if file is None:
        return ""
    entry = file.relative_to(source).as_posix()
    if "/" not in entry:
        checks.refuse_shadowing(source, entry)
    return entry


def _job(
    experiment: str, entry: str, config: ScriptRunConfig, world: World, devices: Devices, environment: EnvironmentSpec
) -> Job:
    """The job without a run: script, loop or command, ranks, devices."""
    arguments = checks.arguments_of(config.arguments)
    script, spread, ranks = "", world.spread, world.ranks_per_node
    run = config.run_config
    restarts = checks.restarts_of(run.max_restarts)
    command: tuple[str, ...] = ()
    if config.command is not None:
        if isinstance(config.distributed(), MpiConfiguration):
            raise UnsupportedJob("MpiConfiguration starts the ranks of a script: give script= instead of command=.")
        command = checks.command_of(config.command) + arguments
        arguments, spread, ranks = (), "fork", 1  # the command makes ranks of its own
    elif config.loop is not None:
        arguments = (config.loop, *arguments)
    else:
        script = entry
    gpu_ids = {"TRAINKIT_GPUS": ",".join(devices.ids)} if devices.ids else {}
    _refuse_missing(SPREADS, "spread", spread)
    goes_on = bool(restarts) or (bool(run.min_nodes) and bool(getattr(load(SPREADS, spread), "owns_restarts", False)))
    return Job(
        run_id="",
        experiment=experiment,
        run_dir="",
        attempt=0,
        interpreter="",
        script=script,
        module=LOOP_MODULE if config.loop is not None else "",
        arguments=arguments,
        command=command,
        nodes=world.nodes,
        ranks_per_node=ranks,
        spread=spread,
        backend=devices.backend if world.size > 1 or isinstance(config.distributed(), PyTorchConfiguration) else "",
        gpus_per_node=devices.gpus_per_node,
        devices=devices.words,
        environment={**environment.environment_variables, **gpu_ids},
        max_seconds=checks.seconds_of(run.max_run_duration_seconds),
        grace_seconds=checks.grace_of(run.grace_seconds, bool(restarts) or config.loop is not None),
        max_restarts=restarts,
        hang=checks.hang_of(run.hang),
        preflight=checks.flag_of("preflight", run.preflight),
        min_nodes=checks.min_nodes_of(run.min_nodes, world.nodes, goes_on),
    )
