"""trainkit submit: a script as a job, without a line of Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trainkit.cli import codes, find, output, packages
from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.runconfig import ScriptRunConfig

_GPU: dict[str, bool | str] = {"auto": True, "no": False, "required": "required"}


def _options(function: Any) -> Any:
    """The command's options, by what they are about."""
    from click import option

    options = [
        option("--source", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
               help="The directory that the job gets a snapshot of; SCRIPT is in it.  [default: this directory, or the "
               "script's where it is elsewhere]"),
        option("-e", "--experiment", metavar="NAME", help="What the run belongs to.  [default: the script's name]"),
        option("-t", "--target", metavar="NAME", help="A compute target.  [default: this machine]"),
        option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="How many nodes."),
        option("--ranks", type=click.IntRange(1), default=1, show_default=True, help="How many ranks on each node."),
        option("--spread", metavar="NAME", help="How ranks are started: fork, torchrun, mpi, or another that `trainkit "
               "launchers` lists.  [default: fork for one rank, else torchrun]"),
        option("--backend", type=click.Choice(["nccl", "gloo"]), help="torch.distributed's, with --spread torchrun."),
        option("--gpu", type=click.Choice(list(_GPU)), default="auto", show_default=True,
               help="GPUs where the target has them; none, hidden from the job; or no job without them."),
        *packages.OPTIONS,
        option("--set", "variables", multiple=True, metavar="KEY=VALUE",
               help="An environment variable of the job; may be given more than once."),
        option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="May be given more than once."),
        option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="End the job after this time."),
        option("--max-restarts", type=click.IntRange(0), default=0, show_default=True,
               help="Start the job again so often where ranks fail, are killed, or end with code 75."),
        option("--min-nodes", type=click.IntRange(0), default=0,
               help="Let a restart go on with so many nodes where others were lost; else it needs all."),
        option("--hang", type=click.Choice(["report", "end"]), default="report", show_default=True,
               help="What a rank that holds the others up brings about."),
        option("--no-preflight", is_flag=True, help="Do not compare the nodes before the ranks start."),
        option("--resume-from", metavar="RUN|DIR", help="A run, or checkpoints, to go on from."),
        option("--wait", is_flag=True, help="Wait for the end, telling the stages; exit as the run did."),
        option("--follow", is_flag=True, help="The same, printing what rank 0 prints."),
        option("--dry-run", is_flag=True,
               help="Check everything, print all that would be sent and what it would wait for; start nothing."),
    ]  # fmt: skip
    for one in reversed(options):
        function = one(function)
    return function


