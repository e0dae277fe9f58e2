"""What a compute target is to be, and what it is at a moment: the values behind `trainkit.compute`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainkit.errors import ComputeTargetException
from trainkit.slots import Ticket

MOST_NODES = 10_000
_PRIORITIES = ("dedicated", "lowpriority")
_STATES = ("preparing", "running", "idle", "unusable", "leaving", "preempted")


@dataclass(frozen=True)
class ProvisioningConfiguration:
    """A description of a compute target; made by `AmlCompute.provisioning_configuration`."""

    vm_size: str = ""
    vm_priority: str = "dedicated"
    min_nodes: int = 0
    max_nodes: int = 1
    idle_seconds_before_scaledown: int = 1800
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    @property
    def scale(self) -> tuple[str, str, int, int, int]:
        """What makes two descriptions the same target: all but words for people."""
        priority = self.vm_priority.lower()
        return self.vm_size.lower(), priority, self.min_nodes, self.max_nodes, self.idle_seconds_before_scaledown

    @property
    def words(self) -> str:
        """What counts of it, for people."""
        names = ("vm_size", "vm_priority", "min_nodes", "max_nodes", "idle_seconds_before_scaledown")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def validate_configuration(self) -> None:
        """Raise ComputeTargetException where a value is impossible."""
        limits = {
            "max_nodes": (1, MOST_NODES),
            "min_nodes": (0, MOST_NODES),
            "idle_seconds_before_scaledown": (0, 10**9),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise _invalid(f"{name} is {value!r}; it is a whole number from {least} to {most}")
        if self.max_nodes < self.min_nodes:
            raise _invalid(
                f"max nodes count must be greater than or equal to min nodes count, but {self.max_nodes} is less than "
                f"{self.min_nodes}"
            )
        if not isinstance(self.vm_size, str) or len(self.vm_size) > 200:
            raise _invalid(
                f"vm_size is {self.vm_size!r}; it is a name, which config.json may map to a launcher, or empty for "
                f"this machine"
            )
        if not isinstance(self.vm_priority, str) or self.vm_priority.lower() not in _PRIORITIES:
            raise _invalid(f"vm_priority is {self.vm_priority!r}; it is one of {', '.join(map(repr, _PRIORITIES))}")
        if not isinstance(self.description, str) or not isinstance(self.tags, Mapping):
            raise _invalid("description is a text and tags are a dict")


def _invalid(words: str) -> ComputeTargetException:
    return ComputeTargetException(f"Invalid provisioning configuration, {words}.")


def require_max_nodes(max_nodes: int | None) -> int:
    """`max_nodes`, which has no default. Raises ComputeTargetException where it is None."""
    if max_nodes is None:
        raise _invalid("max nodes count is mandatory: give max_nodes=, the most nodes that may be in use at once")
    return max_nodes


class AmlComputeStatus:
    """A compute target's state at one moment."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.current_node_count: int = values["currentNodeCount"]
        self.target_node_count: int = values["targetNodeCount"]
        self.node_state_counts: dict[str, int] = values["nodeStateCounts"]
        self.allocation_state: str = values["allocationState"]
        self.errors: Any = values["errors"]
        self.provisioning_state: str = values["provisioningState"]
        self.scale_settings: dict[str, Any] = values["scaleSettings"]
        self.vm_priority: str = values["vmPriority"]
        self.vm_size: str = values["vmSize"]

    def serialize(self) -> dict[str, Any]:
        """As plain values, under the names of the Azure ML SDK v1."""
        return dict(self._values)


def status_of(
    configuration: ProvisioningConfiguration, tickets: Sequence[Ticket], created: str, modified: str, deleted: bool
) -> AmlComputeStatus:
    """A target's state: its nodes are those that runs hold, and idle ones up to the least that it keeps."""
    running = sum(ticket.nodes for ticket in tickets if ticket.granted)
    wanted = sum(ticket.nodes for ticket in tickets)
    current = max(running, configuration.min_nodes)
    target = max(current, min(wanted, configuration.max_nodes))
    counts = dict.fromkeys((f"{state}NodeCount" for state in _STATES), 0)
    counts.update(runningNodeCount=running, idleNodeCount=current - running)
    return AmlComputeStatus(
        {
            "currentNodeCount": current,
            "targetNodeCount": target,
            "nodeStateCounts": counts,
            "allocationState": "Steady" if current == target else "Resizing",
            "allocationStateTransitionTime": modified,
            "errors": None,
            "creationTime": created,
            "modifiedTime": modified,
            "provisioningState": "Deleting" if deleted else "Succeeded",
            "provisioningStateTransitionTime": modified,
            "scaleSettings": {
                "minNodeCount": configuration.min_nodes,
                "maxNodeCount": configuration.max_nodes,
                "nodeIdleTimeBeforeScaleDown": f"PT{configuration.idle_seconds_before_scaledown}S",
            },
            "vmPriority": {"lowpriority": "LowPriority"}.get(configuration.vm_priority.lower(), "Dedicated"),
            "vmSize": configuration.vm_size,
        }
    )
