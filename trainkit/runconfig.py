"""What a run is to be: `ScriptRunConfig` and `RunConfiguration`, as the Azure ML SDK v1 names them.

Users change these objects step by step; `trainkit.submit` checks them and freezes them once. Attributes that do not
exist cannot be set, so that a slip of the pen is an error and not a setting that nobody reads.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

from trainkit.condafile import CondaDependencies
from trainkit.distributed import (
    DistributedConfiguration,
    MpiConfiguration,
    PyTorchConfiguration,
    SpreadConfiguration,
    check_distributed,
)
from trainkit.docker import DockerConfiguration
from trainkit.environment import Environment
from trainkit.errors import RunConfigurationException

__all__ = [
    "DockerConfiguration",
    "MpiConfiguration",
    "PyTorchConfiguration",
    "RunConfiguration",
    "ScriptRunConfig",
    "SpreadConfiguration",
]

MAX_RUN_SECONDS = 30 * 24 * 3600  # where nothing else is asked for
Text = str | os.PathLike[str]


@dataclass(slots=True)
class RunConfiguration:
    """How a run is carried out: script, target, environment and ranks; one may serve several runs."""

    script: Text | None = None
    arguments: Sequence[Any] | str = ()
    command: Sequence[Any] | str | None = None
    target: Any = None
    environment: Environment = field(default_factory=lambda: Environment("default"))
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    node_count: int = 1
    mpi: MpiConfiguration = field(default_factory=MpiConfiguration)
    pytorch: PyTorchConfiguration = field(default_factory=PyTorchConfiguration)
    communicator: str | None = None  # "Mpi", "Nccl" or "Gloo" read `mpi` and `pytorch`; None does not
    framework: str | None = None
    max_run_duration_seconds: float | None = MAX_RUN_SECONDS
    max_restarts: int = 0
    min_nodes: int = 0  # a restart may go on with so many nodes where no more are left; 0: with all of them
    hang: str = "report"  # what a rank that holds the others up brings about: "report", or "end" of the job
    preflight: bool = True  # nodes of several machines compare notes before the ranks start
    grace_seconds: float | None = None  # None: 30 where the job may go on later (a loop, restarts), else 4
    docker: DockerConfiguration = field(default_factory=DockerConfiguration)
    auto_prepare_environment: bool = True  # of old scripts: without effect, as is the next
    prepare_environment: bool = True
    conda_dependencies: InitVar[CondaDependencies | None] = None  # those of `environment`, in one word

    def __post_init__(self, conda_dependencies: CondaDependencies | None) -> None:
        if isinstance(conda_dependencies, CondaDependencies):
            self.environment.python.conda_dependencies = conda_dependencies

    def distributed(self) -> DistributedConfiguration | None:
        """The configuration that `communicator` chooses; raises RunConfigurationException for an unknown one."""
        name = str(self.communicator or "none").lower()
        if name == "none":
            return None
        if name in ("mpi", "intelmpi", "openmpi"):
            return self.mpi
        if name in ("nccl", "gloo"):
            return PyTorchConfiguration(name.capitalize(), self.pytorch.process_count, self.pytorch.node_count)
        raise RunConfigurationException(
            f"communicator {self.communicator!r} is not known; possible are 'Mpi', 'Nccl', 'Gloo' and None."
        )


@dataclass(slots=True, init=False)
class ScriptRunConfig:
    """A script with its arguments, and where, on what and as how many ranks it is to run.

    `arguments` are given to the script as texts; `$NAME` in them is replaced in the job, in each rank, by the
    environment variable. `command`, instead of a script, is run once on each node. `loop`, instead of a script, is
    "module:function", whose function makes a training loop of `arguments` such as `--lr 0.1`.

    A job whose ranks fail, are killed, or ask for it by exit code 75 is started again up to `max_restarts` times, also
    on fewer nodes where some were lost, but at least `min_nodes` (0: all). When it is asked to end it has
    `grace_seconds` for that. `resume_from` is a run, its directory, a folder of checkpoints or one of them, which loops
    go on from and scripts find in TRAINKIT_RESUME_FROM. `use_gpu` is True (GPUs where the target has them, one a rank),
    False (GPUs are hidden) or "required". A rank that holds the others up is reported with its stacks (`hang="report"`)
    or ends the job (`hang="end"`). On several machines the nodes are compared before the ranks start, unless
    `preflight` is False. Files are checked at submit.
    Raises RunConfigurationException where `distributed_job_config` is of another type.
    """

    source_directory: Text
    script: Text | None
    arguments: Sequence[Any] | str
    command: Sequence[Any] | str | None
    run_config: RunConfiguration
    distributed_job_config: DistributedConfiguration | None
    use_gpu: bool | str
    resume_from: object
    loop: str | None
    vm_size: str | None  # in place of a target: machines that config.json names
    later: dict[str, str]  # what was asked for that a later version brings: refused at submit

    def __init__(
        self,
        source_directory: Text = ".",
        script: Text | None = None,
        arguments: Sequence[Any] | str | None = None,
        run_config: RunConfiguration | None = None,
        compute_target: Any = None,
        environment: Environment | None = None,
        distributed_job_config: DistributedConfiguration | None = None,
        resume_from: object = None,
        max_run_duration_seconds: float | None = None,
        command: Sequence[Any] | str | None = None,
        docker_runtime_config: DockerConfiguration | None = None,
        *,
        use_gpu: bool | str = True,
        loop: str | None = None,
        max_restarts: int | None = None,
        min_nodes: int | None = None,
        grace_seconds: float | None = None,
        hang: str | None = None,
        preflight: bool | None = None,
    ) -> None:
        run = run_config if run_config is not None else RunConfiguration()
        _check_type(run, RunConfiguration, "run_config")
        check_distributed(distributed_job_config, "distributed_job_config")
        changes: dict[str, Any] = {
            "target": compute_target,
            "environment": environment,
            "max_run_duration_seconds": max_run_duration_seconds,
            "docker": docker_runtime_config,
            "max_restarts": max_restarts,
            "min_nodes": min_nodes,
            "hang": hang,
            "preflight": preflight,
            "grace_seconds": grace_seconds,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        _check_type(changes.get("environment", run.environment), Environment, "environment")
        _check_type(changes.get("docker", run.docker), DockerConfiguration, "docker_runtime_config")
        self.run_config = dataclasses.replace(run, **changes) if changes else run
        self.source_directory = source_directory
        self.script = script if script is not None else run.script
        self.arguments = arguments if arguments is not None else run.arguments
        self.command = command if command is not None else run.command
        self.distributed_job_config = distributed_job_config
        self.use_gpu = use_gpu
        self.resume_from = resume_from
        self.loop = loop
        self.vm_size = None
        self.later = {}

    @property
    def environment(self) -> Environment:
        """The run's environment; the same object as `run_config.environment`."""
        return self.run_config.environment

    @environment.setter
    def environment(self, value: Environment) -> None:
        self.run_config.environment = value

    @property
    def compute_target(self) -> Any:
        """Where to run; the same as `run_config.target`."""
        return self.run_config.target

    @compute_target.setter
    def compute_target(self, value: Any) -> None:
        self.run_config.target = value

    def distributed(self) -> DistributedConfiguration | None:
        """How nodes become ranks, as configured here or in the run configuration; None for one process."""
        return self.distributed_job_config or self.run_config.distributed()


def _check_type(value: object, wanted: type, argument: str) -> None:
    if not isinstance(value, wanted):
        raise RunConfigurationException(
            f"'{argument}' must be an object of {wanted.__name__}, not of {type(value).__name__}."
        )
