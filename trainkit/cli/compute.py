"""trainkit compute: the workspace's compute targets."""

from __future__ import annotations

from typing import Any

import click

from trainkit.cli import find, output
from trainkit.cli.codes import NotFound
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.targets import names


@click.group(invoke_without_command=True)
@output.json_option
@click.pass_context
def compute(ctx: click.Context, as_json: bool) -> None:
    """Add, list, show, delete or detach compute targets. Without a command: list.

    A target is where jobs run, and how many nodes may be busy at once. This machine needs none: jobs without --target
    run on it. A cluster that exists is attached by the launcher that reaches it.

    \b
    Examples:
      trainkit compute add small --max-nodes 4
      trainkit compute add cluster --launcher slurm --option partition=gpu --option account=x
      trainkit compute
      trainkit submit train.py --target cluster --nodes 2
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


@compute.command("add")
@click.argument("name")
@click.option("--launcher", metavar="NAME", help="Attach a cluster that this launcher reaches (`trainkit launchers`).")
@click.option("--option", "pairs", multiple=True, metavar="KEY=VALUE",
              help="One of the launcher's fields; a list's items are divided by commas.")  # fmt: skip
@click.option("--max-nodes", type=click.IntRange(1),
              help="Nodes busy at once, at most.  [default: 4; with --launcher, the cluster decides]")  # fmt: skip
@click.option("--min-nodes", type=click.IntRange(0), help="Nodes kept.  [default: 0]")
@click.option("--vm-size", help="A size that config.json maps to a launcher; else this machine.")
@click.option("--idle-seconds", type=click.IntRange(0), help="Before scaling down.  [default: 1800]")
@output.json_option
def add(
    name: str, launcher: str | None, pairs: tuple[str, ...], max_nodes: int | None, as_json: bool, **scale: Any
) -> None:
    """Add the compute target NAME: create it here, or attach a cluster with --launcher.

    \b
    Examples:
      trainkit compute add small --max-nodes 1
      trainkit compute add cluster --launcher slurm --option partition=gpu --max-nodes 8
      trainkit compute add lab --launcher ssh --option hosts=node1,node2
    """
    workspace = find.workspace()
    if name in names(workspace):
        raise UserErrorException(
            f"There is a compute target {name!r} already; `trainkit compute show {name}` shows it."
        )
    given = {key: value for key, value in scale.items() if value is not None}
    if launcher is None:
        if pairs:
            raise UserErrorException("--option is for --launcher: name the launcher that has it.")
        target = _created(workspace, name, max_nodes or 4, given)
    elif given:
        words = ", ".join("--" + key.replace("_", "-") for key in given)
        raise UserErrorException(f"{words} describes a target that is created; with --launcher one is attached.")
    else:
        target = _attached(workspace, name, launcher, pairs, max_nodes)
    limit = f"at most {target.max_nodes} node(s) at once" if target.max_nodes else "as many nodes as the cluster gives"
    reached = f"the launcher {launcher!r}, " if launcher else ""
    output.emit(_value(target), as_json, f"Compute target {name}: {reached}{limit}.")


def _created(workspace: Any, name: str, max_nodes: int, given: dict[str, Any]) -> Any:
    from trainkit.compute import AmlCompute, ComputeTarget

    words = {"idle_seconds": "idle_seconds_before_scaledown"}
    values = {words.get(key, key): value for key, value in given.items()}
    config = AmlCompute.provisioning_configuration(max_nodes=max_nodes, **values)
    return ComputeTarget.create(workspace, name, config)


def _attached(workspace: Any, name: str, launcher: str, pairs: tuple[str, ...], max_nodes: int | None) -> Any:
    from trainkit.compute import ComputeTarget
    from trainkit.options import from_texts, launcher_of

    divided = [pair.partition("=") for pair in pairs]
    for pair, (key, equals, _) in zip(pairs, divided, strict=True):
        if not key or not equals:
            raise UserErrorException(f"--option {pair!r}: it must be KEY=VALUE.")
    options = from_texts(launcher, [(key, value) for key, _, value in divided])
    return ComputeTarget.attach(workspace, name, launcher_of(launcher, options), max_nodes=max_nodes)


@compute.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """List the compute targets."""
    _list(as_json)


def _list(as_json: bool) -> None:
    targets = [_value(target) for target in find.workspace().compute_targets.values()]
    rows = [
        [t["name"], t["launcher"], t["currentNodeCount"], t["scaleSettings"]["maxNodeCount"], t["provisioningState"],
         t["words"]]
        for t in targets
    ]  # fmt: skip
    header = ["target", "launcher", "busy", "most", "state", "words"]
    output.emit(targets, as_json, output.table(rows, header) if rows else "No compute targets.")


@compute.command("show")
@click.argument("name")
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Tell all about the compute target NAME."""
    value = _value(_target(name))
    flat = {key: ", ".join(f"{k} {output.cell(v)}" for k, v in item.items()) if isinstance(item, dict) else item
            for key, item in value.items()}  # fmt: skip
    output.emit(value, as_json, output.fields(flat.items()))


@compute.command("delete")
@click.argument("name")
@output.json_option
def delete(name: str, as_json: bool) -> None:
    """Delete the compute target NAME, which was created; refused while it has runs."""
    _end(name, as_json, "deleted")


@compute.command("detach")
@click.argument("name")
@output.json_option
def detach(name: str, as_json: bool) -> None:
    """Detach the compute target NAME, which was attached: its cluster stays. Refused while it has runs."""
    _end(name, as_json, "detached")


def _end(name: str, as_json: bool, how: str) -> None:
    target = _target(name)
    created = target.type == "AmlCompute"
    if created != (how == "deleted"):
        was, other = ("created", "delete") if created else ("attached", "detach")
        raise UserErrorException(f"{name} was {was}: `trainkit compute {other} {name}`.")
    busy = [str(getattr(run, "id", run)) for run in target.get_active_runs()]
    if busy:
        raise UserErrorException(
            f"{name} has {len(busy)} run(s): {', '.join(busy[:3])}; wait for them, or end them with `trainkit cancel`."
        )
    (target.delete if created else target.detach)()
    output.emit({"name": name, how: True}, as_json, f"Compute target {name} is {how}.")


def _target(name: str) -> Any:
    from trainkit.compute import ComputeTarget

    workspace = find.workspace()
    if name not in names(workspace):
        raise NotFound(f"There is no compute target {name!r}; `trainkit compute` lists them.")
    return ComputeTarget(workspace, name)


def _value(target: Any) -> dict[str, Any]:
    value = {"name": target.name, "type": target.type, "launcher": getattr(target, "launcher_name", None)}
    try:
        found = target.resolved()
        value.update(launcher=found.launcher, options=found.options, words=found.words.removeprefix(target.name + ": "))
    except TrainkitError as error:  # a launcher that is gone, or fails to import: said, not hidden
        value.update(options=getattr(target, "options", {}), words=error.message)
    return {**value, **target.get_status().serialize()}
