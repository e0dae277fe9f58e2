"""The records of a workspace's compute targets, and the machines that they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.boot.rundir import publish, read_json
from trainkit.errors import ComputeTargetException, UserErrorException
from trainkit.options import launcher_of, several_machines

if TYPE_CHECKING:
    from trainkit.workspace import Workspace

_RESERVED = ("local", "amlcompute", "containerinstance")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_\-]{0,62}")
_THIS_MACHINE = "this machine"


@dataclass(frozen=True)
class Target:
    """Where one job runs, decided: what `resolve` makes of a compute target and config.json."""

    name: str
    launcher: str
    options: dict[str, Any]
    max_nodes: int | None
    vm_size: str
    words: str  # for people: in the run's record
    several_machines: bool = False  # its nodes are not this machine, whose resources say nothing of theirs


def machines(workspace: Workspace, name: str, vm_size: str, max_nodes: int | None = None) -> Target:
    """The target `name` whose machines are those of this size, as config.json maps it.

    Raises UserErrorException where the launcher that it names is not installed, or cannot be made with its options.
    """
    mapped = workspace.config.vm_size(vm_size) if vm_size else None
    if mapped is None:
        unmapped = f" ({vm_size} is not mapped in {workspace.config.path})" if vm_size else ""
        return Target(name, "local", {}, max_nodes, vm_size, _THIS_MACHINE + unmapped)
    several = several_machines(launcher_of(mapped.launcher, mapped.options))
    words = f"{vm_size} through the launcher {mapped.launcher!r}"
    return Target(name, mapped.launcher, dict(mapped.options), max_nodes, vm_size, words, several)


def check_name(name: str) -> None:
    """Raise UserErrorException for a reserved name, ComputeTargetException for an impossible one."""
    if isinstance(name, str) and name.lower() in _RESERVED:
        raise UserErrorException(f"Please specify a different target name. {name} is a reserved name.")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ComputeTargetException(
            f"The compute target name {name!r} is not possible. It has 1 to 63 characters: letters, digits, hyphens "
            f"and underscores, the first a letter."
        )


def record_file(workspace: Workspace, name: str) -> Path:
    """Where a target's record is."""
    return workspace.root / "compute" / f"{name}.json"


def publish_record(workspace: Workspace, name: str, values: Mapping[str, Any]) -> bool:
    """Write the record of a new target; False where the name has one already."""
    now = datetime.now(timezone.utc).isoformat()
    workspace.prepare_root()
    return publish(record_file(workspace, name), {"name": name, "created": now, "modified": now, **values})


def is_attached(record: Mapping[str, Any]) -> bool:
    """Whether a record is that of a target that was attached, and not created."""
    return "launcher" in record


def names(workspace: Workspace) -> list[str]:
    """All targets of a workspace."""
    return sorted(path.stem for path in (workspace.root / "compute").glob("[!.]*.json"))


def read_record(workspace: Workspace, name: str) -> dict[str, Any]:
    """A target's record. Raises ComputeTargetException where there is none."""
    found = read_json(record_file(workspace, name)) if isinstance(name, str) and _NAME.fullmatch(name) else None
    if found is None:
        known = ", ".join(names(workspace)) or "none yet"
        raise ComputeTargetException(
            f"ComputeTargetNotFound: Compute Target with name {name} not found in provided workspace {workspace.name} "
            f"(its targets: {known}). Make it with ComputeTarget.create or `trainkit compute add`; for this machine, "
            f"leave compute_target out."
        )
    return dict(found)
