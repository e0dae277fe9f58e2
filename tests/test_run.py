"""Runs of submitted jobs: followed, read, waited for, canceled."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit import (
    ActivityFailedException,
    Experiment,
    ModelPathNotFoundException,
    MpiConfiguration,
    Run,
    ScriptRunConfig,
    UserErrorException,
    Workspace,
)

PAIR = """
import os, sys
from trainkit import Run
run = Run.get_context()
print("rank", run.rank, "of", run.world_size, "\u00e9", flush=True)
run.log("loss", run.rank + 0.5)
run.log("loss", run.rank + 0.25)
run.log("lr", 0.1)
run.tag("stage", "done")
run.add_properties({"seed": 3})
if run.rank == 0:
    with open("outputs/model.pt", "w") as file:
        file.write("weights")
    with open("logs/more.txt", "w") as file:
        file.write("more")
model = run.register_model("pair", "outputs/")
again = run.register_model("pair", "outputs/model.pt")
run.log("versions", "%d %d" % (model.version, again.version))
run.upload_file("scripts/own.py", sys.argv[0])
run.complete()
"""
FAILING = """
from trainkit import Run
Run.get_context().log("x", 1)
print("before", flush=True)
raise ValueError("planned")
"""
PATIENT = """
import os, time
from trainkit import Run
run = Run.get_context()
run.log("x", 1)
open("outputs/early.txt", "w").write("early")
print("waiting for the signal", flush=True)
while not os.path.exists("outputs/go"):
    time.sleep(0.02)
print("went on", flush=True)
"""


def until(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    """The first true value of a condition; fails where none comes in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment in a workspace that this file's tests share."""
    return Experiment(Workspace.create("runs", path=tmp_path_factory.mktemp("workspace")), "exp")


def submit(experiment: Experiment, script: str, **options: Any) -> Run:
    """A submitted run of a script's text."""
    source = experiment.workspace.root.parent / f"source-{abs(hash(script))}"
    source.mkdir(exist_ok=True)
    (source / "main.py").write_text(script)
    return experiment.submit(ScriptRunConfig(source_directory=source, script="main.py", **options))


@pytest.fixture(scope="module")
def pair(experiment: Experiment) -> Run:
    """A completed run of two ranks that mpirun started."""
    run = submit(experiment, PAIR, distributed_job_config=MpiConfiguration(process_count_per_node=2))
    assert run.wait_for_completion()["status"] == "Completed", run.get_details_with_logs()
    return run


@pytest.fixture(scope="module")
def failed(experiment: Experiment) -> Run:
    """A failed run of one rank."""
    run = submit(experiment, FAILING)
    run.wait_for_completion(raise_on_error=False)
    return run


def test_metrics_are_kept_for_each_rank(pair: Run) -> None:
    found = pair.get_metrics()
    assert found["loss"] == [0.5, 0.25] and found["lr"] == 0.1
    assert pair.get_metrics("lr") == {"lr": 0.1}
    assert pair.get_metrics(rank="all")[1]["loss"] == [1.5, 1.25]
    assert pair.get_metrics(rank=1, name="loss") == {"loss": [1.5, 1.25]}


def test_what_all_ranks_ask_for_happens_once(pair: Run) -> None:
    assert [version["versions"] for version in pair.get_metrics(rank="all").values()] == ["1 2", "1 2"]
    assert pair.workspace.models["pair"].version == 2
    assert pair.get_tags() == {"stage": "done"}
    assert pair.get_properties()["seed"] == "3"
    assert pair.get_file_names() == [
        "azureml-logs/70_driver_log.txt", "azureml-logs/70_driver_log_1.txt", "logs/more.txt", "outputs/model.pt",
        "scripts/own.py",
    ]  # fmt: skip


def test_identity_and_details(pair: Run, experiment: Experiment) -> None:
    assert re.fullmatch(r"exp_\d+_[0-9a-f]{8}", pair.id)
    assert (pair.type, pair.number, pair.parent) == ("azureml.scriptrun", 1, None)
    assert pair.experiment == experiment and pair.workspace == experiment.workspace
    assert repr(pair) == f"Run(Experiment: exp, Id: {pair.id}, Type: azureml.scriptrun, Status: Completed)"
    assert pair.get_portal_url() == pair.directory.as_uri()
    details = pair.get_details()
    assert (details["runId"], details["status"]) == (pair.id, "Completed")
    assert details["startTimeUtc"] <= details["endTimeUtc"]
    assert details["runDefinition"]["script"] == "main.py"
    assert details["properties"]["ContentSnapshotId"] == pair.get_snapshot_id()
    assert "rank 1 of 2 é" in pair.get_details_with_logs()["logFiles"]["azureml-logs/70_driver_log_1.txt"]


