"""mpi4py of the base finds its MPI library also from an environment that is layered over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit import Environment, Experiment, MpiConfiguration, ScriptRunConfig, Workspace


@pytest.mark.engine
def test_two_ranks_in_a_layered_environment(workspace: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(
        "import sys\nfrom mpi4py import MPI\n"
        "print('sum', MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank + 1), 'layer', sys.prefix, flush=True)\n"
    )
    environment = Environment(
        "layered", pip_packages=["--no-index", "iniconfig"]
    )  # which the base has: nothing is fetched
    config = ScriptRunConfig(
        source, "train.py", environment=environment, distributed_job_config=MpiConfiguration(1, 2), use_gpu=False
    )
    run = Experiment(workspace, "layered").submit(config)
    run.wait_for_completion()
    logs = workspace.root / "runs" / "layered" / run.id / "attempts" / "1" / "logs"
    for rank in range(2):
        text = (logs / f"rank-{rank}.log").read_text()
        assert f"sum 3 layer {workspace.root / 'envs'}" in text
