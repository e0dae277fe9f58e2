"""trainkit runs, show, cancel."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from trainkit.boot.rundir import TERMINAL, RunDir, read_json, read_lines
from trainkit.cli import find, output
from trainkit.errors import UserErrorException

_STATUSES = ("NotStarted", "Preparing", "Queued", "Running", "Finalizing", "CancelRequested", *TERMINAL)


def _last_value(path: Path, name: str) -> Any:
    from trainkit.events import metrics

    value = metrics(path, name=name).get(name)
    return value[-1] if isinstance(value, list) and value else value


def _ended(path: Path, record: dict[str, Any]) -> float | None:
    state = read_json(RunDir(path).state)
    return float(state["time"]) if state and "time" in state else None


@click.command()
@click.option("-e", "--experiment", metavar="NAME", help="Only this experiment's runs.")
@click.option("-s", "--status", "statuses", multiple=True, type=click.Choice(_STATUSES, case_sensitive=False),
              help="Only runs with this status; may be given more than once.")  # fmt: skip
@click.option("-m", "--metric", "metrics", multiple=True, metavar="NAME", help="Add a column: the metric's last value.")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most N runs.")
@output.json_option
def runs(
    experiment: str | None, statuses: tuple[str, ...], metrics: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    """List runs, newest first.

    \b
    Examples:
      trainkit runs -n 10
      trainkit runs --experiment birds --metric best_val_acc
      trainkit runs --status Failed --json
    """
    rows: list[dict[str, Any]] = []
    for path, record in find.records(find.root(), experiment):
        status, details = find.status(path)
        if statuses and status not in statuses:
            continue
        ended = _ended(path, record)
        created = record.get("created")
        rows.append({
            "id": record["id"], "experiment": record.get("experiment"), "number": record.get("number"),
            "status": status, "details": details, "created": created, "ended": ended,
            "seconds": None if ended is None or created is None else ended - created,
            "target": record.get("target"), "tags": record.get("tags", {}),
            "metrics": {name: _last_value(path, name) for name in metrics},
        })  # fmt: skip
        if len(rows) == limit:
            break
    output.emit(rows, as_json, _as_table(rows, metrics))


def _as_table(rows: list[dict[str, Any]], metrics: tuple[str, ...]) -> str:
    if not rows:
        return "No runs."
    header = ["run", "status", "created", "took", *metrics, "details"]
    cells = [
        [r["id"], r["status"], output.ago(r["created"]), output.span(r["seconds"]),
         *(r["metrics"][name] for name in metrics), _short(r["details"])]
        for r in rows
    ]  # fmt: skip
    return output.table(cells, header)


def _short(text: str, width: int = 70) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= width else line[: width - 3] + "..."


@click.command()
@click.argument("run")
@output.json_option
def show(run: str, as_json: bool) -> None:
    """Tell all about one RUN: what it was, how it ended and, where it failed, why.

    \b
    Examples:
      trainkit show last
      trainkit show 4f2a90c1 --json
    """
    from trainkit.events import properties, tags

    path = find.run_dir(find.root(), run)
    record = read_json(RunDir(path).run) or {}
    status, details = find.status(path)
    state = read_json(RunDir(path).state) or {}
    stages = list(read_lines(RunDir(path).stages))
    value = {
        **record,
        "tags": tags(path),
        "properties": properties(path),
        "status": status,
        "details": details,
        "directory": str(path),
        "stages": stages,
        "ended": state.get("time"),
        "verdict": state.get("verdict"),
        "ranks": state.get("ranks", []),
    }
    output.emit(value, as_json, "" if as_json else _as_page(value))


def _as_page(run: dict[str, Any]) -> str:
    ended = run["ended"]
    took = None if ended is None else output.span(ended - run.get("created", ended))
    environment = run.get("environment") or {}
    git = run.get("git") or {}
    script = " ".join([str(run.get("script") or ""), shlex.join(str(a) for a in run.get("arguments") or [])]).strip()
    pairs = [
        ("run", run["id"]),
        ("status", run["status"] + (f": {_short(run['details'], 200)}" if run["details"] else "")),
        ("experiment", f"{run.get('experiment')} (run {run.get('number')})"),
        ("name", run.get("display_name") if run.get("display_name") != run["id"] else None),
        ("created", f"{output.clock(run.get('created'))} by {run.get('user')} on {run.get('host')}"),
        ("took", took),
        ("script", script or shlex.join(run.get("command") or [])),
        ("world", _world(run)),
        ("target", run.get("target_words") or run.get("target")),
        ("devices", run.get("devices")),
        ("environment", environment.get("name") or environment.get("digest")),
        ("snapshot", (run.get("snapshot") or {}).get("id")),
        ("commit", f"{git['commit']}{' (dirty)' if git.get('dirty') else ''}" if git.get("commit") else None),
        ("tags", [f"{k}={v}" if v not in (None, "") else k for k, v in run["tags"].items()]),
        ("properties", [f"{k}={v}" for k, v in run["properties"].items()]),
        ("directory", run["directory"]),
    ]
    return "\n\n".join(part for part in [output.fields(pairs), _stages(run), _why(run)] if part)


def _world(run: dict[str, Any]) -> str | None:
    if not run.get("nodes"):
        return None
    return f"{run['nodes']} node(s) x {run.get('ranks_per_node', 1)} rank(s), spread {run.get('spread')}"


def _stages(run: dict[str, Any]) -> str:
    rows: list[list[Any]] = []
    marks = [*run["stages"]]
    if run["ended"] is not None:
        marks.append({"time": run["ended"], "status": run["status"]})
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        if rows and rows[-1][1] == mark["status"]:
            continue
        lasted = output.span(following["time"] - mark["time"]) if following else ""
        rows.append([output.clock(mark["time"]), mark["status"], lasted])
    return output.table(rows, ["time", "stage", "took"]) if rows else ""


def _why(run: dict[str, Any]) -> str:
    if not run["verdict"]:
        return ""
    from trainkit.outcome import describe

    return describe(run["verdict"])


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when every process has ended.")
@output.json_option
def cancel(runs: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """End runs and every process of them. Their logs and outputs are kept.

    \b
    Examples:
      trainkit cancel last
      trainkit cancel 4f2a90c1 77b01e2d --no-wait
    """
    from trainkit.cli.logs import until_ended

    root = find.root()
    paths = [find.run_dir(root, text) for text in runs]
    before = {path: find.status(path)[0] for path in paths}
    for path in paths:
        if before[path] in TERMINAL:
            continue
        if not RunDir(path).job.exists():
            raise UserErrorException(
                f"{path.name} was not submitted: the script that started it is its only process. End that one."
            )
        find.run(path.name).cancel()
    after = {path: until_ended(path) if wait else find.status(path)[0] for path in paths}
    value = [{"id": path.name, "before": before[path], "status": after[path]} for path in paths]
    lines = [
        f"{path.name} had ended already: {after[path]}." if before[path] in TERMINAL else f"{path.name}: {after[path]}"
        for path in paths
    ]
    output.emit(value, as_json, "\n".join(lines))