def test_a_run_is_found_again(pair: Run, experiment: Experiment) -> None:
    for found in (
        Run(experiment, pair.id),
        Run.get(experiment.workspace, pair.id),
        experiment.workspace.get_run(pair.id),
    ):
        assert found == pair and found.get_metrics("lr") == {"lr": 0.1}
    for bad in ("nope", "", "../exp", None, 7, pair.id + "0"):
        with pytest.raises(UserErrorException, match="no run"):
            Run.get(experiment.workspace, bad)  # type: ignore[arg-type]
        with pytest.raises(UserErrorException, match="no run"):
            Run(experiment, bad)  # type: ignore[arg-type]
    with pytest.raises(UserErrorException, match="experiment exp has it"):
        Run(Experiment(experiment.workspace, "other"), pair.id)


def test_a_client_may_add_to_a_run_that_has_ended(failed: Run, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("note")
    failed.tag("checked", "yes")
    failed.upload_file("note.txt", tmp_path / "note.txt")
    failed.log("score", 2)
    assert failed.get_tags() == {"checked": "yes"}
    assert failed.get_metrics() == {"x": 1, "score": 2}
    with pytest.raises(UserErrorException, match="already"):
        failed.upload_file("note.txt", __file__)
    failed.complete()
    assert failed.status == "Failed"


def test_files_are_downloaded_under_the_name_that_was_asked_for(pair: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    pair.download_file(name="outputs/model.pt", output_file_path=os.path.join("./model", "model.pt"))
    assert (tmp_path / "model" / "model.pt").read_text() == "weights"
    assert pair.download_file("outputs/model.pt") == "model.pt"
    assert pair.download_file("outputs/model.pt", tmp_path / "model") == str(tmp_path / "model" / "model.pt")
    pair.download_files(prefix="outputs", output_directory="a")
    pair.download_files(prefix="outputs/", output_directory="b", append_prefix=False)
    pair.download_files(prefix="outputs/m", output_paths=["c/x.pt"])
    pair.download_files(output_directory="all")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*.pt"))] == [
        "a/outputs/model.pt", "all/outputs/model.pt", "b/model.pt", "c/x.pt", "model/model.pt", "model.pt",
    ]  # fmt: skip
    assert pair.download_files(prefix="outputs/x") == []
    with pytest.raises(UserErrorException, match="output_paths"):
        pair.download_files(prefix="outputs/", output_paths=["x", "y"])
    assert sorted(Path(path).name for path in pair.get_all_logs("logs")) == [
        "70_driver_log.txt", "70_driver_log_1.txt", "more.txt",
    ]  # fmt: skip
    with pytest.raises(UserErrorException, match=r"no file named 'outputs/none'. It has: .*outputs/model.pt"):
        pair.download_file("outputs/none")
    with pytest.raises(UserErrorException, match="cannot be written"):
        pair.download_file("outputs/model.pt", tmp_path / "model.pt" / "below")
    assert not list(tmp_path.rglob(".download-*"))


OUTSIDE = ["../run.json", "/etc/passwd", "outputs/../run.json", "azureml-logs/../../run.json", "run.json", "outputs",
           "uploads/scripts/own.py"]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters() | st.sampled_from("/."), max_size=30) | st.sampled_from(OUTSIDE))
def test_no_name_reaches_another_file(pair: Run, tmp_path: Path, name: str) -> None:
    target = tmp_path / "downloaded"
    with pytest.raises(UserErrorException):
        pair.download_file(name, target)
    assert not target.exists()


def test_the_source_can_be_had_back(pair: Run, tmp_path: Path) -> None:
    archive = pair.restore_snapshot(path=tmp_path)
    assert zipfile.ZipFile(archive).read("main.py").decode() == PAIR


def test_a_model_needs_files_of_the_run(pair: Run) -> None:
    for path in ("outputs/none", "none/", "outputs/model", "logs/more"):
        with pytest.raises(ModelPathNotFoundException, match="Could not locate the provided model_path"):
            pair.register_model("other", path)
    with pytest.raises(UserErrorException):
        pair.register_model("other", "../exp")
    with pytest.raises(UserErrorException, match="sample_input_dataset"):
        pair.register_model("other", "outputs/", sample_input_dataset=3)
    assert "other" not in pair.workspace.models
    model = pair.register_model("client", "outputs/", tags={"by": "client"})
    assert (model.version, model.run_id, model.tags) == (1, pair.id, {"by": "client"})
    assert model.files == ["outputs/model.pt"]


