"""One line a run, for lists of hundreds of runs: each costs a few small files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainkit.boot import newrun
from trainkit.boot.rundir import RunDir, read_json
from trainkit.errors import WorkspaceException

DAMAGED = "Damaged"  # in place of a status, where a run's files cannot be read
_KEPT = ("id", "experiment", "number", "type", "display_name", "created", "target", "target_words", "parent", "user",
         "host", "nodes", "ranks_per_node", "script")  # fmt: skip


def summaries(
    root: Path,
    experiment: str | None = None,
    statuses: Sequence[str] = (),
    metrics: Iterable[str] | None = (),
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The runs below a workspace's root, newest first: what they are, how they stand, the last value of some metrics.

    `metrics` None means all metrics. Runs without a driver are looked after, as `Run.get_status` does.
    """
    wanted = None if metrics is None else tuple(metrics)
    found = []
    for path, record in newest(root, experiment):
        summary = _summary(path, record, wanted, statuses)
        if summary is not None:
            found.append(summary)
            if len(found) == limit:
                break
    return found


def newest(root: Path, experiment: str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Directories and records of runs, newest first."""
    if experiment is not None:
        names = [newrun.check_experiment_name(experiment)]
    else:
        names = [p.name for p in newrun.experiments_dir(root).glob("*") if newrun.NAME_RULE.fullmatch(p.name)]
    rows = []
    for name in names:
        for path in newrun.run_dirs(root, name):
            if (path / "run.json").exists():
                record = newrun.listed(path)
                rows.append((-float(record["created"]), -int(record["number"]), str(path), record))
    for _, _, place, record in sorted(rows, key=lambda row: row[:3]):
        yield Path(place), record


def _summary(
    path: Path, record: dict[str, Any], metrics: Sequence[str] | None, statuses: Sequence[str]
) -> dict[str, Any] | None:
    """One run's line; None where its status is not one of those asked for."""
    try:
        status, details, state = _standing(RunDir(path), record)
    except (WorkspaceException, OSError) as error:
        status, details, state = DAMAGED, str(error), {}
    if statuses and status not in statuses:
        return None
    created, ended = record.get("created"), state.get("time")
    return {
        **{key: record.get(key) for key in _KEPT},
        "status": status,
        "details": details,
        "ended": ended,
        "seconds": None if created is None or ended is None else ended - created,
        "tags": record.get("tags") or {},
        "metrics": _last_values(path, metrics),
    }


def _standing(run: RunDir, record: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """A run's status, its details, and its final state if it has one."""
    if "damaged" in record:
        return DAMAGED, record["damaged"], {}
    state = read_json(run.state, "status")
    if state:
        return str(state["status"]), str((state.get("verdict") or {}).get("summary") or ""), state
    from trainkit.rundetails import look

    status, details = look(run)
    return status, details, read_json(run.state, "status") or {}


def _last_values(path: Path, metrics: Sequence[str] | None) -> dict[str, Any]:
    if metrics is not None and not metrics:
        return {}
    from trainkit import events

    last = {name: v[-1] if isinstance(v, list) and v else v for name, v in events.metrics(path).items()}
    return last if metrics is None else {name: last.get(name) for name in metrics}
