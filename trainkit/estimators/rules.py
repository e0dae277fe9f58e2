"""What an estimator's arguments must not say: pure checks, made before anything is read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainkit.distributed import (
    DistributedConfiguration,
    MpiConfiguration,
    PyTorchConfiguration,
    SpreadConfiguration,
    check_distributed,
)
from trainkit.docker import ContainerRegistry
from trainkit.errors import RunConfigurationException, TrainingException, UserErrorException

if TYPE_CHECKING:
    from trainkit.estimators.estimator import Estimator

BACKENDS = ["mpi", "gloo", "nccl"]
LATER = {  # arguments of later versions, refused at submit: what to do instead
    "inputs": "data sets come in a later version: give the script the data's path in script_params",
    "source_directory_data_store": "data stores come in a later version: the snapshot is kept in the workspace",
}
ALIASES = {  # today's names of arguments, and their older ones
    "conda_dependencies_file": "conda_dependencies_file_path",
    "pip_requirements_file": "pip_requirements_file_path",
    "custom_docker_image": "custom_docker_base_image",
}
_OF_ENVIRONMENT = ("custom_docker_image", "image_registry_details", "environment_variables")
_PACKAGES = ("conda_packages", "conda_dependencies_file", "pip_packages", "pip_requirements_file")


def one_of(name: str, value: Any, old: str, old_value: Any) -> Any:
    """The value under either name; raises TrainingException where both are given."""
    if value is not None and old_value is not None:
        raise TrainingException(f"{old} is the old name of {name}; give only the latter.")
    return old_value if value is None else value


def refuse_counts(node_count: object, process_count_per_node: object) -> None:
    """Raises TrainingException unless both are whole numbers of at least 1."""
    for value, name in ((node_count, "Node count"), (process_count_per_node, "Process count per node")):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TrainingException(f"{name} should be a whole number, not {value!r}.")
        if value < 1:
            raise TrainingException(f"{name} should be at least 1.")


def distributed_training(
    configuration: DistributedConfiguration | None, backend: object, nodes: int, ranks: int
) -> DistributedConfiguration | None:
    """One configuration with the counts of the estimator; None for a single process. Raises TrainingException."""
    if backend is not None:
        if not isinstance(backend, str) or backend.lower() not in BACKENDS:
            raise TrainingException(
                f"Unsupported distributed backend value: {backend}. Supported backend(s): {BACKENDS}."
            )
        if configuration is not None:
            raise TrainingException(
                "'distributed_backend' and 'distributed_training' say the same thing; keep the latter."
            )
        name = backend.lower()
        configuration = MpiConfiguration() if name == "mpi" else PyTorchConfiguration(name.capitalize())
    if configuration is None:
        if nodes > 1 or ranks > 1:
            raise TrainingException(
                "'distributed_backend' or 'distributed_training' must be specified when node_count > 1 or "
                "process_count_per_node > 1."
            )
        return None
    try:
        check_distributed(configuration, "distributed_training")
    except RunConfigurationException as e:
        raise TrainingException(e.message) from e
    nodes = _one_of(nodes, configuration.node_count, "node_count")
    if isinstance(configuration, PyTorchConfiguration):
        total = configuration.process_count
        if total is not None and ranks > 1 and total != nodes * ranks:
            raise TrainingException(
                f"process_count={total} of PyTorchConfiguration counts all processes, but node_count x "
                f"process_count_per_node is {nodes * ranks}; give one of the two."
            )
        return PyTorchConfiguration(configuration.communication_backend, total or nodes * ranks, nodes)
    ranks = _one_of(ranks, configuration.process_count_per_node, "process_count_per_node")
    if isinstance(configuration, MpiConfiguration):
        return MpiConfiguration(ranks, nodes)
    return SpreadConfiguration(configuration.spread, ranks, nodes)


def _one_of(argument: int, configured: int, name: str) -> int:
    """The count that is not the default, where two places may give it."""
    if 1 not in (argument, configured) and argument != configured:
        raise TrainingException(f"{name} is given twice, as {argument} and as {configured} in distributed_training.")
    return configured if argument == 1 else argument


def refuse_target(target: Any, vm_size: object, node_count: int) -> None:
    """Raises TrainingException where nothing, or something that is no target, says where to run."""
    from trainkit.compute import ComputeTarget

    if target is None and not vm_size:
        raise TrainingException(
            "Either compute target or VM size should be specified. compute_target='local' is this machine."
        )
    if node_count > 1 and target is not None and not isinstance(target, (str, ComputeTarget)):
        raise TrainingException(
            "Compute target should be AmlCompute or KubernetesCompute for distributed training (node_count > 1)."
        )


def refuse_contradictions(estimator: Estimator) -> None:
    """Raises TrainingException or UserErrorException where arguments about the environment exclude each other."""
    e = estimator
    if e.loop is not None and e.entry_script is not None:
        raise TrainingException("'entry_script' and 'loop' both say what the job runs; give one of the two.")
    _refuse_containers(e)
    packages = [name for name in _PACKAGES if getattr(e, name)]
    if e.environment_definition is not None:
        others = [*packages, *(n for n in _OF_ENVIRONMENT if getattr(e, n))]
        others += [n for n, given in (("user_managed", e.user_managed), ("inherit", not e.inherit)) if given]
        if others:
            raise TrainingException(
                f"environment_definition describes the whole environment: {', '.join(others)} cannot be given "
                "beside it."
            )
    if e.user_managed and packages:
        raise UserErrorException(
            "If user_managed is True, then conda_packages, conda_dependencies_file, pip_packages or "
            "pip_requirements_file cannot be specified."
        )
    if e.conda_dependencies_file and len(packages) > 1:
        raise TrainingException(
            "If conda_dependencies_file is specified, then conda_packages, pip_packages or pip_requirements_file "
            "cannot be specified: add them to the file."
        )
    if e.use_gpu not in (True, False, "required"):
        raise TrainingException(f"use_gpu is True, False or 'required', not {e.use_gpu!r}.")


def _refuse_containers(estimator: Estimator) -> None:
    """Raises TrainingException where arguments about the image are of a wrong kind, or exclude each other."""
    e = estimator
    if e.use_docker not in (None, True, False):
        raise TrainingException(f"use_docker is True, False or None, not {e.use_docker!r}.")
    if e.use_docker is False and e.custom_docker_image:
        raise TrainingException(
            "If use_docker parameter is set to false, custom_docker_image parameter is not allowed."
        )
    if e.custom_docker_image is not None and not isinstance(e.custom_docker_image, str):
        raise TrainingException(f"custom_docker_image is the name of an image, not {e.custom_docker_image!r}.")
    if e.image_registry_details is not None and not isinstance(e.image_registry_details, ContainerRegistry):
        raise TrainingException(
            f"image_registry_details is a ContainerRegistry, not of {type(e.image_registry_details).__name__}."
        )
