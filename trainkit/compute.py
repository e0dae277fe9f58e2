"""Compute targets: where jobs run, and how many nodes may be in use at once.

A target is a record in <root>/compute/<name>.json and the tickets of its runs (`trainkit.slots`). Nothing is rented
and nothing starts up: a target is ready as soon as it is described. Which machines its `vm_size` means, config.json
says ("vm_sizes"); a size that it does not map means this machine, which hosts any number of logical nodes. A cluster
that exists is attached by the launcher that reaches it (`trainkit.attached`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NoReturn

from trainkit.boot import rundir
from trainkit.errors import ComputeTargetException, UserErrorException, WorkspaceException
from trainkit.provisioning import AmlComputeStatus, ProvisioningConfiguration, require_max_nodes, status_of
from trainkit.slots import Slots
from trainkit.targets import Target, check_name, is_attached, machines, names, publish_record, read_record, record_file
from trainkit.targetstate import Records, TargetState

if TYPE_CHECKING:
    from trainkit.attached import AttachedCompute
    from trainkit.job import Launcher
    from trainkit.workspace import Workspace

__all__ = ["AmlCompute", "ComputeTarget", "ProvisioningConfiguration", "Target", "resolve"]


class ComputeTarget(TargetState):
    """A compute target of a workspace. `ComputeTarget(workspace, name)` returns the one of that name: an AmlCompute
    where it was created here, an AttachedCompute where it was attached.

    Raises ComputeTargetException where there is none.
    """

    type = ""

    def __new__(cls, workspace: Workspace | None = None, name: str = "") -> ComputeTarget:  # no arguments: copy.copy
        if cls is not ComputeTarget or workspace is None:
            return object.__new__(cls)
        from trainkit.attached import AttachedCompute

        return object.__new__(AttachedCompute if is_attached(read_record(workspace, name)) else AmlCompute)

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
                f"{type(wanted).__name__}. ComputeTarget.attach takes a launcher."
            )
        wanted.validate_configuration()
        new = publish_record(workspace, name, asdict(wanted))
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
    def attach(
        workspace: Workspace,
        name: str,
        attach_configuration: Launcher,
        *,
        max_nodes: int | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> AttachedCompute:
        """Make a cluster that exists a target: jobs reach it through a launcher, such as `Slurm(partition="gpu")`.

        The record keeps the launcher's name and fields, so no field may hold a secret; the target that exists is
        returned where it is the same. `max_nodes` limits the nodes in use at once; without it the cluster decides.
        Raises UserErrorException for a launcher that is not installed, a secret or a reserved name,
        ComputeTargetException for what is impossible or contradicts the target that exists.
        """
        from trainkit.attached import attach

        return attach(workspace, name, attach_configuration, max_nodes, dict(tags or {}), description)

    @staticmethod
    def list(workspace: Workspace) -> Sequence[ComputeTarget]:
        """All targets of the workspace, by name."""
        return [ComputeTarget(workspace, name) for name in names(workspace)]


class AmlCompute(ComputeTarget):
    """A compute target: at most `max_nodes` nodes in use at once, first come first served."""

    type = "AmlCompute"

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
        idle = idle_seconds_before_scaledown
        if isinstance(idle, str) and idle.isdecimal():  # as the vendor's own samples give it
            idle = int(idle)
        most = require_max_nodes(max_nodes)
        configuration = ProvisioningConfiguration(
            vm_size, vm_priority, min_nodes, most, idle, dict(tags or {}), description or ""
        )
        configuration.validate_configuration()
        return configuration

    def refresh_state(self) -> None:
        """Read the target's record again. Raises ComputeTargetException where it was deleted."""
        values = read_record(self.workspace, self.name)
        if is_attached(values):
            raise ComputeTargetException(f"{self.name} was attached, not created: use ComputeTarget(workspace, name).")
        try:
            self.configuration = ProvisioningConfiguration(
                **{name: values[name] for name in asdict(ProvisioningConfiguration())}
            )
            self.created_on, self.modified_on = str(values["created"]), str(values["modified"])
        except KeyError as error:
            raise WorkspaceException(
                f"{record_file(self.workspace, self.name)} is damaged: it has no {error}. Delete it and create it anew."
            ) from error
        self._tags, self._description = self.configuration.tags, self.configuration.description
        self.slots = Slots(self.workspace.root / "targets" / self.name, self.configuration.max_nodes)

    @property
    def max_nodes(self) -> int:
        """The most nodes in use at once."""
        return self.configuration.max_nodes

    @property
    def vm_size(self) -> str:
        """The size asked for, which config.json may map to a launcher."""
        return self.configuration.vm_size

    @property
    def vm_priority(self) -> str:
        """ "dedicated" or "lowpriority"."""
        return self.configuration.vm_priority

    def get_status(self) -> AmlComputeStatus:
        """The target's state now; always answers, for a deleted one too."""
        return status_of(
            self.configuration, self.slots.tickets(), self.created_on, self.modified_on, deleted=self._deleted
        )

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

    def resolved(self) -> Target:
        """Where a job on this target runs. Raises UserErrorException where its launcher cannot be had."""
        found = machines(self.workspace, self.name, self.vm_size, self.max_nodes)
        return replace(found, words=f"{self.name}: {found.words}, at most {self.max_nodes} nodes at once")

    def detach(self) -> NoReturn:
        """Raises ComputeTargetException: this kind of target is deleted."""
        raise ComputeTargetException(f"{self.name} cannot be detached, because it was created here; use delete().")

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

    `vm_size` counts only where no target is named. Raises ComputeTargetException for an unknown target,
    UserErrorException where its launcher is not installed or cannot be made with its options.
    """
    if isinstance(target, ComputeTarget):
        if target.workspace.root != workspace.root:
            raise ComputeTargetException(
                f"The compute target {target.name} belongs to the workspace {target.workspace.name} "
                f"({target.workspace.root}), not to {workspace.name} ({workspace.root})."
            )
        target = target.name
    if target is None or target in ("local", "amlcompute"):
        found = machines(workspace, "amlcompute", vm_size or "")
        return replace(found, name="local") if found.launcher == "local" else found
    if not isinstance(target, str):
        raise UserErrorException(
            f"compute_target is {target!r}; it is a compute target, the name of one, or 'local' for this machine."
        )
    return ComputeTarget(workspace, target).resolved()
