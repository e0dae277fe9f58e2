"""Clusters that exist already, as compute targets: a launcher's name and fields, and how many nodes may be in use."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from trainkit.boot import rundir
from trainkit.compute import ComputeTarget
from trainkit.errors import ComputeTargetException, WorkspaceException
from trainkit.options import changed, entry_point_of, launcher_of, options_of, pairs_of, several_machines
from trainkit.provisioning import MOST_NODES, AmlComputeStatus, ProvisioningConfiguration, status_of
from trainkit.slots import Slots
from trainkit.targets import Target, check_name, is_attached, publish_record, read_record, record_file

if TYPE_CHECKING:
    from trainkit.job import Launcher
    from trainkit.workspace import Workspace


class AttachedCompute(ComputeTarget):
    """A cluster that jobs reach through a launcher; `max_nodes` is None where the cluster decides how many run."""

    type = "Attached"

    def refresh_state(self) -> None:
        """Read the target's record again. Raises ComputeTargetException where it was detached."""
        values = read_record(self.workspace, self.name)
        if not is_attached(values):
            raise ComputeTargetException(f"{self.name} was created, not attached: use ComputeTarget(workspace, name).")
        try:
            self.launcher_name = str(values["launcher"])
            self.options = dict(values["options"])
            self._max_nodes = _checked(values["max_nodes"])
            self.created_on, self.modified_on = str(values["created"]), str(values["modified"])
            self._tags, self._description = dict(values["tags"]), str(values["description"])
        except (KeyError, TypeError, ValueError) as error:
            file = record_file(self.workspace, self.name)
            raise WorkspaceException(
                f"{file} is damaged ({error!r}). Delete it and attach the cluster anew."
            ) from error
        self.slots = Slots(self.workspace.root / "targets" / self.name, self._max_nodes)

    @property
    def max_nodes(self) -> int | None:
        """The most nodes in use at once; None where the cluster decides."""
        return self._max_nodes

    @property
    def launcher(self) -> Launcher:
        """The launcher that reaches the cluster. Raises UserErrorException where it cannot be had any more."""
        return launcher_of(self.launcher_name, self.options)

    @property
    def words(self) -> str:
        """How the cluster is reached, for people: the launcher, what was chosen of it, and the limit."""
        chosen = pairs_of(changed(self.launcher_name, self.options))
        limit = f", at most {self.max_nodes} nodes at once" if self.max_nodes is not None else ""
        return f"the launcher {self.launcher_name!r}{f' ({chosen})' if chosen else ''}{limit}"

    def resolved(self) -> Target:
        """Where a job on this target runs. Raises UserErrorException where its launcher cannot be had."""
        several = several_machines(self.launcher)
        words = f"{self.name}: {self.words}"
        return Target(self.name, self.launcher_name, dict(self.options), self.max_nodes, "", words, several)

    def get_status(self) -> AmlComputeStatus:
        """The target's state now; always answers, for a detached one too."""
        scale = ProvisioningConfiguration(max_nodes=self.max_nodes or MOST_NODES)
        found = status_of(scale, self.slots.tickets(), self.created_on, self.modified_on, self._deleted).serialize()
        return AmlComputeStatus({**found, "scaleSettings": {**found["scaleSettings"], "maxNodeCount": self.max_nodes}})

    def serialize(self) -> dict[str, Any]:
        """The target as plain values."""
        reached = {"launcher": self.launcher_name, "options": dict(self.options), "maxNodes": self.max_nodes}
        return {**super().serialize(), **reached}

    def update(self, max_nodes: int) -> None:
        """Change the limit, for runs that wait too. Raises ComputeTargetException, UserErrorException."""
        self.refresh_state()
        self.slots.set_limit(_checked(max_nodes) or 0)
        values = read_record(self.workspace, self.name)
        now = datetime.now(timezone.utc).isoformat()
        rundir.replace(record_file(self.workspace, self.name), {**values, "modified": now, "max_nodes": max_nodes})
        self.refresh_state()

    def delete(self) -> NoReturn:
        """Raises ComputeTargetException: this kind of target is detached."""
        raise ComputeTargetException(f"{self.name} cannot be deleted, because it was attached; use detach().")

    def __repr__(self) -> str:
        return f"AttachedCompute(workspace={self.workspace!r}, name={self.name!r}, launcher={self.launcher_name!r})"


def attach(
    workspace: Workspace, name: str, launcher: object, max_nodes: int | None, tags: dict[str, str], description: str
) -> AttachedCompute:
    """What `ComputeTarget.attach` does."""
    check_name(name)
    if isinstance(launcher, ProvisioningConfiguration):
        raise ComputeTargetException(
            "ComputeTarget.attach takes the launcher that reaches a cluster; a provisioning configuration is given to "
            "ComputeTarget.create."
        )
    entry_point, options = entry_point_of(launcher), options_of(launcher)
    again = options_of(launcher_of(entry_point, options))
    if again != options:
        lost = ", ".join(key for key in options if again.get(key) != options[key])
        raise ComputeTargetException(f"{launcher!r} cannot be recorded: {lost} would be another after that.")
    values = {"launcher": entry_point, "options": options, "max_nodes": _checked(max_nodes)}
    new = publish_record(workspace, name, {**values, "tags": tags, "description": description})
    record = read_record(workspace, name)
    if not new and {key: record.get(key) for key in values} != values:
        raise ComputeTargetException(
            f"The compute target {name} exists, but not as asked. Use it with ComputeTarget(workspace, {name!r}), or "
            f"{'detach' if is_attached(record) else 'delete'}() it first."
        )
    target = AttachedCompute(workspace, name)
    if new and max_nodes is not None:
        target.slots.set_limit(max_nodes)
    return target


def _checked(max_nodes: Any) -> int | None:
    if max_nodes is None:
        return None
    if isinstance(max_nodes, bool) or not isinstance(max_nodes, int) or not 1 <= max_nodes <= MOST_NODES:
        raise ComputeTargetException(
            f"max_nodes is {max_nodes!r}; it is a whole number from 1 to {MOST_NODES}, or None: the cluster decides."
        )
    return max_nodes
