"""What every compute target has, whether it was created or attached: a record, a queue, nodes in use, an end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainkit.errors import ComputeTargetException
from trainkit.provisioning import AmlComputeStatus
from trainkit.slots import Slots
from trainkit.targets import Target, record_file

if TYPE_CHECKING:
    from trainkit.run import Run
    from trainkit.workspace import Workspace

Records = list[dict[str, Any]]


class TargetState:
    """A compute target of a workspace, as its record and its tickets say."""

    type = ""
    slots: Slots
    _tags: Mapping[str, str]
    _description: str

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = name
        self._deleted = False
        self.refresh_state()

    def refresh_state(self) -> None:
        """Read the target's record again. Raises ComputeTargetException where it is gone."""
        raise NotImplementedError

    def get_status(self) -> AmlComputeStatus:
        """The target's state now; always answers, for a deleted one too."""
        raise NotImplementedError

    def resolved(self) -> Target:
        """Where a job on this target runs. Raises UserErrorException where its launcher cannot be had."""
        raise NotImplementedError

    @property
    def max_nodes(self) -> int | None:
        """The most nodes in use at once; None where the cluster decides."""
        raise NotImplementedError

    @property
    def provisioning_state(self) -> str:
        """ "Succeeded", until it is deleted or detached."""
        return self.get_status().provisioning_state

    @property
    def provisioning_errors(self) -> None:
        """Nothing is provisioned, so nothing fails."""
        return None

    def wait_for_completion(
        self,
        show_output: bool = False,
        min_node_count: int | None = None,
        timeout_in_minutes: float = 25,
        is_delete_operation: bool = False,
    ) -> None:
        """Return at once: a target is ready when it is described, and gone when it is deleted.

        Raises ComputeTargetException for a `min_node_count` that the target can never have.
        """
        if min_node_count is not None and self.max_nodes is not None and min_node_count > self.max_nodes:
            raise ComputeTargetException(
                f"{self.name} never has {min_node_count} nodes: its max_nodes is {self.max_nodes}."
            )
        if show_output:
            print(self.provisioning_state)
            print(f"{self.type} wait for completion finished")
            if not is_delete_operation:
                print("Minimum number of nodes requested have been provisioned")

    def serialize(self) -> dict[str, Any]:
        """The target as plain values."""
        return {"name": self.name, "type": self.type, "tags": self.tags, "description": self.description,
                "properties": self.get_status().serialize()}  # fmt: skip

    @property
    def tags(self) -> dict[str, str]:
        """Given when it was made."""
        return dict(self._tags)

    @property
    def description(self) -> str:
        """Given when it was made."""
        return self._description

    def delete(self) -> None:
        """Forget a target that was created. Raises UserErrorException while runs hold its nodes or wait for them."""
        self._forget()

    def detach(self) -> None:
        """Forget a target that was attached; its cluster stays. Raises UserErrorException while it has runs."""
        self._forget()

    def _forget(self) -> None:
        self.slots.close()
        record_file(self.workspace, self.name).unlink(missing_ok=True)
        self._deleted = True

    def list_nodes(self) -> Records:
        """The nodes in use, and the run that each of them works for."""
        nodes: Records = []
        for ticket in self.slots.tickets():
            if ticket.granted:
                for number in range(ticket.nodes):
                    node = f"{ticket.run_id}-{number}"
                    nodes.append({"nodeId": node, "nodeState": "running", "runId": ticket.run_id})
        return nodes

    def get_active_runs(self) -> Iterator[Run]:
        """Runs that hold nodes of the target or wait for them, oldest first."""
        from trainkit.run import Run

        for ticket in self.slots.tickets():
            yield Run.get(self.workspace, ticket.run_id)