@click.command()
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT...]")
@_options
@output.json_option
def submit(script: str, arguments: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Submit SCRIPT, or a loop's module:function, as a job; what follows `--` are its arguments.

    The job gets a snapshot of the source directory, so the script may be edited at once. Closing this terminal does not
    end it.

    \b
    Examples:
      trainkit submit train.py
      trainkit submit train.py --nodes 1 --ranks 2 --spread mpi -- --lr 0.1
      trainkit submit birds.train:build --max-restarts 3 -- --lr 0.1
      trainkit submit train.py --pip timm==1.0.31 --follow
      trainkit submit train.py --image pytorch/pytorch:latest --follow
      trainkit submit src/train.py --source src -e birds -t gpu-cluster --nodes 2 --wait
    """
    workspace = find.workspace()
    loop = script if re.fullmatch(r"[\w.]+:\w+", script) and not Path(script).is_file() else None
    if loop is None:
        source, inside = _source(Path(script), options["source"])
    else:
        source, inside = (options["source"] or Path.cwd()).absolute(), loop.partition(":")[0]
    config = _config(source, None if loop else inside, arguments, options, loop)
    experiment = options["experiment"] or _experiment_for(inside)
    tags = find.pairs("--tag", options["tags"])
    if options["dry_run"]:
        return _dry_run(workspace, experiment, config, tags, as_json)
    from trainkit.experiment import Experiment

    run = Experiment(workspace, experiment).submit(config, tags=tags)
    return _submitted(run.id, find.run_dir(workspace.root, run.id), options, as_json)


def _submitted(run_id: str, path: Path, options: dict[str, Any], as_json: bool) -> int:
    from trainkit.boot.rundir import RunDir, read_json
    from trainkit.cli.logs import wait_for

    waits = options["wait"] or options["follow"]
    if not as_json:
        click.echo(run_id)
        if not waits:
            click.echo(f"`trainkit logs {run_id} -f` follows it.", err=True)
    code = codes.DONE
    if waits:
        code = wait_for(path, show_output=options["follow"] and not as_json, as_json=as_json)
    if as_json and code != codes.INTERRUPTED:
        status, details = find.status(path)
        state = read_json(RunDir(path).state, "status") or {}
        output.print_json({
            "id": run_id, "directory": str(path), "status": status, "details": details,
            "verdict": state.get("verdict"),
        })  # fmt: skip
    return code


def _source(script: Path, source: Path | None) -> tuple[Path, str]:
    """The directory to take a snapshot of, and the script's path in it."""
    if source is not None:
        source = source.absolute()
        for candidate in (source / script, script.absolute()):
            if candidate.is_file() and candidate.resolve().is_relative_to(source.resolve()):
                return source, candidate.resolve().relative_to(source.resolve()).as_posix()
        raise UserErrorException(f"There is no script {script} in {source}; SCRIPT is a file inside --source.")
    if not script.is_file():
        raise UserErrorException(f"There is no script {script.absolute()}.")
    here = Path.cwd()
    whole = script.absolute()
    if ".." not in whole.parts and whole.is_relative_to(here):
        return here, whole.relative_to(here).as_posix()
    return whole.parent.resolve(), script.name


def _config(
    source: Path, script: str | None, arguments: tuple[str, ...], options: dict[str, Any], loop: str | None
) -> ScriptRunConfig:
    from trainkit.runconfig import ScriptRunConfig

    return ScriptRunConfig(
        source_directory=source,
        script=script,
        loop=loop,
        arguments=list(arguments),
        compute_target=options["target"],
        environment=_environment(options),
        distributed_job_config=_distributed(options),
        max_run_duration_seconds=options["max_seconds"],
        use_gpu=_GPU[options["gpu"]],
        max_restarts=options["max_restarts"],
        min_nodes=options["min_nodes"],
        hang=options["hang"],
        preflight=not options["no_preflight"],
        resume_from=_resumed(options["resume_from"]),
    )


def _resumed(text: str | None) -> str | None:
    """A run as it is named elsewhere, such as `last`, as its directory; a path as it is."""
    if text is None or Path(text).exists():
        return text
    return str(find.run_dir(find.root(), text))


def _distributed(options: dict[str, Any]) -> Any:
    """How nodes become ranks; None for one plain process."""
    from trainkit.distributed import MpiConfiguration, PyTorchConfiguration, SpreadConfiguration

    nodes, ranks, backend = options["nodes"], options["ranks"], options["backend"]
    spread = options["spread"] or ("torchrun" if nodes * ranks > 1 or backend else None)
    if backend and spread != "torchrun":
        raise UserErrorException(f"--backend is for --spread torchrun; {spread} has none to choose.")
    if spread is None:
        return None
    if spread == "mpi":
        return MpiConfiguration(process_count_per_node=ranks, node_count=nodes)
    if spread == "torchrun":
        name = backend.capitalize() if backend else None
        return PyTorchConfiguration(name, process_count=nodes * ranks, node_count=nodes)
    return SpreadConfiguration(spread, process_count_per_node=ranks, node_count=nodes)


def _environment(options: dict[str, Any]) -> Any:
    environment = packages.environment_of(options)
    environment.environment_variables.update(find.pairs("--set", options["variables"]))
    return environment


def _experiment_for(script: str) -> str:
    """An experiment's name after the script's."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "-", Path(script).stem).lstrip("-_")[:255] or "experiment"


def _dry_run(workspace: Any, experiment: str, config: ScriptRunConfig, tags: dict[str, str], as_json: bool) -> int:
    from trainkit.dryrun import preview, text_of

    told = preview(workspace, config, experiment, tags)
    output.emit(told, as_json, "" if as_json else text_of(told))
    return codes.DONE
