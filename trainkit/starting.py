"""What an attempt's ranks are told of their run."""

from __future__ import annotations

from pathlib import Path

from trainkit.boot.rundir import RunDir, read_json
from trainkit.job import Job


def environment(run: RunDir, root: Path, job: Job) -> dict[str, str]:
    """What every rank is told about its run, beside the user's own variables."""
    record = read_json(run.run) or {}
    workspace = record.get("workspace") or {}
    return {
        **job.environment,
        "TRAINKIT_ROOT": str(root),
        "AZUREML_ARM_WORKSPACE_NAME": str(workspace.get("name", "")),
        "AZUREML_WORKSPACE_ID": str(workspace.get("name", "")),
        "AZUREML_ARM_SUBSCRIPTION": str(workspace.get("subscription_id", "")),
        "AZUREML_ARM_RESOURCEGROUP": str(workspace.get("resource_group", "")),
    }
