"""trainkit metrics, files, download: what a run recorded and wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trainkit.cli import find, output
from trainkit.cli.codes import NotFound
from trainkit.errors import UserErrorException


def _rank(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str:
    if value == "all":
        return value
    if value.isdigit():
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a rank (0, 1, ...) nor `all`", ctx, parameter)


@click.command()
@click.argument("run")
@click.argument("name", required=False)
@click.option("-r", "--rank", default="0", show_default=True, callback=_rank, help="Which rank's metrics, or `all`.")
@output.json_option
def metrics(run: str, name: str | None, rank: int | str, as_json: bool) -> None:
    """Print a RUN's metrics: a summary of each, or with NAME every value of that one.

    In JSON a metric logged once is a value, one logged several times a list; NaN and infinities are texts.

    \b
    Examples:
      trainkit metrics last
      trainkit metrics last best_val_acc
      trainkit metrics last --rank all --json
    """
    from trainkit import events

    path = find.run_dir(find.root(), run)
    values = events.metrics(path, rank=rank, name=name)
    by_rank = values if rank == "all" else {rank: values}
    if name is not None and not any(name in found for found in by_rank.values()):
        every = events.metrics(path, rank=rank)
        known = sorted({one for found in (every.values() if rank == "all" else [every]) for one in found})
        raise NotFound(f"{path.name} has no metric {name!r}; it has: {', '.join(known) or 'none'}.")
    if as_json:
        output.print_json(values)
    elif name is not None:
        click.echo("\n".join(_values(found[name], one if rank == "all" else None) for one, found in by_rank.items()))
    else:
        click.echo(_summary(by_rank, rank == "all"))


def _values(value: Any, rank: int | str | None) -> str:
    """Every value of one metric, each on its line, after its rank where several ranks are shown."""
    if isinstance(value, dict):
        text = _columns(value)
    else:
        text = "\n".join(output.cell(one) for one in (value if isinstance(value, list) else [value]))
    return text if rank is None else "\n".join(f"{rank}  {line}" for line in text.splitlines())


def _summary(by_rank: dict[Any, dict[str, Any]], show_rank: bool) -> str:
    """One line for each metric."""
    rows = []
    for rank, values in by_rank.items():
        for metric, value in values.items():
            several = value if isinstance(value, list) else [value]
            numbers = [v for v in several if isinstance(v, (int, float)) and not isinstance(v, bool)]
            rows.append([
                *([rank] if show_rank else []), metric, len(several), _brief(several[-1]) if several else None,
                min(numbers) if numbers else None, max(numbers) if numbers else None,
            ])  # fmt: skip
    header = [*(["rank"] if show_rank else []), "metric", "values", "last", "min", "max"]
    return output.table(rows, header) if rows else "No metrics."


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "a table of " + ", ".join(map(str, value))
    return output.cell(value)


def _columns(table: dict[str, Any]) -> str:
    columns = [value if isinstance(value, list) else [value] for value in table.values()]
    length = max((len(column) for column in columns), default=0)
    padded = [column + [None] * (length - len(column)) for column in columns]
    return output.table(zip(*padded, strict=True), [str(name) for name in table])


@click.command()
@click.argument("run")
@click.argument("prefix", default="")
@output.json_option
def files(run: str, prefix: str, as_json: bool) -> None:
    """List the files of a RUN, all or those whose names start with PREFIX.

    \b
    Examples:
      trainkit files last
      trainkit files last outputs/
    """
    names = [name for name in find.run(run).get_file_names() if name.startswith(prefix)]
    output.emit(names, as_json, "\n".join(names))


@click.command()
@click.argument("run")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), metavar="PATH",
              help="Where to: a file for one NAME, else a directory. Default: the current directory.")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over files that exist.")
@output.json_option
def download(run: str, names: tuple[str, ...], target: Path | None, force: bool, as_json: bool) -> None:
    """Copy files out of a RUN: each NAME, or all that start with it where it ends with `/`; without NAME, outputs/.

    \b
    Examples:
      trainkit download last outputs/model.pt
      trainkit download last outputs/model.pt -o best.pt
      trainkit download last outputs/ logs/ -o results
    """
    found = find.run(run)
    plan = _plan(found.get_file_names(), found.id, names or ("outputs/",), target)
    taken = [str(path) for path in plan.values() if path.exists()]
    if taken and not force:
        raise UserErrorException(f"{taken[0]} exists already; --force writes over it, -o names another place.")
    for name, path in plan.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        found.download_file(name=name, output_file_path=str(path))
    value = [{"name": name, "path": str(path.absolute())} for name, path in plan.items()]
    output.emit(value, as_json, "\n".join(str(path) for path in plan.values()))


def _plan(existing: list[str], run_id: str, names: tuple[str, ...], target: Path | None) -> dict[str, Path]:
    """Which file goes where. Raises NotFound where a name means nothing."""
    plan: dict[str, Path] = {}
    for name in names:
        if name in existing:
            single = target is not None and len(names) == 1 and not target.is_dir()
            plan[name] = target if single and target is not None else (target or Path()) / Path(name).name
            continue
        inside = [file for file in existing if file.startswith(name.rstrip("/") + "/")]
        if not inside:
            raise NotFound(f"{run_id} has no file {name!r}; `trainkit files {run_id}` lists what it has.")
        plan.update({file: (target or Path()) / file for file in inside})
    return plan
