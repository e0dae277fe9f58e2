"""trainkit runs, show, cancel."""

from __future__ import annotations

import shlex
from typing import Any

import click

from trainkit.boot.rundir import TERMINAL, RunDir, read_json
from trainkit.cli import find, output

_STATUSES = ("NotStarted", "Preparing", "Queued", "Running", "Finalizing", "CancelRequested", *TERMINAL)


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
    from trainkit.summaries import summaries

    rows = summaries(find.root(), experiment, statuses, metrics, limit)
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
    from trainkit.boot.attempts import launched
    from trainkit.boot.newrun import read_record
    from trainkit.events import properties, tags
    from trainkit.notes import notes_of
    from trainkit.outcome import stages_of

    path = find.run_dir(find.root(), run)
    record = read_record(path)
    status, details = find.status(path)
    state = read_json(RunDir(path).state, "status") or {}
    stages = stages_of(RunDir(path))
    value = {
        **record,
        "tags": tags(path),
        "properties": properties(path),
        "prepared": read_json(RunDir(path).environment) or {},
        "status": status,
        "details": details,
        "directory": str(path),
        "stages": stages,
        "attempts": len(launched(RunDir(path))),
        "ended": state.get("time"),
        "verdict": state.get("verdict"),
        "ranks": state.get("ranks", []),
        "notes": notes_of(RunDir(path)),
    }
    output.emit(value, as_json, "" if as_json else _as_page(value))


def _as_page(run: dict[str, Any]) -> str:
    ended = run["ended"]
    took = None if ended is None else output.span(ended - run.get("created", ended))
    environment = run.get("environment") or {}
    git = run.get("git") or {}
    script = " ".join(
        [str(run.get("loop") or run.get("script") or ""), shlex.join(str(a) for a in run.get("arguments") or [])]
    ).strip()
    pairs = [
        ("run", run["id"]),
        ("status", run["status"] + (f": {_short(run['details'], 200)}" if run["details"] else "")),
        ("experiment", f"{run.get('experiment')} (run {run.get('number')})"),
        ("name", run.get("display_name") if run.get("display_name") != run["id"] else None),
        ("created", f"{output.clock(run.get('created'))} by {run.get('user')} on {run.get('host')}"),
        ("took", took),
        ("script", script or shlex.join(run.get("command") or [])),
        ("world", _world(run)),
        ("attempts", f"{run['attempts']} (restarted {run['attempts'] - 1} times)" if run["attempts"] > 1 else None),
        ("resumed from", (run.get("resume_from") or {}).get("path")),
        ("target", run.get("target_words") or run.get("target")),
        ("devices", run.get("devices")),
        ("environment", environment.get("name") or environment.get("digest")),
        ("image", _image(run)),
        ("snapshot", (run.get("snapshot") or {}).get("id")),
        ("commit", f"{git['commit']}{' (dirty)' if git.get('dirty') else ''}" if git.get("commit") else None),
        ("tags", [f"{k}={v}" if v not in (None, "") else k for k, v in run["tags"].items()]),
        ("properties", [f"{k}={v}" for k, v in run["properties"].items()]),
        ("directory", run["directory"]),
        ("noted", run["notes"]),
    ]
    return "\n\n".join(part for part in [output.fields(pairs), _stages(run), _why(run)] if part)


def _world(run: dict[str, Any]) -> str | None:
    if not run.get("nodes"):
        return None
    return f"{run['nodes']} node(s) x {run.get('ranks_per_node', 1)} rank(s), spread {run.get('spread')}"


def _image(run: dict[str, Any]) -> str | None:
    """The image as it was asked for and, once it is known, as the one that it was."""
    container = run["prepared"].get("container")
    if container:
        return f"{container['name']}, {container['image']}, of {container['engine'] or 'the cluster'}"
    image = (run.get("environment") or {}).get("image")
    return (image.get("base") or "built from a Dockerfile") if image else None


def _stages(run: dict[str, Any]) -> str:
    marks: list[dict[str, Any]] = []
    for mark in [*run["stages"], {"time": run["ended"], "status": run["status"]}]:
        if mark["time"] is not None and (not marks or marks[-1]["status"] != mark["status"]):
            marks.append(mark)
    ends = [mark["time"] for mark in marks[1:]]
    rows = [
        [output.clock(mark["time"]), mark["status"], output.span(end - mark["time"]) if end else ""]
        for mark, end in zip(marks, [*ends, None], strict=True)
    ]
    return output.table(rows, ["time", "stage", "took"]) if rows else ""


def _why(run: dict[str, Any]) -> str:
    if not run["verdict"]:
        return ""
    from trainkit.sentences import describe

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
        find.run(path.name).cancel()
    after = {path: until_ended(path) if wait else find.status(path)[0] for path in paths}
    value = [{"id": path.name, "before": before[path], "status": after[path]} for path in paths]
    lines = [
        f"{path.name} had ended already: {after[path]}." if before[path] in TERMINAL else f"{path.name}: {after[path]}"
        for path in paths
    ]
    output.emit(value, as_json, "\n".join(lines))