def test_a_failure_is_raised_with_its_verdict(failed: Run) -> None:
    with pytest.raises(ActivityFailedException) as raised:
        failed.wait_for_completion()
    verdict = raised.value.verdict
    assert (verdict["rank"], verdict["exception"], verdict["message"]) == (0, "ValueError", "planned")
    assert verdict["line"] == 5
    for words in ("ValueError: planned", "main.py:5", str(failed.directory)):
        assert words in raised.value.message
    details = failed.wait_for_completion(raise_on_error=False)
    assert details["status"] == "Failed" and "planned" in details["error"]["text"]
    assert failed.get_metrics("x") == {"x": 1}


def test_the_console_shows_the_log_and_a_summary(pair: Run, failed: Run, capsys: Any) -> None:
    pair.wait_for_completion(show_output=True)
    assert capsys.readouterr().out == (
        f"RunId: {pair.id}\nWeb View: {pair.get_portal_url()}\n\n"
        "Streaming azureml-logs/70_driver_log.txt\n========================================\n"
        "rank 0 of 2 é\n\n"
        "Execution Summary\n=================\n"
        f"RunId: {pair.id}\nWeb View: {pair.get_portal_url()}\nStatus: Completed\n\n"
    )
    failed.wait_for_completion(show_output=True, raise_on_error=False)
    shown = capsys.readouterr().out
    assert "before\nTraceback" in shown
    assert "Status: Failed\nError: rank 0 failed with ValueError: planned at" in shown


WAITING = """
import sys
from trainkit import Workspace
run = Workspace.from_config(sys.argv[1]).get_run(sys.argv[2])
run.wait_for_completion(show_output=True)
"""


def test_a_run_is_followed_live_and_survives_the_waiters_interruption(experiment: Experiment) -> None:
    run = submit(experiment, PATIENT)
    command = [sys.executable, "-c", WAITING, str(experiment.workspace.config.path), run.id]
    waiter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiter.stdout is not None
    for line in waiter.stdout:
        if line == "waiting for the signal\n":
            break
    assert run.status == "Running"
    assert run.get_metrics() == {"x": 1}
    assert "outputs/early.txt" in run.get_file_names()
    assert run.register_model("early", "outputs/early.txt").version == 1
    waiter.send_signal(signal.SIGINT)
    _, complaint = waiter.communicate(timeout=30)
    assert "ExperimentExecutionException" in complaint
    assert f"trainkit logs -f {run.id}" in complaint and "the run goes on" in complaint
    assert run.status == "Running"
    (run.directory / "outputs" / "go").touch()
    assert run.wait_for_completion()["status"] == "Completed"
    assert "went on" in run.get_details_with_logs()["logFiles"]["azureml-logs/70_driver_log.txt"]


def test_a_canceled_run_keeps_its_files_and_raises_nothing(experiment: Experiment) -> None:
    run = submit(experiment, PATIENT)
    until(lambda: "outputs/early.txt" in run.get_file_names())
    Run(experiment, run.id).cancel()
    assert run.wait_for_completion()["status"] == "Canceled"
    assert run.get_status() == "Canceled"
    run.cancel()
    assert "outputs/early.txt" in run.get_file_names() and run.get_metrics() == {"x": 1}


def test_a_rank_cannot_wait_for_its_own_run(experiment: Experiment) -> None:
    run = submit(experiment, "from trainkit import Run\nRun.get_context().wait_for_completion()\n")
    with pytest.raises(ActivityFailedException, match="this process is part of it"):
        run.wait_for_completion()
    assert run.get_detailed_status()["details"].startswith("rank 0 failed with trainkit.errors.UserErrorException")


def test_a_job_may_be_a_child(pair: Run, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("print('child')\n")
    child = pair.submit_child(ScriptRunConfig(source_directory=tmp_path, script="child.py"))
    assert child.wait_for_completion()["status"] == "Completed"
    assert child.parent == pair
    assert list(pair.get_children()) == [child]
    assert list(pair.get_children(type="azureml.interactive")) == []
    assert child not in list(pair.experiment.get_runs())
    assert child in list(pair.experiment.get_runs(include_children=True))
