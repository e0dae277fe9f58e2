"""A dry run tells all that submitting would do, and does none of it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.strangers import moon  # noqa: F401
from trainkit import ComputeTarget, Environment, Experiment, MpiConfiguration, PyTorchConfiguration, ScriptRunConfig
from trainkit.distributed import SpreadConfiguration
from trainkit.dryrun import HIDDEN, dry_run, preview
from trainkit.errors import ExperimentExecutionException, UnsupportedJob
from trainkit.workspace import Workspace

pytestmark = pytest.mark.usefixtures("moon")


@pytest.fixture
def config(tmp_path: Path) -> ScriptRunConfig:
    """Two nodes of two ranks."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("")
    environment = Environment("secretive")
    environment.environment_variables["API_TOKEN"] = "hunter2"
    return ScriptRunConfig(
        str(source), "train.py", ["--lr", 0.1], environment=environment, use_gpu=False,
        distributed_job_config=PyTorchConfiguration("Gloo", process_count=4, node_count=2),
    )  # fmt: skip


def files(workspace: Workspace) -> list[str]:
    return sorted(str(path) for path in workspace.root.rglob("*"))


def test_everything_is_told_and_nothing_is_done(workspace: Workspace, config: ScriptRunConfig) -> None:
    moonbase = importlib.import_module("moonbase")
    config.compute_target = ComputeTarget.attach(workspace, "cluster", moonbase.Moon("Tycho", hosts=("a", "b")))
    before = files(workspace)
    text = dry_run(workspace, config)
    for words in (
        "--lr 0.1",
        "2 node(s) x 2 rank(s), spread torchrun",
        "cluster: the launcher 'moon' (crater=Tycho, hosts=a,b)",
        "the launcher 'moon' sends\nto Tycho: 2 nodes, dry-run_TIME_ID",
        "agent ",
        "node 1: ",
        "nothing: the target has room",
        "this is a dry run",
        f'"API_TOKEN": "{HIDDEN}"',
    ):
        assert words in text, text
    assert "hunter2" not in text
    assert files(workspace) == before
    assert not list((workspace.root / "runs").glob("*/*"))


def test_as_values(workspace: Workspace, config: ScriptRunConfig) -> None:
    told = preview(workspace, config, "birds", {"a": "b"})
    assert (told["experiment"], told["launcher"], told["tags"], told["sends"]) == ("birds", "local", {"a": "b"}, "")
    assert [argv[-1] for argv in told["agents"]] == ["0", "1"]
    assert [one["node"] for one in told["commands"]] == [0, 1]
    assert all("torch.distributed.run" in " ".join(one["start"][0]["argv"]) for one in told["commands"])
    assert told["job"]["run_dir"].startswith(str(workspace.root / "runs" / "birds" / "birds_"))


def test_the_ranks_environment_is_told(workspace: Workspace, config: ScriptRunConfig) -> None:
    config.distributed_job_config = SpreadConfiguration("fork", process_count_per_node=2, node_count=1)
    assert "  node 0: RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 " in dry_run(workspace, config)


def test_what_it_would_wait_for(workspace: Workspace, config: ScriptRunConfig) -> None:
    target = ComputeTarget.attach(workspace, "cluster", importlib.import_module("moonbase").Moon("Tycho"), max_nodes=2)
    config.compute_target = target
    (workspace.root / "runs" / "birds" / "a").mkdir(parents=True)
    target.slots.request("a", workspace.root / "runs" / "birds" / "a", 1)
    assert target.slots.acquire("a") == ""
    assert preview(workspace, config)["waits_for"] == "waits for 2 of 2 nodes of cluster; 1 is in use by a"
    assert "1 is in use by a" in dry_run(workspace, config)


def test_what_only_the_node_knows_is_said(workspace: Workspace, config: ScriptRunConfig) -> None:
    config.distributed_job_config = MpiConfiguration(2, 1)
    config.environment = Environment("layer", pip_packages=["a-package-that-nobody-has==1"])
    told = preview(workspace, config)
    assert told["commands"][0]["start"] == []
    assert told["job"]["interpreter"] in told["commands"][0]["known_there"]
    assert "known on the node alone" in dry_run(workspace, config)


def test_what_submit_refuses_is_refused(workspace: Workspace, config: ScriptRunConfig) -> None:
    config.script = "absent.py"
    with pytest.raises(ExperimentExecutionException, match="absent.py script path doesn't exist") as told:
        dry_run(workspace, config)
    with pytest.raises(ExperimentExecutionException) as refused:
        Experiment(workspace, "birds").submit(config)
    assert str(told.value) == str(refused.value)
    config.script = "train.py"
    config.compute_target = ComputeTarget.attach(
        workspace, "one", importlib.import_module("moonbase").Moon("x"), max_nodes=1
    )
    with pytest.raises(UnsupportedJob, match="2 nodes were asked of one"):
        dry_run(workspace, config)
