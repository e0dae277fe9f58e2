"""Experiments and the runs that a process records itself."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit import Experiment, Run, ScriptRunConfig, SnapshotException, TrainkitError, UserErrorException, Workspace
from trainkit.boot.newrun import next_number
from trainkit.experiment import summaries


@pytest.fixture
def experiment(workspace: Workspace) -> Experiment:
    """An experiment in a new workspace."""
    return Experiment(workspace, name="exp")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300) | st.sampled_from(["../x", "a b", "-a", "a\n", "ä", "a.b", "a" * 256]))
def test_a_name_is_possible_or_refused(workspace: Workspace, name: str) -> None:
    possible = (
        1 <= len(name) <= 255
        and name[0].isalnum()
        and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    )  # fmt: skip
    if possible:
        assert Experiment(workspace, name).name == name
    else:
        with pytest.raises(UserErrorException, match="between 1 and 255 characters"):
            Experiment(workspace, name)


def test_a_name_that_no_zip_file_can_hold_is_said(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "half\udcff").write_text("x")
    with experiment.start_logging(snapshot_directory=tmp_path / "source") as run:
        pass
    with pytest.raises(UserErrorException, match="no zip file can"):
        run.restore_snapshot(path=tmp_path)


def test_the_longest_possible_name_has_runs(workspace: Workspace) -> None:
    experiment = Experiment(workspace, "x" * 255)
    with experiment.start_logging(snapshot_directory=None) as run:
        run.log("a", 1)
    assert workspace.get_run(run.id).get_metrics() == {"a": 1}
    assert [found.id for found in experiment.get_runs()] == [run.id]


def test_it_needs_a_workspace_and_a_text(workspace: Workspace) -> None:
    with pytest.raises(UserErrorException, match="workspace"):
        Experiment("exp", workspace)  # type: ignore[arg-type]
    with pytest.raises(UserErrorException):
        Experiment(workspace, None)  # type: ignore[arg-type]


def test_an_interactive_run_completes_or_fails(experiment: Experiment) -> None:
    with experiment.start_logging(snapshot_directory=None) as run:
        assert run.status == "Running"
        run.log("x", 1)
    assert (run.status, run.type, run.number) == ("Completed", "azureml.interactive", 1)
    assert run.get_metrics() == {"x": 1}
    with pytest.raises(ZeroDivisionError), experiment.start_logging(snapshot_directory=None) as broken:
        broken.log("x", 1 / 0)
    assert broken.status == "Failed"
    error = broken.get_details()["error"]
    assert (error["exception"], error["file"]) == ("ZeroDivisionError", __file__)
    given_up = experiment.start_logging(snapshot_directory=None)
    given_up.fail("no more patience", error_code=7)
    assert given_up.get_detailed_status()["details"] == "rank 0 failed with run.fail(): no more patience (code 7)"
    canceled = experiment.start_logging(snapshot_directory=None)
    canceled.cancel()
    canceled.complete()
    assert canceled.status == "Canceled"
    assert [r.number for r in experiment.get_runs()] == [4, 3, 2, 1]


def test_source_and_outputs_are_kept(experiment: Experiment, tmp_path: Path) -> None:
    source, outputs = tmp_path / "source", tmp_path / "results"
    source.mkdir()
    (source / "train.py").write_text("print()")
    outputs.mkdir()
    with experiment.start_logging(outputs=outputs, snapshot_directory=source) as run:
        (outputs / "model.pt").write_text("early")
        assert run.get_file_names() == ["outputs/model.pt"]
        (outputs / "model.pt").write_text("weights")
    assert Path(run.download_file("outputs/model.pt", tmp_path)).read_text() == "weights"
    assert zipfile.ZipFile(run.restore_snapshot(path=tmp_path)).namelist() == ["train.py"]
    assert run.get_properties()["ContentSnapshotId"] == run.get_snapshot_id()


def test_the_folder_outputs_is_made_and_kept_from_now_on(experiment: Experiment) -> None:
    Path("outputs").mkdir()
    Path("outputs/old.txt").write_text("of an earlier program")
    os.utime("outputs/old.txt", (0, 0))
    Path("train.py").write_text("print()")
    with experiment.start_logging() as run:
        stored = run.upload_file("notes.txt", "train.py")
        Path("outputs/model.pt").write_text("weights")
        again = run.take_snapshot(".")
    assert stored.serialize() == {"name": "notes.txt"}
    assert run.get_file_names() == ["notes.txt", "outputs/model.pt"]
    assert again == run.get_snapshot_id()
    Path("train.py").write_text("print(2)")
    other = run.take_snapshot(".")
    assert other != run.get_snapshot_id()
    assert "train.py" in zipfile.ZipFile(run.restore_snapshot(other, "restored")).namelist()
    with experiment.start_logging(outputs=False, snapshot_directory=None) as nothing:
        Path("outputs/more.pt").write_text("weights")
    assert nothing.get_file_names() == []


def test_a_run_that_cannot_start_leaves_nothing(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(SnapshotException):
        experiment.start_logging(snapshot_directory=tmp_path / "missing")
    with pytest.raises(UserErrorException, match="does not take colour"):
        experiment.start_logging(colour="red")
    assert list(experiment.get_runs()) == []
    assert [p.name for p in experiment.directory.glob("*") if p.name != ".number"] == []


def test_children(experiment: Experiment) -> None:
    with experiment.start_logging(snapshot_directory=None) as run:
        with run.child_run("first") as first:
            first.log("x", 1)
            with first.child_run() as below:
                below.log("x", 2)
        several = run.create_children(tag_key="fold", tag_values=[1, 2])
        more = run.create_children(count=2)
        for child in [*several, *more]:
            child.complete()
    assert first.name == "first" and first.parent == run
    assert [child.get_tags() for child in several] == [{"fold": "1"}, {"fold": "2"}]
    assert set(run.get_children()) == {first, *several, *more}
    assert set(run.get_children(recursive=True)) == {first, below, *several, *more}
    assert list(run.get_children(tags={"fold": 2})) == [several[1]]
    assert list(run.get_children(status="Failed")) == []
    assert run.get_metrics(recursive=True)[below.id] == {"x": 2}
    assert list(experiment.get_runs()) == [run]
    assert len(list(experiment.get_runs(include_children=True))) == 7
    assert run.child_run(run_id=first.id) == first
    for bad in ({}, {"count": 0}, {"tag_key": "a"}, {"count": 3, "tag_key": "a", "tag_values": [1]}):
        with pytest.raises(UserErrorException):
            run.create_children(**bad)
    for name in ("../x", "", "a/b", ".x"):
        with pytest.raises(UserErrorException):
            run.child_run(run_id=name)


def test_runs_are_filtered(experiment: Experiment) -> None:
    made = []
    for n in range(3):
        with experiment.start_logging(snapshot_directory=None) as run:
            run.tag("n", n)
            run.add_properties({"even": n % 2 == 0})
        made.append(run)
    assert list(experiment.get_runs(tags="n")) == made[::-1]
    assert list(experiment.get_runs(tags={"n": 1})) == [made[1]]
    assert list(experiment.get_runs(tags=["n", "m"])) == []
    assert list(experiment.get_runs(properties={"even": "True"})) == [made[2], made[0]]
    assert list(experiment.get_runs(type="azureml.scriptrun")) == []
    assert list(Run.list(experiment, status="Completed")) == made[::-1]


def test_experiments_are_listed_tagged_archived_and_deleted(experiment: Experiment, workspace: Workspace) -> None:
    assert Experiment.list(workspace) == []
    experiment.start_logging(snapshot_directory=None).complete()
    Experiment(workspace, "other").set_tags({"team": "birds"})
    assert [e.name for e in Experiment.list(workspace)] == ["exp", "other"]
    assert [e.name for e in Experiment.list(workspace, tags={"team": "birds"})] == ["other"]
    experiment.archive()
    assert [e.name for e in Experiment.list(workspace)] == ["other"]
    assert [e.name for e in Experiment.list(workspace, view_type="ArchivedOnly")] == ["exp"]
    experiment.reactivate()
    assert set(workspace.experiments) == {"exp", "other"}
    with pytest.raises(UserErrorException, match="has 1 runs"):
        Experiment.delete(workspace, "exp")
    Experiment.delete(workspace, "other")
    assert set(workspace.experiments) == {"exp"}
    for bad in ("other", "../exp", ""):
        with pytest.raises(UserErrorException):
            Experiment.delete(workspace, bad)


def test_summaries_are_short_and_newest_first(experiment: Experiment, workspace: Workspace) -> None:
    for n in range(3):
        with experiment.start_logging(snapshot_directory=None, display_name=f"run {n}") as run:
            run.log("loss", 5)
            run.log("loss", n)
    broken = experiment.start_logging(snapshot_directory=None)
    broken.fail("broken")
    found = summaries(workspace.root)
    assert [s["number"] for s in found] == [4, 3, 2, 1]
    assert (found[0]["status"], found[0]["details"]) == ("Failed", "rank 0 failed with run.fail(): broken")
    assert (found[1]["status"], found[1]["display_name"], found[1]["metrics"]) == ("Completed", "run 2", {})
    assert [s["metrics"]["loss"] for s in summaries(workspace.root, metrics=["loss"], limit=2)] == [None, 2]
    assert [s["metrics"] for s in summaries(workspace.root, "exp", ["Completed"], metrics=None)][0] == {"loss": 2}
    assert summaries(workspace.root, "none") == []


@pytest.mark.parametrize("damage", [b"", b"noise\n", bytes(3)])
def test_numbers_go_on_where_their_file_was_damaged(workspace: Workspace, damage: bytes) -> None:
    experiment = Experiment(workspace, "exp")
    for _ in range(3):
        experiment.start_logging(snapshot_directory=None).complete()
    (experiment.directory / ".number").write_bytes(damage)
    assert [next_number(workspace.root, "exp") for _ in range(2)] == [4, 5]


def test_numbers_are_given_once(workspace: Workspace) -> None:
    assert [next_number(workspace.root, "a") for _ in range(12)] == list(range(1, 13))
    assert next_number(workspace.root, "b") == 1


def test_what_a_run_cannot_do_is_said(experiment: Experiment, tmp_path: Any) -> None:
    run = experiment.start_logging(snapshot_directory=None)
    with pytest.raises(UserErrorException, match="this process is part of it"):
        run.wait_for_completion()
    with pytest.raises(UserErrorException, match="has no snapshot"):
        run.get_snapshot_id()
    (tmp_path / "code").mkdir()
    assert run.take_snapshot(tmp_path / "code") == run.get_snapshot_id()
    run.complete()
    assert run.wait_for_completion()["status"] == "Completed"


@pytest.mark.parametrize(
    "value", [5, 1.5, b"x", [], {}, None, object(), "x" * 10_000, "a\0b", "\ud800"], ids=lambda value: repr(value)[:12]
)
def test_a_value_of_another_kind_is_refused_by_name(experiment: Experiment, value: Any) -> None:
    run = experiment.start_logging(snapshot_directory=None)
    calls: list[Callable[[], Any]] = [
        lambda: run.upload_folder("folder", value),
        lambda: run.upload_file("file", value),
        lambda: run.register_model("model", "outputs/" if value is None else value),
        lambda: Experiment(experiment.workspace, value),
        lambda: experiment.submit(ScriptRunConfig(source_directory=5 if value is None else value, script="x.py")),
        lambda: experiment.submit(ScriptRunConfig(source_directory=".", script=value)),
    ]
    if not isinstance(value, str):
        calls += [lambda: run.tag(value, 1), lambda: run.download_files(value or 5)]
        calls += [lambda: run.remove_tags(5 if isinstance(value, (list, dict, bytes)) else value)]
    for call in calls:
        with pytest.raises(TrainkitError):
            call()
    run.complete()
    assert (run.get_tags(), run.get_file_names()) == ({}, [])
