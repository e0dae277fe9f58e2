"""How one node becomes ranks: the configurations that name a spread, and the number of nodes and ranks.

`MpiConfiguration` and `PyTorchConfiguration` are the Azure ML SDK's; `SpreadConfiguration` names any spread that is
installed, also another distribution's.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainkit.errors import RunConfigurationException


@dataclass(slots=True)
class MpiConfiguration:
    """Ranks started by mpirun, `process_count_per_node` on each of `node_count` nodes."""

    process_count_per_node: int = 1
    node_count: int = 1

    @property
    def spread(self) -> str:
        """The spread's name."""
        return "mpi"


@dataclass(slots=True)
class PyTorchConfiguration:
    """Ranks started by torchrun: `process_count` in total, by default one a node.

    `communication_backend` is "Nccl" or "Gloo"; None is Nccl where the job has GPUs, else Gloo. Raises
    RunConfigurationException for another one.
    """

    communication_backend: str | None = None
    process_count: int | None = None
    node_count: int = 1

    def __post_init__(self) -> None:
        self.check_backend()

    @property
    def spread(self) -> str:
        """The spread's name."""
        return "torchrun"

    def check_backend(self) -> str:
        """The backend as torch.distributed names it, or ""."""
        backend = self.communication_backend
        if backend is not None and str(backend).lower() not in ("nccl", "gloo"):
            raise RunConfigurationException(
                f"{backend} is not a supported backend. 'communication_backend' must be 'Nccl' or 'Gloo'."
            )
        return str(backend or "").lower()


@dataclass(slots=True)
class SpreadConfiguration:
    """Ranks started by the installed spread of this name: "fork", "torchrun", "mpi", or another distribution's."""

    spread: str = "fork"
    process_count_per_node: int = 1
    node_count: int = 1


DistributedConfiguration = MpiConfiguration | PyTorchConfiguration | SpreadConfiguration


def check_distributed(value: object, argument: str) -> None:
    """Raises RunConfigurationException unless `value` is a configuration of this module, or None."""
    if value is not None and not isinstance(value, (MpiConfiguration, PyTorchConfiguration, SpreadConfiguration)):
        hint = f": write {value.__name__}()" if isinstance(value, type) else f", not {type(value).__name__}"
        raise RunConfigurationException(
            f"'{argument}' must be an MpiConfiguration, PyTorchConfiguration or SpreadConfiguration object{hint}."
        )


@dataclass(frozen=True)
class World:
    """How many nodes and ranks a job has, started how; checked."""

    spread: str = "fork"
    nodes: int = 1
    ranks_per_node: int = 1
    backend: str = ""  # asked for: "nccl", "gloo", or "" for whatever fits

    @property
    def size(self) -> int:
        """Ranks in total."""
        return self.nodes * self.ranks_per_node


MOST_NODES = 4096
MOST_RANKS_PER_NODE = 1024


def count(value: object, name: str, most: int) -> int:
    """A whole number from 1 to `most`; raises RunConfigurationException naming the setting."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RunConfigurationException(f"{name} is a whole number, not {value!r}.")
    if not 1 <= value <= most:
        raise RunConfigurationException(f"{name} is at least 1 and at most {most:,}, not {value:,}.")
    return value


def world_of(configuration: DistributedConfiguration | None, node_count: int = 1) -> World:
    """The world that a configuration describes. `node_count` is the run configuration's own, which must not differ.

    Raises RunConfigurationException where counts are no positive numbers, contradict each other, or do not divide.
    """
    nodes = count(node_count, "node_count", MOST_NODES)
    if configuration is None:
        if nodes > 1:
            raise RunConfigurationException(
                f"node_count is {nodes}, but nothing says how its ranks are started: add "
                f"distributed_job_config=MpiConfiguration(node_count={nodes}) or PyTorchConfiguration(...)."
            )
        return World()
    own = count(configuration.node_count, "node_count", MOST_NODES)
    if 1 not in (own, nodes) and own != nodes:
        raise RunConfigurationException(
            f"node_count is given as {nodes} and, in {type(configuration).__name__}, as {own}."
        )
    nodes = max(own, nodes)
    if isinstance(configuration, PyTorchConfiguration):
        backend = configuration.check_backend()
        if configuration.process_count is None:
            return World("torchrun", nodes, 1, backend)
        total = count(configuration.process_count, "process_count", MOST_NODES * MOST_RANKS_PER_NODE)
        if total % nodes:
            raise RunConfigurationException(
                f"process_count counts all processes: {total} cannot be shared equally by {nodes} nodes. Ask for "
                f"{max(1, total // nodes) * nodes} or {(total // nodes + 1) * nodes}."
            )
        ranks = count(total // nodes, "the number of processes on a node", MOST_RANKS_PER_NODE)
        return World("torchrun", nodes, ranks, backend)
    ranks = count(configuration.process_count_per_node, "process_count_per_node", MOST_RANKS_PER_NODE)
    if not isinstance(configuration.spread, str) or not configuration.spread:
        raise RunConfigurationException(f"A spread has a name, such as 'fork', not {configuration.spread!r}.")
    return World(configuration.spread, nodes, ranks)
