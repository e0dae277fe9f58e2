"""`Estimator`: a script, its parameters, packages and ranks, checked when it is made and before anything is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.condafile import CondaDependencies
from trainkit.deprecation import warn_deprecated
from trainkit.distributed import DistributedConfiguration
from trainkit.docker import ContainerRegistry, DockerConfiguration
from trainkit.environment import Environment
from trainkit.errors import TrainingException
from trainkit.estimators.rules import (
    ALIASES,
    LATER,
    distributed_training,
    one_of,
    refuse_contradictions,
    refuse_counts,
    refuse_target,
)
from trainkit.requirements import check, read_file
from trainkit.runconfig import RunConfiguration, ScriptRunConfig
from trainkit.sources import project_file, source_dir

Text = str | os.PathLike[str]
_DEPRECATED = {  # name: what to say of it
    "distributed_backend": "use distributed_training=MpiConfiguration() or PyTorchConfiguration()",
    "vm_priority": "machines of one's own have no priority",
    "conda_dependencies_file_path": "use conda_dependencies_file",
    "pip_requirements_file_path": "use pip_requirements_file",
}


@dataclass(kw_only=True)
class Estimator:
    """A training script with what it needs; `Experiment.submit` takes it.

    `loop`, instead of `entry_script`, names a function that makes a training loop, as "module:function"; `fit` then
    trains here. `max_restarts`, `min_nodes`, `hang`, `preflight`, `grace_seconds` and `resume_from` are those of
    ScriptRunConfig.

    `script_params` maps flags to values ("" or None for a bare flag). Packages are installed over those of the
    interpreter in use, into a cached environment; with `inherit=False` into one that has nothing else; with
    `custom_docker_image` into an image derived from that one, in whose containers the job runs. `use_docker` is None
    (a container where an image is named), True or False. `use_gpu` is False (GPUs are hidden), True (one for each rank;
    CPU where the target has none) or "required".
    Raises TrainingException where arguments contradict each other, UserErrorException where one is wrong in itself.
    """

    source_directory: Text = field(default=".", kw_only=False)
    compute_target: Any = None
    vm_size: str | None = None
    vm_priority: str | None = None
    entry_script: Text | None = None
    script_params: Mapping[str, Any] | None = None
    node_count: int = 1
    process_count_per_node: int = 1
    distributed_backend: str | None = None
    distributed_training: DistributedConfiguration | None = None
    use_gpu: bool | str = False
    use_docker: bool | None = None
    custom_docker_base_image: str | None = None
    custom_docker_image: str | None = None
    image_registry_details: ContainerRegistry | None = None
    user_managed: bool = False
    conda_packages: Sequence[str] | None = None
    pip_packages: Sequence[str] | None = None
    conda_dependencies_file_path: Text | None = None
    pip_requirements_file_path: Text | None = None
    conda_dependencies_file: Text | None = None
    pip_requirements_file: Text | None = None
    environment_variables: Mapping[str, str] | None = None
    environment_definition: Environment | None = None
    inputs: Sequence[Any] | None = None
    source_directory_data_store: Any = None
    shm_size: str | None = None
    resume_from: Any = None
    max_run_duration_seconds: float | None = None
    loop: str | None = None
    max_restarts: int = 0
    min_nodes: int = 0
    hang: str = "report"
    preflight: bool = True
    grace_seconds: float | None = None
    inherit: bool = True
    run_config: RunConfiguration = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._warn_of_deprecated()
        for name, old in ALIASES.items():
            setattr(self, name, one_of(name, getattr(self, name), old, getattr(self, old)))
        refuse_counts(self.node_count, self.process_count_per_node)
        self._distributed = distributed_training(
            self.distributed_training, self.distributed_backend, self.node_count, self.process_count_per_node
        )
        if self.loop is None or self.compute_target is not None or self.vm_size:  # a loop may be fitted right here
            refuse_target(self.compute_target, self.vm_size, self.node_count)
        refuse_contradictions(self)
        self.run_config = RunConfiguration(
            script=self.entry_script,
            arguments=flattened(self.script_params),
            target=self.compute_target,
            environment=self._environment(),
            node_count=self.node_count,
            max_restarts=self.max_restarts,
            min_nodes=self.min_nodes,
            hang=self.hang,
            preflight=self.preflight,
            grace_seconds=self.grace_seconds,
            docker=DockerConfiguration(use_docker=self.use_docker, shm_size=self.shm_size),
        )
        if self.max_run_duration_seconds is not None:
            self.run_config.max_run_duration_seconds = self.max_run_duration_seconds

    @property
    def conda_dependencies(self) -> CondaDependencies:
        """The packages that the job's environment gets."""
        return self.run_config.environment.python.conda_dependencies

    def to_script_run_config(self) -> ScriptRunConfig:
        """The same job in `Experiment.submit`'s own terms."""
        config = ScriptRunConfig(
            self.source_directory,
            run_config=self.run_config,
            distributed_job_config=self._distributed,
            resume_from=self.resume_from,
            use_gpu=self.use_gpu,
            loop=self.loop,
        )
        config.vm_size = self.vm_size
        config.later = {name: remedy for name, remedy in LATER.items() if getattr(self, name)}
        return config

    def fit(self) -> Any:
        """Fit the loop here: in this process, or as the rank of mpirun or torchrun that it is; what it returns.

        The packages asked for are not installed: what is here is used. Raises TrainingException where there is no loop,
        or where another number of ranks was asked for than there are; UserErrorException where the loop's name or
        `script_params` are wrong.
        """
        from trainkit.boot.settings import resuming_from
        from trainkit.boot.worlds import here
        from trainkit.checks import arguments_of
        from trainkit.distributed import world_of
        from trainkit.lineage import resume_path
        from trainkit.loops.run import fit

        if self.loop is None:
            raise TrainingException("fit() is for an estimator with loop='module:function'; submit a script as a job.")
        asked, found = world_of(self._distributed, self.node_count).size, here().rank.world_size
        if asked > 1 and asked != found:
            raise TrainingException(
                f"{asked} ranks were asked for, but this process is one of {found}: start it with `mpirun -np {asked}` "
                "or torchrun, or submit the estimator to an experiment."
            )
        words = arguments_of(flattened(self.script_params), "script_params")
        with resuming_from(resume_path(self.resume_from)):
            return fit(self.loop, source_dir(self.source_directory), words)

    def _environment(self) -> Environment:
        """The environment given, or one of the packages given. Files are read now."""
        if self.environment_definition is not None:
            return self.environment_definition
        environment = Environment("estimator", environment_variables=self.environment_variables, inherit=self.inherit)
        environment.python.user_managed_dependencies = self.user_managed
        environment.docker.base_image = self.custom_docker_image
        if self.image_registry_details is not None:
            environment.docker.base_image_registry = self.image_registry_details
        if self.conda_dependencies_file is not None:
            path = project_file(self.source_directory, self.conda_dependencies_file, "conda dependencies file")
            environment.python.conda_dependencies = CondaDependencies(path)
            return environment
        pip = list(check(self.pip_packages or ()))
        if self.pip_requirements_file is not None:
            path = project_file(self.source_directory, self.pip_requirements_file, "pip requirements file")
            pip += read_file(Path(path))
        environment.python.conda_dependencies = CondaDependencies.create(
            pip_packages=pip, conda_packages=self.conda_packages
        )
        return environment

    def _warn_of_deprecated(self) -> None:
        """One warning for all arguments that have no effect any more, or another name."""
        values = {name: getattr(self, name) for name in _DEPRECATED}
        words = [f"{name} ({_DEPRECATED[name]})" for name, value in values.items() if value is not None]
        if words:
            warn_deprecated(f"Deprecated arguments: {'; '.join(words)}.")


def flattened(script_params: Mapping[str, Any] | None) -> list[Any]:
    """`{"--flag": "", "--n": 1}` as `["--flag", "--n", 1]`; raises TrainingException for anything but a dictionary."""
    if script_params is None:
        return []
    if not isinstance(script_params, Mapping):
        raise TrainingException(f"script_params is a dictionary of flags and values, not {script_params!r}.")
    words: list[Any] = []
    for flag, value in script_params.items():
        if not isinstance(flag, str) or not flag:
            raise TrainingException(f"script_params has flags as keys, such as '--epochs', but {flag!r} is none.")
        words.append(flag)
        if value is not None and not (isinstance(value, str) and value == ""):
            words.append(value)
    return words
