"""Damaged run directories: one clear answer about that run, and every other run as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainkit import ActivityFailedException, Experiment, Run, TrainkitError, Workspace, WorkspaceException
from trainkit.boot.rundir import RunDir, publish, read_json
from trainkit.cli.app import main
from trainkit.testing import runs, wait_until
from trainkit.testing.kills import driver_of, kill, processes_of

SCRIPT = """
from trainkit import Run
run = Run.get_context()
run.log("loss", 0.5)
run.tag("stage", "test")
run.add_properties({"seed": 3})
raise ValueError("planned")
"""


FILLS = """
with open("outputs/full", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
"""


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut short": cut,
    "zeros": zeros,
    "noise": lambda file: file.write_bytes(b"\xff\x00\x9d{" * 50),
    "another's": lambda file: file.write_text('[]\n{}\n5\n{"k": [], "n": {}, "t": "x", "status": 5}\n'),
    "nested": lambda file: file.write_text("[" * 100_000),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one failed job and one interactive run."""
    folder = tmp_path_factory.mktemp("whole")
    workspace = Workspace.create("damage", path=str(folder))
    runs.submit(workspace, folder / "source", SCRIPT).wait_for_completion(raise_on_error=False)
    with Experiment(workspace, "other").start_logging(snapshot_directory=None) as run:
        run.log("loss", 1.0)
    return folder


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> tuple[Workspace, Path, str]:
    """A copy of it, the job's directory there, and the other run's id."""
    shutil.copytree(whole, tmp_path / "copy", symlinks=True)
    workspace = Workspace.from_config(str(tmp_path / "copy"))
    (job,) = workspace.root.glob("runs/faults/[!.]*")
    (other,) = workspace.root.glob("runs/other/[!.]*")
    return workspace, job, other.name


def looks(run: Run) -> dict[str, Callable[[], Any]]:
    """All ways to look at a run."""
    return {
        "status": run.get_status, "details": run.get_details, "logs": run.get_details_with_logs, "tags": run.get_tags,
        "metrics": run.get_metrics, "properties": run.get_properties, "files": run.get_file_names,
        "wait": lambda: run.wait_for_completion(raise_on_error=False), "parent": lambda: run.parent,
    }  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_reader_of_a_damaged_run_answers_or_raises_one_clear_error(
    damaged: tuple[Workspace, Path, str], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, job, other = damaged
    files = [file for file in job.rglob("*") if file.is_file() and "code" not in file.parts]
    assert {"run.json", "state.json", "stages.jsonl", "rank-0.jsonl"} <= {file.name for file in files}
    for file in files:
        before = file.read_bytes()
        DAMAGE[damage](file)
        for name, look in looks(workspace.get_run(job.name)).items():
            try:
                look()
            except TrainkitError as error:
                assert str(file) in error.message, (file, name)
        for words in (["show"], ["show", "--json"], ["logs"], ["metrics", "--rank", "all"], ["files"], ["wait"]):
            code = main(["-w", str(workspace.config.path), words[0], job.name, *words[1:]])
            assert code in (0, 1, 5), (file, words, capsys.readouterr().err)
        capsys.readouterr()
        assert main(["-w", str(workspace.config.path), "runs", "--json", "--metric", "loss"]) == 0
        rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
        file.write_bytes(before)
        assert rows[other]["status"] == "Completed"
        assert rows[job.name]["status"] in ("Failed", "Damaged"), file


def test_lists_show_a_damaged_run_where_nothing_is_asked_of_it(damaged: tuple[Workspace, Path, str]) -> None:
    workspace, job, other = damaged
    RunDir(job).run.write_bytes(b"")
    experiment = Experiment(workspace, "faults")
    assert [run.id for run in experiment.get_runs()] == [job.name]
    assert list(experiment.get_runs(tags="stage")) == []
    assert [run.id for run in Experiment(workspace, "other").get_runs()] == [other]
    assert main(["-w", str(workspace.config.path), "show", "last"]) == 0


def test_a_submitted_run_without_its_plan_is_waited_for_by_nobody(damaged: tuple[Workspace, Path, str]) -> None:
    workspace, job, _ = damaged
    RunDir(job).state.unlink()
    RunDir(job).job.unlink()
    with pytest.raises(WorkspaceException, match=r"job\.json is missing"):
        workspace.get_run(job.name).wait_for_completion()


def test_a_run_that_is_deleted_while_somebody_waits_ends_the_waiting(damaged: tuple[Workspace, Path, str]) -> None:
    workspace, job, _ = damaged
    run = workspace.get_run(job.name)
    shutil.rmtree(job)
    with pytest.raises(WorkspaceException, match="was deleted"):
        run.wait_for_completion()


def test_how_a_run_ended_is_judged_again_where_only_that_was_lost(damaged: tuple[Workspace, Path, str]) -> None:
    workspace, job, _ = damaged
    before = read_json(RunDir(job).state) or {}
    RunDir(job).state.unlink()
    workspace.get_run(job.name).wait_for_completion(raise_on_error=False)
    after = read_json(RunDir(job).state) or {}
    assert after["verdict"]["summary"] == before["verdict"]["summary"]


def test_a_plan_that_is_damaged_ends_its_run(damaged: tuple[Workspace, Path, str]) -> None:
    workspace, job, _ = damaged
    RunDir(job).state.unlink()
    RunDir(job).job.write_text("{")
    with pytest.raises(ActivityFailedException, match=r"job\.json is damaged"):
        workspace.get_run(job.name).wait_for_completion()


def test_a_run_whose_driver_cannot_go_on_leaves_no_process(workspace: Any, tmp_path: Path) -> None:
    run = runs.start_sleeper(workspace, tmp_path / "source", "fork")
    directory = RunDir(run.directory)
    directory.attempt(1).handle.write_text("{")
    kill(int(wait_until(lambda: driver_of(run.directory), 20, "the driver")))
    wait_until(lambda: driver_of(run.directory) is None, 20, "the driver's death")
    with pytest.raises(ActivityFailedException, match=r"handle\.json is damaged"):
        run.wait_for_completion()
    wait_until(lambda: not processes_of(run.directory, run.id), 20, "the end of all processes")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_job_that_fills_the_disk_and_goes_on_is_completed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        run = runs.submit(Workspace.create("full", path=str(disk)), tmp_path / "source", FILLS)
        run.wait_for_completion()
        assert shutil.disk_usage(disk).free < 65536 * 4
        assert run.get_status() == "Completed"
    finally:
        wait_until(lambda: subprocess.run(["umount", str(disk)]).returncode == 0, 20, "the disk's last user to go")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_what_fills_the_disk_can_be_canceled(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        stays = "open('full', 'w').close()\nimport time\ntime.sleep(600)\n"
        run = runs.submit(Workspace.create("full", path=str(disk)), tmp_path / "source", FILLS + stays)
        wait_until(lambda: (run.directory / "code" / "full").exists(), 30, "the full disk")
        with pytest.raises(OSError):
            publish(disk / "more.json", {"a": "b" * 100_000})
        run.cancel()
        assert run.wait_for_completion()["status"] == "Canceled"
    finally:
        wait_until(lambda: subprocess.run(["umount", str(disk)]).returncode == 0, 20, "the disk's last user to go")


def test_a_workspace_may_be_moved_while_nothing_runs(damaged: tuple[Workspace, Path, str], whole: Path) -> None:
    workspace, job, _ = damaged  # a copy: what the records say of places is still of the first one
    before = sorted(whole.rglob("*"))
    run = workspace.get_run(job.name)
    assert run.workspace.root == workspace.root
    run.upload_file("weights", job / "run.json")
    assert run.register_model("moved", "weights").version == 1
    assert (workspace.root / "models" / "moved").is_dir()
    shutil.rmtree(RunDir(job).path / "attempts")
    RunDir(job).state.unlink()  # as if it had been queued
    run.wait_for_completion(raise_on_error=False)
    assert str(RunDir(job).attempt(1).rank_log(0)) in (read_json(RunDir(job).state) or {})["verdict"]["log"]
    assert sorted(whole.rglob("*")) == before


def test_a_value_without_its_keys_is_damaged(tmp_path: Path) -> None:
    publish(tmp_path / "value.json", {"a": 1})
    with pytest.raises(WorkspaceException, match=r"value\.json is damaged \(it lacks b\)"):
        read_json(tmp_path / "value.json", "a", "b")
