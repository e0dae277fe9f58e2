"""A run's status and its details, as plain values, from its files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trainkit import events, outcome, runfiles
from trainkit.boot.rundir import TERMINAL, RunDir, read_json
from trainkit.ranklog import RankLog
from trainkit.sentences import describe


def look(run_dir: RunDir) -> tuple[str, str]:
    """The run's status and a sentence of detail. A run that has lost its driver, or its process, is looked after."""
    if run_dir.job.exists() and not run_dir.state.exists():
        from trainkit.drivers import ensure

        ensure(run_dir.path)
    return outcome.status_of(run_dir.path)


def url(run_dir: RunDir) -> str:
    """Where to look at the run: its directory, as a file URL."""
    return run_dir.path.absolute().as_uri()


def recorded_properties(record: Mapping[str, Any]) -> dict[str, Any]:
    """What submitting recorded, under the names that readers of run properties know."""
    names = {"uri": "repository_uri"}
    found = {f"azureml.git.{names.get(key, key)}": value for key, value in (record.get("git") or {}).items()}
    snapshot = (record.get("snapshot") or {}).get("id")
    return {**found, "ContentSnapshotId": snapshot} if snapshot else found


def details(run_dir: RunDir, record: Mapping[str, Any], standing: Mapping[str, str]) -> dict[str, Any]:
    """Everything about the run, for people and for JSON; `standing` is its status and details."""
    status = standing["status"]
    state = read_json(run_dir.state, "status") or {}
    verdict = state.get("verdict") or None
    started = next((s["time"] for s in outcome.stages_of(run_dir) if s.get("status") == "Running"), None)
    definition = {key: record.get(key) for key in ("script", "arguments", "command", "target", "nodes",
                  "ranks_per_node", "spread", "backend", "use_gpu", "devices", "environment")}  # fmt: skip
    found = {
        "runId": record.get("id"),
        "target": record.get("target") or "local",
        "status": status,
        "statusDetails": standing["details"],
        "createdTimeUtc": _utc(record.get("created")),
        "startTimeUtc": _utc(started),
        "endTimeUtc": _utc(state.get("time")) if status in TERMINAL else None,
        "properties": {**recorded_properties(record), **events.properties(run_dir.path)},
        "tags": events.tags(run_dir.path),
        "inputDatasets": record.get("data") or [],
        "outputDatasets": [],
        "runDefinition": definition,
        "logFiles": {name: path.as_uri() for name, path in runfiles.log_files(run_dir).items()},
        "submittedBy": record.get("user"),
    }
    prepared = read_json(run_dir.environment)
    if prepared:
        found["prepared"] = prepared
    if verdict:
        found["error"] = {**verdict, "text": describe(verdict)}
    left_out = (record.get("snapshot") or {}).get("left_out")
    if left_out:
        found["warnings"] = [{"source": "snapshot", "message": f"left out: {', '.join(map(str, left_out))}"}]
    return found


def _utc(seconds: Any) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(float(seconds), timezone.utc).isoformat().replace("+00:00", "Z")


def log_text(path: Path) -> str:
    """A log as text; what was left out of its middle is said there."""
    return RankLog(path).rest().decode("utf-8", "replace")
