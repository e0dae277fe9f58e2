"""Submitting: the plan, the records, the run that appears whole or not at all, and what is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainkit import (
    AmlCompute,
    ComputeTarget,
    DockerConfiguration,
    Environment,
    Estimator,
    Experiment,
    MpiConfiguration,
    PyTorch,
    PyTorchConfiguration,
    RunConfiguration,
    ScriptRunConfig,
    Workspace,
)
from trainkit.boot.gpus import Gpu
from trainkit.boot.identity import node_environment
from trainkit.boot.rundir import RunDir, read_json
from trainkit.distributed import SpreadConfiguration
from trainkit.errors import (
    ActivityFailedException,
    ExperimentExecutionException,
    RunConfigurationException,
    SnapshotException,
    TrainkitError,
    UnsupportedJob,
    UserErrorException,
)
from trainkit.estimators import Gloo
from trainkit.job import Job
from trainkit.plan import decide
from trainkit.submit import plan


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text(
        "import os, sys\nwith open('outputs/seen', 'w') as file:\n"
        "    print(sys.argv[1:], os.environ.get('COLOUR'), file=file)\n"
    )
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(str(p) for p in folder.rglob("*"))


def test_a_run_is_recorded_and_runs(workspace: Workspace, source: Path) -> None:
    environment = Environment("e", environment_variables={"COLOUR": "blue"})
    config = ScriptRunConfig(source, "train.py", ["--lr", 0.1, "$RANK"], environment=environment)
    run = Experiment(workspace, "birds").submit(config, tags={"stage": "test"})
    run_dir = RunDir(workspace.root / "runs" / "birds" / run.id)
    record, job = read_json(run_dir.run), read_json(run_dir.job)
    assert record is not None and job is not None
    assert record["script"] == "train.py" and record["arguments"] == ["--lr", "0.1", "$RANK"]
    assert record["tags"] == {"stage": "test"} and record["number"] == 1 and record["type"] == "azureml.scriptrun"
    assert record["environment"]["environment_variables"] == ["COLOUR"]  # their values may be private
    assert record["workspace"]["root"] == job["root"] == str(workspace.root)
    assert job["target"] == {"name": "local", "launcher": "local", "options": {}, "max_nodes": None}
    planned = Job.from_json(job["job"])
    assert (planned.run_id, planned.run_dir, planned.attempt) == (run.id, str(run_dir.path), 0)
    run.wait_for_completion()
    assert run.get_status() == "Completed"
    assert (run_dir.outputs / "seen").read_text() == "['--lr', '0.1', '0'] blue\n"
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(run_dir.job.stat().st_mode) == 0o600


def test_all_files_are_private_whatever_the_users_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        workspace = Workspace.create("open", path=str(tmp_path))
        run = Experiment(workspace, "birds").submit(ScriptRunConfig(source, "train.py"))
        run.tag("a", "b")
        run.wait_for_completion()
    finally:
        os.umask(before)
    found = [tmp_path / "config.json", workspace.root, *workspace.root.rglob("*")]
    assert run.directory / "driver.log" in found and run.directory / "outputs" / "seen" in found
    assert [str(path) for path in found if not path.is_symlink() and path.stat().st_mode & 0o077] == []


def test_what_a_killed_submit_left_is_swept_up_a_day_later(workspace: Workspace, source: Path) -> None:
    runs, store = workspace.root / "runs" / "birds", workspace.root / "snapshots"
    left = [runs / ".birds_1_aa", store / ".abcd"]
    young = [runs / ".birds_2_bb", store / ".efgh"]
    for folder, file in (left, young):
        (folder / "code").mkdir(parents=True)
        store.mkdir(exist_ok=True)
        file.write_text("half")
    for path in left:
        os.utime(path, (0, 0))
    kept = [
        run for _ in range(2) if (run := Experiment(workspace, "birds").submit(ScriptRunConfig(source, "train.py")))
    ]
    assert [path.exists() for path in left + young] == [False, False, True, True]
    assert [run.number for run in kept] == [1, 2]
    for run in kept:
        run.wait_for_completion()


def test_what_would_make_a_prompt_of_the_scripts_end_is_not_passed_on(workspace: Workspace, source: Path) -> None:
    environment = Environment("e", environment_variables={"PYTHONINSPECT": "1"})
    run = Experiment(workspace, "birds").submit(ScriptRunConfig(source, "train.py", environment=environment))
    run.wait_for_completion()
    assert run.get_status() == "Completed"


@pytest.mark.parametrize("spread", ["fork", "mpi"])
def test_an_interpreter_that_cannot_start_is_told_by_its_own_words(
    workspace: Workspace, source: Path, spread: str
) -> None:
    environment = Environment("e", environment_variables={"PYTHONUTF8": "bad"})
    world = SpreadConfiguration(spread, 2, 1)
    config = ScriptRunConfig(source, "train.py", environment=environment, distributed_job_config=world)
    run = Experiment(workspace, "birds").submit(config)
    with pytest.raises(ActivityFailedException, match="exited with code 1(.|\n)*invalid PYTHONUTF8") as failed:
        run.wait_for_completion()
    assert failed.value.verdict["log"].endswith("agent-0.log")


def test_a_command_runs_once_on_a_node(workspace: Workspace, source: Path) -> None:
    config = ScriptRunConfig(source, command="python train.py --node $NODE_RANK", arguments=["last"])
    run = Experiment(workspace, "birds").submit(config)
    run.wait_for_completion()
    seen = workspace.root / "runs" / "birds" / run.id / "outputs" / "seen"
    assert seen.read_text() == "['--node', '0', 'last'] None\n"


def test_a_plan_writes_nothing(workspace: Workspace, source: Path) -> None:
    (source / "data.csv").write_text("1,2\n")
    before = everything(source.parent)
    planned = plan(workspace, "birds", PyTorch(source, compute_target="local", entry_script="train.py"))
    assert everything(source.parent) == before
    assert planned["script"] == "train.py" and planned["snapshot"]["files"] == 2
    json.dumps(planned)


def test_an_estimators_world(workspace: Workspace, source: Path) -> None:
    made = PyTorch(
        source, compute_target="local", entry_script="train.py", node_count=2, distributed_training=MpiConfiguration()
    )
    job = decide(workspace, "birds", made).job
    assert (job.spread, job.nodes, job.ranks_per_node, job.backend) == ("mpi", 2, 1, "gloo")
    config = ScriptRunConfig(
        source, "train.py", distributed_job_config=PyTorchConfiguration(process_count=4, node_count=2)
    )
    job = decide(workspace, "birds", config, gpus=[]).job
    assert (job.spread, job.nodes, job.ranks_per_node, job.backend) == ("torchrun", 2, 2, "gloo")


def test_gpus(workspace: Workspace, source: Path) -> None:
    gpus = [Gpu(str(n), "NVIDIA A100") for n in range(2)]
    two = PyTorchConfiguration(process_count=2)
    decided = decide(workspace, "birds", ScriptRunConfig(source, "train.py", distributed_job_config=two), gpus=gpus)
    assert (decided.job.gpus_per_node, decided.job.devices, decided.job.backend) == (2, "2 x NVIDIA A100", "nccl")
    node = {"CUDA_VISIBLE_DEVICES": "5,3"}
    few = [Gpu("5"), Gpu("3"), Gpu("1")]  # as a user's CUDA_VISIBLE_DEVICES=5,3,1 leaves them
    job = decide(workspace, "birds", ScriptRunConfig(source, "train.py", distributed_job_config=two), gpus=few).job
    assert node_environment(job, 0) == node
    hidden = decide(workspace, "birds", ScriptRunConfig(source, "train.py", use_gpu=False), gpus=gpus)
    assert (hidden.job.gpus_per_node, hidden.job.devices) == (0, "cpu")
    command = ScriptRunConfig(source, command="torchrun train.py", distributed_job_config=two)
    assert decide(workspace, "birds", command, gpus=gpus).job.gpus_per_node == 2
    with pytest.raises(UnsupportedJob, match="2 x NVIDIA A100"):
        three = MpiConfiguration(3)
        decide(workspace, "birds", ScriptRunConfig(source, "train.py", distributed_job_config=three), gpus=gpus)


def test_targets(workspace: Workspace, source: Path) -> None:
    ComputeTarget.create(workspace, "small", AmlCompute.provisioning_configuration("STANDARD_NC6", max_nodes=2))
    target = ComputeTarget(workspace, "small")
    for named in (target, "small"):
        decided = decide(workspace, "birds", ScriptRunConfig(source, "train.py", compute_target=named))
        assert (decided.target.name, decided.target.max_nodes) == ("small", 2)
    by_size = Estimator(source, vm_size="STANDARD_NC6", entry_script="train.py")
    assert decide(workspace, "birds", by_size).target.launcher == "local"
    three = ScriptRunConfig(source, "train.py", compute_target=target, distributed_job_config=MpiConfiguration(1, 3))
    with pytest.raises(UnsupportedJob, match="at most 2"):
        decide(workspace, "birds", three)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"script": "absent.py"}, ExperimentExecutionException, "script path doesn't exist"),
    ({"script": "../outside.py"}, ExperimentExecutionException, "inside the project folder"),
    ({"source_directory": "absent"}, UserErrorException, "does not exist"),
    ({"script": None}, UserErrorException, "needs a script"),
    ({"command": "ls"}, RunConfigurationException, "either 'script' or 'command'"),
    ({"arguments": [None]}, UserErrorException, r"arguments\[0\]"),
    ({"compute_target": "no-such-target"}, TrainkitError, "no-such-target"),
    ({"compute_target": 3}, UserErrorException, "compute_target"),
    ({"use_gpu": "perhaps"}, UserErrorException, "use_gpu"),
    ({"max_run_duration_seconds": -5}, UserErrorException, "max_run_duration_seconds"),
    ({"resume_from": "x"}, UserErrorException, "resume_from: there is no run or folder"),
    (
        {"docker_runtime_config": DockerConfiguration(use_docker=True)},
        UnsupportedJob,
        "use_docker=True asks for a container, but nothing says of which image",
    ),
    ({"distributed_job_config": MpiConfiguration(10**6)}, RunConfigurationException, "at most"),
    ({"distributed_job_config": MpiConfiguration(1000, 4000)}, UnsupportedJob, "CPUs"),
    ({"run_config": RunConfiguration(environment_variables={"RANK": "1"})}, UserErrorException, "RANK"),
    ({"script": None, "command": "a | b"}, UserErrorException, "only a shell understands"),
    (
        {"script": None, "command": "x", "distributed_job_config": MpiConfiguration()},
        UnsupportedJob,
        "MpiConfiguration starts the ranks of a script",
    ),
]


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED, ids=[str(list(o)) for o, _, _ in REFUSED])
def test_what_cannot_be_is_refused_and_leaves_nothing(
    workspace: Workspace, source: Path, options: Any, kind: type[Exception], message: str
) -> None:
    config = ScriptRunConfig(**{"source_directory": source, "script": "train.py", **options})
    experiment = Experiment(workspace, "birds")
    before = everything(workspace.root)
    with pytest.raises(kind, match=message):
        experiment.submit(config)
    assert everything(workspace.root) == before


@pytest.mark.parametrize("config", [None, "train.py", ScriptRunConfig, {"script": "x"}])
def test_what_is_no_job(workspace: Workspace, config: Any) -> None:
    with pytest.raises(UserErrorException, match="submit takes a ScriptRunConfig or an estimator"):
        Experiment(workspace, "birds").submit(config)


def test_unknown_arguments_of_submit(workspace: Workspace, source: Path) -> None:
    with pytest.raises(UserErrorException, match="node_count"):
        Experiment(workspace, "birds").submit(ScriptRunConfig(source, "train.py"), node_count=2)


def test_later_versions_arguments_say_what_to_do(workspace: Workspace, source: Path) -> None:
    made = Estimator(source, compute_target="local", entry_script="train.py", inputs=["data"])
    with pytest.raises(UnsupportedJob, match="inputs= is not possible in this version: data sets .* script_params"):
        Experiment(workspace, "birds").submit(made)


def test_an_ignored_script_is_told(workspace: Workspace, source: Path) -> None:
    (source / ".gitignore").write_text("train.py\n")
    config = ScriptRunConfig(source, "train.py")
    for act in (lambda: plan(workspace, "birds", config), lambda: Experiment(workspace, "birds").submit(config)):
        with pytest.raises(ExperimentExecutionException, match="not in the snapshot"):
            act()
    assert list((workspace.root / "runs").rglob("run.json")) == []
    assert list((workspace.root / "runs" / "birds").glob("*_*")) == []


def test_a_failed_snapshot_leaves_no_run(workspace: Workspace, source: Path) -> None:
    values = json.loads(workspace.config.path.read_text())
    workspace.config.path.write_text(json.dumps({**values, "snapshot_limit_bytes": 1000}))
    (source / "large").write_bytes(bytes(5000))
    small = Workspace.from_config(workspace.config.path)
    with pytest.raises(SnapshotException, match="large"):
        Experiment(small, "birds").submit(ScriptRunConfig(source, "train.py"))
    assert list((small.root / "runs" / "birds").glob("*_*")) == []


def test_a_root_that_cannot_be_written(workspace: Workspace, source: Path) -> None:
    runs = workspace.root / "runs"
    runs.mkdir(exist_ok=True)
    (runs / "birds").write_text("a file where a folder should be")
    with pytest.raises(TrainkitError):
        Experiment(workspace, "birds").submit(ScriptRunConfig(source, "train.py"))


def test_nccl_of_old_is_refused_without_gpus(workspace: Workspace, source: Path) -> None:
    with pytest.warns(DeprecationWarning):
        gloo = Gloo()
    made = PyTorch(source, compute_target="local", entry_script="train.py", distributed_training=gloo, node_count=2)
    assert decide(workspace, "birds", made, gpus=[]).job.backend == "gloo"
    nccl = PyTorchConfiguration("Nccl", 2)
    with pytest.raises(UnsupportedJob, match="needs GPUs"):
        decide(workspace, "birds", ScriptRunConfig(source, "train.py", distributed_job_config=nccl), gpus=[])


def test_submitting_imports_nothing_heavy(workspace: Workspace, source: Path) -> None:
    code = (
        "import sys\nfrom trainkit import Workspace, ScriptRunConfig, Experiment\nfrom trainkit.submit import plan\n"
        f"plan(Workspace.from_config(), 'birds', ScriptRunConfig({str(source)!r}, 'train.py'))\n"
        "print([m for m in ('torch', 'numpy', 'onnx', 'rich', 'click') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_canceled_while_its_environment_is_built(workspace: Workspace, source: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    package = tmp_path / "tk_slow"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (package / "backend.py").write_text(
        f"import os, time\nopen({str(begun)!r}, 'w').close()\nparent, end = os.getppid(), time.monotonic() + 60\n"
        "while os.getppid() == parent and time.monotonic() < end:\n    time.sleep(0.05)\n"
    )
    lines = ["--no-index", "--no-binary tk-slow", f"tk-slow @ file://{package}"]
    config = ScriptRunConfig(source, "train.py", environment=Environment("slow", pip_packages=lines, inherit=False))
    run = Experiment(workspace, "birds").submit(config)
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < deadline, (workspace.root / "runs" / "birds" / run.id / "prepare.log").read_text()
        time.sleep(0.02)
    run.cancel()
    run.wait_for_completion()
    assert run.get_status() == "Canceled"
    assert [p.name for p in (workspace.root / "envs").iterdir() if not p.name.startswith(".")] == []


def test_a_launcher_that_is_not_installed_is_refused_at_submit(workspace: Workspace, tmp_path: Path) -> None:
    config = json.loads(workspace.config.path.read_text())
    config["vm_sizes"] = {"STANDARD_NC6": {"launcher": "moon"}}
    workspace.config.path.write_text(json.dumps(config))
    moon = Workspace.from_config(str(workspace.config.path))
    target = ComputeTarget.create(moon, "far", AmlCompute.provisioning_configuration("STANDARD_NC6", max_nodes=1))
    (tmp_path / "train.py").write_text("")
    with pytest.raises(UnsupportedJob, match="no launcher named 'moon'; installed are .*local"):
        Experiment(moon, "e").submit(ScriptRunConfig(str(tmp_path), script="train.py", compute_target=target))
