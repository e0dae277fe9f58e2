"""A client on the testbed's ctl: submits a run to Slurm through a workspace whose config.json maps a size to it.

python -m tests.engines.runs_on_slurm FOLDER '{"options": {...}, "script": "...", "nodes": 2, ...}' prints, as JSON
lines, the run's id and folder, then how it ended.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(folder: Path, asked: dict[str, Any]) -> None:
    """Submit, tell which run it is, wait, tell how it ended."""
    from trainkit import Experiment, ScriptRunConfig, Workspace
    from trainkit.distributed import SpreadConfiguration

    os.chdir(folder)
    sizes = {"CLUSTER": {"launcher": "slurm", "options": asked.get("options", {})}}
    names = {"subscription_id": "none", "resource_group": "none", "workspace_name": "slurm"}
    (folder / "config.json").write_text(json.dumps({**names, "root": "state", "vm_sizes": sizes}))
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "train.py").write_text(asked["script"])
    config = ScriptRunConfig(
        "source", "train.py", max_restarts=asked.get("restarts", 0), use_gpu=False,
        distributed_job_config=SpreadConfiguration("fork", asked.get("ranks", 1), asked.get("nodes", 2)),
    )  # fmt: skip
    config.vm_size = "CLUSTER"
    workspace = Workspace.from_config()
    run = Experiment(workspace, "work").submit(config)
    run_dir = next(workspace.root.glob(f"runs/*/{run.id}"))
    print(json.dumps({"id": run.id, "run_dir": str(run_dir)}), flush=True)
    run.wait_for_completion(raise_on_error=False)
    state = json.loads((run_dir / "state.json").read_text())
    stages = [json.loads(line) for line in (run_dir / "stages.jsonl").read_text().splitlines()]
    told = [[stage["status"], stage["details"]] for stage in stages]
    print(json.dumps({**state, "stages": told, "metrics": run.get_metrics(rank="all")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
