"""What submitting a job would do, told without doing any of it: nothing is written, started or contacted."""

from __future__ import annotations

import dataclasses
import json
import shlex
import socket
import sys
from typing import TYPE_CHECKING, Any

from trainkit.boot import newrun, plugins
from trainkit.boot.settings import RESUME_FROM
from trainkit.environmentspec import EnvironmentSpec
from trainkit.errors import TrainkitError
from trainkit.job import Container, Job, Node, agent_command
from trainkit.options import launcher_of
from trainkit.plan import Plan, decide
from trainkit.slots import Slots
from trainkit.submit import plan

if TYPE_CHECKING:
    from trainkit.workspace import Workspace

__all__ = ["dry_run", "preview"]

HIDDEN = "(not shown)"
_SHOWN_NODES = 8
_PORT = 29500  # stands for the free port that the head's agent takes
_OURS = (RESUME_FROM, "TRAINKIT_GPUS")


def dry_run(workspace: Workspace, config: object, experiment: str = "dry-run", tags: object = None) -> str:
    """All that submitting `config` would send, and what the run would wait for, as a text. Nothing is done.

    Values of environment variables, which may be secrets, are not shown. Raises what `Experiment.submit` would raise.
    """
    return text_of(preview(workspace, config, experiment, tags))


def preview(workspace: Workspace, config: object, experiment: str = "dry-run", tags: object = None) -> dict[str, Any]:
    """The same as plain values: the plan, and beside it what is sent, by whom it is run and what it waits for."""
    told = plan(workspace, experiment, config, tags)
    decided = decide(workspace, experiment, config, tags)
    job = _job(workspace, decided)
    slots = Slots(workspace.root / "targets" / decided.target.name, decided.target.max_nodes)
    return {
        **told,
        "launcher": decided.target.launcher,
        "options": decided.target.options,
        "job": job.to_json(),
        "sends": _sends(decided, job),
        "agents": [list(_agent(decided, job, node)) for node in range(job.nodes)],
        "commands": [_commands(decided, job, node) for node in range(min(job.nodes, _SHOWN_NODES))],
        "waits_for": slots.foreseen(job.nodes),
    }


def _job(workspace: Workspace, decided: Plan) -> Job:
    """The job as its first attempt would be, under an id that stands for the one that submitting makes."""
    name = f"{decided.experiment[:200]}_TIME_ID"
    run_dir = newrun.experiment_dir(workspace.root, decided.experiment) / name
    environment = {key: value if key in _OURS else HIDDEN for key, value in decided.job.environment.items()}
    interpreter = decided.environment.interpreter
    if not decided.environment.is_plain and decided.environment.image is None:
        interpreter = str(workspace.root / "envs" / decided.environment_digest / "bin" / "python")
    boot = str(workspace.root / "boot" / "trainkit-DIGEST.zip") if decided.target.several_machines else ""
    return dataclasses.replace(
        decided.job, run_id=name, run_dir=str(run_dir), attempt=1, interpreter=interpreter, boot=boot,
        environment=environment, container=_container(decided.environment),
    )  # fmt: skip


def _container(environment: EnvironmentSpec) -> Container | None:
    """The job's container, with the image as it was asked for: preparing the job finds out which one that is."""
    image = environment.image
    if image is None:
        return None
    return Container(image.engine, image.words, image.words, environment.interpreter, image.arguments, image.shm_size)


def _agent(decided: Plan, job: Job, node: int) -> tuple[str, ...]:
    """The command line of a node's agent; on this machine it is this interpreter that runs it."""
    far = decided.target.several_machines
    return agent_command(job.interpreter if far else sys.executable, job, node, network=far)


def _sends(decided: Plan, job: Job) -> str:
    """What the launcher says that it would send; a launcher that cannot say leaves this empty."""
    launcher = launcher_of(decided.target.launcher, decided.target.options)
    tell = getattr(launcher, "dry_run", None)
    return str(tell(job)).rstrip("\n") if tell else ""


def _commands(decided: Plan, job: Job, node: int) -> dict[str, Any]:
    """What a node's agent would start there; or why that is known only there."""
    if decided.target.several_machines:
        names = tuple(f"node{number}" for number in range(job.nodes))
        there = Node(node, names, names[0], _PORT, machines=tuple(range(job.nodes)))
    else:
        host = socket.gethostname()
        names = (host,) if job.nodes == 1 else tuple(f"{host}-{number}" for number in range(job.nodes))
        there = Node(node, names, "127.0.0.1", _PORT)
    try:
        commands = plugins.spread(job.spread)(job, there)
    except (TrainkitError, OSError) as error:
        return {"node": node, "start": [], "known_there": str(error)}
    start = [{"argv": list(command.argv), "environment": dict(command.environment)} for command in commands]
    return {"node": node, "start": start, "known_there": ""}


def text_of(told: dict[str, Any]) -> str:
    """A preview as people read it."""
    job, nodes = told["job"], told["nodes"]
    chosen = f"the launcher {told['launcher']!r}"
    parts = [
        _fields(told),
        "job.json\n" + json.dumps(job, indent=2, ensure_ascii=False),
        f"{chosen} sends\n{told['sends']}" if told["sends"] else f"{chosen} does not tell what it sends",
        "agents\n" + _some([f"  node {n}: {shlex.join(argv)}" for n, argv in enumerate(told["agents"])], nodes),
        f"spread {told['spread']}\n" + _some([_line(one) for one in told["commands"]], nodes),
        "waits for\n  " + (told["waits_for"] or "nothing: the target has room"),
        f"Nothing was started: this is a dry run. {job['run_id']} stands for the run's id.",
    ]
    return "\n\n".join(parts)


def _line(one: dict[str, Any]) -> str:
    lines = [shlex.join([f"{k}={v}" for k, v in c["environment"].items()] + c["argv"]) for c in one["start"]]
    if one["known_there"]:
        lines = [f"known on the node alone: {one['known_there']}"]
    return "\n".join(f"  node {one['node']}: {line}" for line in lines or ["nothing, another node starts its ranks"])


def _some(lines: list[str], nodes: int) -> str:
    more = [f"  ... and so on to node {nodes - 1}"] if nodes > _SHOWN_NODES else []
    return "\n".join([*lines[:_SHOWN_NODES], *more])


def _fields(told: dict[str, Any]) -> str:
    environment, snapshot = told["environment"], told["snapshot"]
    packages, container = [*environment["pip_packages"], *environment["conda_packages"]], told["job"]["container"]
    beside = "" if environment["inherit"] else "nothing but "
    script = [told["loop"] or told["script"], *told["arguments"]] if not told["command"] else told["command"]
    pairs = {
        "experiment": told["experiment"],
        "script": shlex.join(script),
        "world": f"{told['nodes']} node(s) x {told['ranks_per_node']} rank(s), spread {told['spread']}",
        "target": told["target_words"] or told["target"],
        "devices": told["devices"],
        "image": f"{container['name']}, run by {container['engine'] or 'the cluster'}" if container else "",
        "python": told["job"]["interpreter"],
        "packages": beside + ", ".join(packages) if packages else "",
        "snapshot": f"{snapshot['files']} files, {snapshot['bytes']:,} bytes of {told['source_directory']}",
        "left out": ", ".join(snapshot["left_out"]),
    }
    return "\n".join(f"{name:<10}  {value}" for name, value in pairs.items() if value)
