"""A target's limit is real: runs beyond it wait their turn with a reason, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from trainkit import AmlCompute, ComputeTarget, Experiment, ScriptRunConfig, Workspace, drivers
from trainkit.boot.processes import boot_id
from trainkit.boot.rundir import RunDir, read_json, read_lines
from trainkit.cli.app import main
from trainkit.testing.kills import processes_of

SECONDS = 60.0
SCRIPT = """
import os, sys, time
deadline = time.monotonic() + 60
while not os.path.exists(sys.argv[1]):
    assert time.monotonic() < deadline
    time.sleep(0.02)
"""


def until(condition: Callable[[], Any], what: str) -> Any:
    """The condition's value once it is true."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.02)
    return value


def directory(workspace: Workspace, run: Any) -> RunDir:
    return RunDir(next((workspace.root / "runs").glob(f"*/{run.id}")))


def driver_of(run: RunDir) -> int | None:
    """The pid of the run's living driver."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"trainkit.driver" in words and os.fsencode(run.path) in words:
                return int(entry.name)
    return None


@pytest.fixture
def submit(workspace: Workspace, tmp_path: Path) -> Callable[[str], Any]:
    """Submits a job of one node to a target of two, which ends once a file of the given name is there."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(SCRIPT)
    target = ComputeTarget.create(workspace, "pair", AmlCompute.provisioning_configuration(max_nodes=2))
    experiment = Experiment(workspace, "queue")

    def submit(name: str) -> Any:
        arguments = [str(tmp_path / name)]
        return experiment.submit(ScriptRunConfig(str(source), "train.py", arguments, compute_target=target))

    return submit


def interval(run: RunDir) -> tuple[float, float]:
    """When the run began to run, and when it ended."""
    began = next(stage["time"] for stage in read_lines(run.stages) if stage["status"] == "Running")
    ended = read_json(run.state)
    assert ended and ended["status"] == "Completed", ended
    return began, ended["time"]


def test_never_more_than_the_limit_and_in_order(
    workspace: Workspace, tmp_path: Path, submit: Callable[[str], Any]
) -> None:
    runs = [submit("go") for _ in range(5)]
    last = directory(workspace, runs[-1])
    reasons = until(
        lambda: [s["details"] for s in read_lines(last.stages) if "before it" in s["details"]], "a reason to wait"
    )
    assert reasons[0].startswith("waits for 1 of 2 nodes of pair; ")
    assert runs[-1].get_status() == "Queued"
    until(lambda: runs[0].get_status() == runs[1].get_status() == "Running", "the first two run")
    status = ComputeTarget(workspace, "pair").get_status().serialize()
    assert (status["currentNodeCount"], status["nodeStateCounts"]["runningNodeCount"]) == (2, 2)
    assert {run.id for run in ComputeTarget(workspace, "pair").get_active_runs()} == {run.id for run in runs}
    (tmp_path / "go").touch()
    for run in runs:
        run.wait_for_completion()
    intervals = [interval(directory(workspace, run)) for run in runs]
    for place, (began, _) in enumerate(intervals):
        assert sum(a <= began < b for a, b in intervals) <= 2
        assert sum(ended <= began for _, ended in intervals[:place]) >= place - 1  # all before it but one have ended
    assert ComputeTarget(workspace, "pair").list_nodes() == []


def test_a_place_survives_the_kill_of_its_driver(
    workspace: Workspace, tmp_path: Path, submit: Callable[[str], Any]
) -> None:
    first = [submit("one"), submit("two")]
    until(lambda: all(run.get_status() == "Running" for run in first), "the first two run")
    third, fourth = submit("three"), submit("four")
    for run in (directory(workspace, third), directory(workspace, fourth)):
        pid = until(lambda run=run: driver_of(run), "a driver")  # type: ignore[misc]
        until(lambda run=run: any(s["status"] == "Queued" for s in read_lines(run.stages)), "waiting")  # type: ignore[misc]
        os.kill(pid, signal.SIGKILL)
    tickets = json.loads((workspace.root / "targets" / "pair" / "tickets.json").read_text())["tickets"]
    assert [ticket["run_id"] for ticket in tickets] == [run.id for run in (*first, third, fourth)]
    assert fourth.get_status() == "Queued"  # whoever looks takes it over, and what is before it
    (tmp_path / "one").touch()
    until(lambda: third.get_status() == "Running", "the third run's turn")
    assert fourth.get_status() == "Queued"
    for name in ("two", "three", "four"):
        (tmp_path / name).touch()
    for run in (fourth, third, *first):
        run.wait_for_completion()
        assert run.get_status() == "Completed"


def test_after_a_restart_of_the_machine_any_command_goes_on(
    workspace: Workspace, tmp_path: Path, submit: Callable[[str], Any]
) -> None:
    first, second, third = submit("one"), submit("one"), submit("never")
    for run in (first, second):
        until(lambda run=run: run._dir.attempt(1).rank_log(0).exists(), "the first two run")  # type: ignore[misc]
    for run in (first, second, third):  # nothing of any of them survives
        os.kill(until(lambda run=run: driver_of(run._dir), "a driver"), signal.SIGKILL)  # type: ignore[misc]
    for run in (first, second):
        for pid in processes_of(run.directory, run.id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for file in run.directory.glob("attempts/1/**/*.json"):
            file.write_text(file.read_text().replace(boot_id(), "another-start"))
    (tmp_path / "never").touch()

    def ended() -> bool:
        assert main(["-w", str(workspace.config.path), "compute", "list"]) == 0  # a command that looks at no run
        return all(run._dir.state.exists() for run in (first, second, third))

    until(ended, "the end of all")
    assert [run.get_status() for run in (first, second, third)] == ["Failed", "Failed", "Completed"]
    assert first.get_detailed_status()["details"].startswith("machine restarted")


def test_many_looks_at_once_start_one_driver(
    workspace: Workspace, tmp_path: Path, submit: Callable[[str], Any]
) -> None:
    run = submit("go")
    until(lambda: run.get_status() == "Running", "it runs")
    until(lambda: drivers._just_spawned(run._dir) is False, "the driver is no new one")
    os.kill(until(lambda: driver_of(run._dir), "a driver"), signal.SIGKILL)
    until(lambda: driver_of(run._dir) is None, "the driver's death")
    before = len(drivers._spawned)
    for _ in range(50):
        run.get_status()
    assert len(drivers._spawned) <= before + 1
    (tmp_path / "go").touch()
    run.wait_for_completion()
