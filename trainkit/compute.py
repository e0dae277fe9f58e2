"""Compute targets: where jobs run, and how many nodes may be in use at once.

A target is a record in <root>/compute/<name>.json and the tickets of its runs (`trainkit.slots`). Nothing is rented
and nothing starts up: a target is ready as soon as it is described. Which machines its `vm_size` means, config.json
says ("vm_sizes"); a size that it does not map means this machine, which hosts any number of logical nodes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from trainkit.boot import rundir
from trainkit.errors import ComputeTargetException, UserErrorException, WorkspaceException
from trainkit.provisioning import AmlComputeStatus, ProvisioningConfiguration, require_max_nodes, status_of
from trainkit.slots import Slots
from trainkit.targets import Target, check_name, machines, names, read_record, record_file

if TYPE_CHECKING:
    from trainkit.run import Run
    from trainkit.workspace import Workspace

Records = list[dict[str, Any]]
__all__ = ["AmlCompute", "ComputeTarget", "ProvisioningConfiguration", "Target", "resolve"]


class ComputeTarget:
    """A compute target of a workspace. `ComputeTarget(workspace, name)` returns the AmlCompute of that name.

    Raises ComputeTargetException where there is none.
    """

    type = "AmlCompute"

    def __new__(cls, workspace: Workspace | None = None, name: str = "") -> AmlCompute:  # no arguments: copy.copy
        return object.__new__(AmlCompute)

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = name

    @staticmethod
    def create(workspace: Workspace, name: str, provisioning_configuration: ProvisioningConfiguration) -> AmlCompute:
        """Describe a new target. The one that exists is returned where its description is the same.

        Raises UserErrorException for a reserved name, ComputeTargetException for what is impossible or contradicts
        the target that exists.
        """
        check_name(name)
        wanted = provisioning_configuration
        if not isinstance(wanted, ProvisioningConfiguration):
            raise ComputeTargetException(
                f"ComputeTarget.create needs what AmlCompute.provisioning_configuration returns, not "
                f"{type(wanted).__name__}."
            )
        wanted.validate_configuration()
        machines(workspace, wanted.vm_size)
        now = datetime.now(timezone.utc).isoformat()
        workspace.prepare_root()
        new = rundir.publish(
            record_file(workspace, name), {"name": name, "created": now, "modified": now, **asdict(wanted)}
        )
        target = AmlCompute(workspace, name)
        if not new and target.configuration.scale != wanted.scale:
            raise ComputeTargetException(
                f"The compute target {name} exists, but not as asked: {target.configuration.words}, not "
                f"{wanted.words}. Use it with ComputeTarget(workspace, {name!r}), change it with update(), or "
                f"delete() it first."
            )
        if new:
            target.slots.set_limit(wanted.max_nodes)
        return target

    @staticmethod
    def list(workspace: Workspace) -> Sequence[AmlCompute]:
        """All targets of the workspace, by name."""
        return [AmlCompute(workspace, name) for name in names(workspace)]


class AmlCompute(ComputeTarget):
    """A compute target: at most `max_nodes` nodes in use at once, first come first served."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        super().__init__(workspace, name)
        self._deleted = False
        self.refresh_state()

    @staticmethod
    def provisioning_configuration(
        vm_size: str = "",
        vm_priority: str = "dedicated",
        min_nodes: int = 0,
        max_nodes: int | None = None,
        idle_seconds_before_scaledown: int = 1800,
        admin_username: str | None = None,
        admin_user_password: str | None = None,
        admin_user_ssh_key: str | None = None,
        vnet_resourcegroup_name: str | None = None,
        vnet_name: str | None = None,
        subnet_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
        remote_login_port_public_access: str = "NotSpecified",
        identity_type: str | None = None,
        identity_id: Sequence[str] | None = None,
        location: str | None = None,
        enable_node_public_ip: bool = True,
    ) -> ProvisioningConfiguration:
        """Describe a target. `max_nodes` is needed, and is a real limit on the nodes in use at once.

        The arguments on administrators, networks, identities and places describe a cloud's machines: they are not
        kept, and one DeprecationWarning names those given. Raises ComputeTargetException.
        """
        given = {
            "admin_username": admin_username,
            "admin_user_password": admin_user_password,
            "admin_user_ssh_key": admin_user_ssh_key,
            "vnet_resourcegroup_name": vnet_resourcegroup_name,
            "vnet_name": vnet_name,
            "subnet_name": subnet_name,
            "identity_type": identity_type,
            "identity_id": identity_id,
            "location": location,
        }
        if unused := ", ".join(name for name, value in given.items() if value is not None):
            words = f"No effect here, because they describe a cloud's machines: {unused}."
            warnings.warn(words, DeprecationWarning, stacklevel=2)
        most = require_max_nodes(max_nodes)
        configuration = ProvisioningConfiguration(
            vm_size, vm_priority, min_nodes, most, idle_seconds_before_scaledown, dict(tags or {}), description or ""
        )
        configuration.validate_configuration()
        return configuration

    def refresh_state(self) -> None:
        """Read the target's record again. Raises ComputeTargetException where it was deleted."""
        values = read_record(self.workspace, self.name)
        try:
            self.configuration = ProvisioningConfiguration(
                **{name: values[name] for name in asdict(ProvisioningConfiguration())}
            )
            self.created_on, self.modified_on = str(values["created"]), str(values["modified"])
        except KeyError as error:
            raise WorkspaceException(
                f"{record_file(self.workspace, self.name)} is damaged: it has no {error}. Delete it and create it anew."
            ) from error
        self.slots = Slots(self.workspace.root / "targets" / self.name, self.configuration.max_nodes)

    @property
    def vm_size(self) -> str:
        """The size asked for, which config.json may map to a launcher."""
        return self.configuration.vm_size

    @property
    def vm_priority(self) -> str:
        """ "dedicated" or "lowpriority"."""
        return self.configuration.vm_priority

    @property
    def tags(self) -> dict[str, str]:
        """Given when it was created."""
        return dict(self.configuration.tags)

    @property
    def description(self) -> str:
        """Given when it was created."""
        return self.configuration.description

    @property
    def provisioning_state(self) -> str:
        """ "Succeeded", until it is deleted."""
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
        if min_node_count is not None and min_node_count > self.configuration.max_nodes:
            raise ComputeTargetException(
                f"{self.name} never has {min_node_count} nodes: its max_nodes is {self.configuration.max_nodes}."
            )
        if show_output:
            print(self.provisioning_state)
            print("AmlCompute wait for completion finished")
            if not is_delete_operation:
                print("Minimum number of nodes requested have been provisioned")

    def get_status(self) -> AmlComputeStatus:
        """The target's state now; always answers, for a deleted one too."""
        return status_of(
            self.configuration, self.slots.tickets(), self.created_on, self.modified_on, deleted=self._deleted
        )

    def serialize(self) -> dict[str, Any]:
        """The target as plain values."""
        return {"name": self.name, "type": self.type, "tags": self.tags, "description": self.description,
                "properties": self.get_status().serialize()}  # fmt: skip

    def update(
        self,
        min_nodes: int | None = None,
        max_nodes: int | None = None,
        idle_seconds_before_scaledown: int | None = None,
    ) -> None:
        """Change the limits, for runs that wait too. Raises ComputeTargetException, UserErrorException."""
        self.refresh_state()
        given = {
            "min_nodes": min_nodes,
            "max_nodes": max_nodes,
            "idle_seconds_before_scaledown": idle_seconds_before_scaledown,
        }
        changed = replace(self.configuration, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        changed.validate_configuration()
        self.slots.set_limit(changed.max_nodes)
        now = datetime.now(timezone.utc).isoformat()
        values = {"name": self.name, "created": self.created_on, "modified": now, **asdict(changed)}
        rundir.replace(record_file(self.workspace, self.name), values)
        self.refresh_state()

    def delete(self) -> None:
        """Forget the target. Raises UserErrorException while runs hold its nodes or wait for them."""
        self.slots.close()
        record_file(self.workspace, self.name).unlink(missing_ok=True)
        self._deleted = True

    def detach(self) -> NoReturn:
        """Raises ComputeTargetException: this kind of target is deleted."""
        raise ComputeTargetException(f"{self.name} cannot be detached, because it was created here; use delete().")

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

    @staticmethod
    def supported_vmsizes(workspace: Workspace, location: str | None = None) -> Records:
        """This machine, and the sizes that config.json maps to launchers."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        here = {"name": "local", "vCPUs": os.cpu_count(), "memoryGB": round(memory, 1), "launcher": "local"}
        mapped = workspace.config.vm_sizes
        return [here, *({"name": mapped[key].name, "launcher": mapped[key].launcher} for key in sorted(mapped))]

    def __repr__(self) -> str:
        return f"AmlCompute(workspace={self.workspace!r}, name={self.name!r}, {self.configuration.words})"


def resolve(workspace: Workspace, target: object = None, vm_size: str | None = None) -> Target:
    """Where a job runs: `target` is a compute target, its name, or "local" or None for this machine.

    `vm_size` counts only where no target is named. Raises ComputeTargetException for an unknown target.
    """
    if isinstance(target, AmlCompute):
        if target.workspace.root != workspace.root:
            raise ComputeTargetException(
                f"The compute target {target.name} belongs to the workspace {target.workspace.name} "
                f"({target.workspace.root}), not to {workspace.name} ({workspace.root})."
            )
        target = target.name
    if target is None or target in ("local", "amlcompute"):
        launcher, options, words = machines(workspace, vm_size or "")
        return Target("local" if launcher == "local" else "amlcompute", launcher, options, None, vm_size or "", words)
    if not isinstance(target, str):
        raise UserErrorException(
            f"compute_target is {target!r}; it is a compute target, the name of one, or 'local' for this machine."
        )
    found = AmlCompute(workspace, target)
    launcher, options, words = machines(workspace, found.vm_size)
    most = found.configuration.max_nodes
    return Target(target, launcher, options, most, found.vm_size, f"{target}: {words}, at most {most} nodes at once")
