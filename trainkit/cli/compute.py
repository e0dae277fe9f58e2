"""trainkit compute: the workspace's compute targets."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import click

from trainkit.cli import find, output
from trainkit.cli.codes import NotFound
from trainkit.errors import ComputeTargetException, UserErrorException


@click.group(invoke_without_command=True)
@output.json_option
@click.pass_context
def compute(ctx: click.Context, as_json: bool) -> None:
    """Add, list, show or delete compute targets. Without a command: list.

    A target is where jobs run, and how many nodes may be busy at once. This machine needs none: jobs without --target
    run on it.

    \b
    Examples:
      trainkit compute add gpu-cluster --max-nodes 4 --vm-size STANDARD_NC6
      trainkit compute
      trainkit submit train.py --target gpu-cluster --nodes 2
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


@compute.command("add")
@click.argument("name")
@click.option("--max-nodes", type=click.IntRange(1), default=4, show_default=True, help="Nodes busy at once, at most.")
@click.option("--min-nodes", type=click.IntRange(0), default=0, show_default=True, help="Nodes kept.")
@click.option("--vm-size", default="", help="A size that config.json maps to a launcher; else this machine.")
@click.option("--idle-seconds", type=click.IntRange(0), default=1800, show_default=True, help="Before scaling down.")
@output.json_option
def add(name: str, max_nodes: int, min_nodes: int, vm_size: str, idle_seconds: int, as_json: bool) -> None:
    """Add the compute target NAME."""
    from trainkit.compute import AmlCompute, ComputeTarget

    workspace = find.workspace()
    if name in workspace.compute_targets:
        raise UserErrorException(
            f"There is a compute target {name!r} already; `trainkit compute show {name}` shows it."
        )
    config = AmlCompute.provisioning_configuration(
        vm_size=vm_size, min_nodes=min_nodes, max_nodes=max_nodes, idle_seconds_before_scaledown=idle_seconds
    )
    with contextlib.redirect_stdout(io.StringIO()):
        target = ComputeTarget.create(workspace, name, config)
        target.wait_for_completion(show_output=False)
    output.emit(_value(target), as_json, f"Compute target {name}: at most {max_nodes} node(s) at once.")


@compute.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """List the compute targets."""
    _list(as_json)


def _list(as_json: bool) -> None:
    targets = [_value(target) for target in find.workspace().compute_targets.values()]
    rows = [
        [t["name"], t["vmSize"], t["currentNodeCount"], t["scaleSettings"]["maxNodeCount"], t["provisioningState"]]
        for t in targets
    ]
    text = output.table(rows, ["target", "size", "busy", "most", "state"]) if rows else "No compute targets."
    output.emit(targets, as_json, text)


@compute.command("show")
@click.argument("name")
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Tell all about the compute target NAME."""
    value = _value(_target(name))
    flat = {key: ", ".join(f"{k} {v}" for k, v in item.items()) if isinstance(item, dict) else item
            for key, item in value.items()}  # fmt: skip
    output.emit(value, as_json, output.fields(flat.items()))


@compute.command("delete")
@click.argument("name")
@output.json_option
def delete(name: str, as_json: bool) -> None:
    """Delete the compute target NAME; refused while it has runs."""
    target = _target(name)
    busy = [str(getattr(run, "id", run)) for run in target.get_active_runs()]
    if busy:
        raise UserErrorException(
            f"{name} has {len(busy)} run(s): {', '.join(busy[:3])}; wait for them, or end them with `trainkit cancel`."
        )
    with contextlib.redirect_stdout(io.StringIO()):
        target.delete()
    output.emit({"name": name, "deleted": True}, as_json, f"Compute target {name} is deleted.")


def _target(name: str) -> Any:
    from trainkit.compute import ComputeTarget

    try:
        return ComputeTarget(workspace=find.workspace(), name=name)
    except ComputeTargetException as e:
        raise NotFound(f"There is no compute target {name!r}; `trainkit compute` lists them.") from e


def _value(target: Any) -> dict[str, Any]:
    return {"name": target.name, "type": target.type, **target.get_status().serialize()}
