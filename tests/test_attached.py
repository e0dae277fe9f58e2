"""Clusters that exist, attached as targets by a launcher: what is recorded, what is refused, where jobs run."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.strangers import moon  # noqa: F401
from trainkit import AmlCompute, ComputeTarget, ComputeTargetException, Experiment, ScriptRunConfig, UserErrorException
from trainkit.attached import AttachedCompute
from trainkit.compute import resolve
from trainkit.errors import WorkspaceException
from trainkit.estimators import Estimator
from trainkit.options import launcher_of
from trainkit.workspace import Workspace
from trainkit_launchers.local import Local

pytestmark = pytest.mark.usefixtures("moon")


def make(kind: str = "Moon", **values: Any) -> Any:
    """A launcher of the stranger's distribution."""
    cls = getattr(importlib.import_module("moonbase"), kind)
    return cls(**({"crater": "Tycho"} | values if kind == "Moon" else values))


def record(workspace: Workspace, name: str = "cluster") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workspace.root / "compute" / f"{name}.json").read_text())
    return found


def test_attached_found_and_detached(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    made = ComputeTarget.attach(workspace, "cluster", make(hosts=("a", "b"), key_file=Path("/k")), tags={"a": "b"})
    assert type(made) is AttachedCompute
    kept = record(workspace)
    assert (kept["launcher"], kept["max_nodes"], kept["options"]["hosts"]) == ("moon", None, ["a", "b"])
    assert kept["options"]["rover"] == {"name": "first", "wheels": 4, "token": ""}
    found = ComputeTarget(workspace, "cluster")
    assert (type(found), found.type, found.tags) == (AttachedCompute, "Attached", {"a": "b"})
    assert found.launcher == make(hosts=("a", "b"), key_file=Path("/k"))
    assert copy.deepcopy(found).name == "cluster"
    assert [type(target) for target in workspace.compute_targets.values()] == [AttachedCompute]
    found.wait_for_completion(show_output=True)
    assert "Succeeded" in capsys.readouterr().out
    status = found.get_status().serialize()
    assert (status["provisioningState"], status["scaleSettings"]["maxNodeCount"]) == ("Succeeded", None)
    assert found.serialize()["launcher"] == "moon"
    with pytest.raises(ComputeTargetException, match="was attached; use detach"):
        found.delete()
    with pytest.raises(ComputeTargetException, match="was attached, not created"):
        AmlCompute(workspace, "cluster")
    found.detach()
    assert workspace.compute_targets == {}
    assert found.get_status().provisioning_state == "Deleting"


def test_the_old_sdks_words_attach_too(workspace: Workspace) -> None:
    target = ComputeTarget.attach(workspace=workspace, name="cluster", attach_configuration=Local(), max_nodes=3)
    assert (target.launcher, target.max_nodes) == (Local(), 3)
    with pytest.raises(ComputeTargetException, match="provisioning configuration is given to ComputeTarget.create"):
        ComputeTarget.attach(workspace, "other", AmlCompute.provisioning_configuration(max_nodes=1))  # type: ignore[arg-type]
    with pytest.raises(UserErrorException, match="reserved name"):
        ComputeTarget.attach(workspace, "local", Local())


def test_attaching_again_is_the_same_or_refused(workspace: Workspace) -> None:
    first = ComputeTarget.attach(workspace, "cluster", make(), max_nodes=2)
    assert ComputeTarget.attach(workspace, "cluster", make(), max_nodes=2).created_on == first.created_on
    for launcher, most in ((make(crater="Copernicus"), 2), (make(), None), (Local(), 2)):
        with pytest.raises(ComputeTargetException, match=r"exists, but not as asked.*detach\(\) it first"):
            ComputeTarget.attach(workspace, "cluster", launcher, max_nodes=most)
    with pytest.raises(ComputeTargetException, match="was attached, not created"):
        ComputeTarget.create(workspace, "cluster", AmlCompute.provisioning_configuration(max_nodes=1))
    ComputeTarget.create(workspace, "created", AmlCompute.provisioning_configuration(max_nodes=1))
    with pytest.raises(ComputeTargetException, match=r"delete\(\) it first"):
        ComputeTarget.attach(workspace, "created", Local())
    with pytest.raises(ComputeTargetException, match="was created, not attached"):
        AttachedCompute(workspace, "created")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"password": "hunter2"}, "password of Moon would write a secret into a record. Give it by reference"),
        ({"labels": {"API_TOKEN": "hunter2"}}, "API_TOKEN of Moon would write a secret"),
        ({"rovers": {"name": "x", "token": "hunter2"}}, "token of Moon would write a secret"),
        ({"hosts": ("ssh://me:hunter2@host",)}, "hosts of Moon holds a password in an address"),
        ({"hosts": "ab"}, "hosts is 'ab'; it is a list of texts"),
        ({"speed": "2"}, "speed is '2'; it is a number"),
        ({"crew": True}, "crew is True; it is a whole number"),
        ({"labels": {"a": object()}}, "which a record cannot keep"),
        ({"side": "inner"}, "side is 'inner'; it is 'near' or 'far'"),
    ],
)
def test_what_a_record_cannot_keep_is_refused(workspace: Workspace, values: dict[str, Any], words: str) -> None:
    if "rovers" in values:
        values = {"rovers": (make("Rover", **values["rovers"]),)}
    if values == {"hosts": "ab"}:
        launcher = make()
        object.__setattr__(launcher, "hosts", "ab")
    else:
        launcher = make(**values)
    with pytest.raises(UserErrorException, match=words):
        ComputeTarget.attach(workspace, "cluster", launcher)
    assert workspace.compute_targets == {}
    assert "hunter2" not in "".join(p.read_text() for p in workspace.root.rglob("*") if p.is_file())


def test_what_is_no_launcher_is_refused(workspace: Workspace) -> None:
    for launcher, words in (
        (Local, "Local is a class: give a launcher"),
        (make("Unknown", crater="x"), "moonbase.Unknown is no installed launcher .installed are .*local, moon"),
        (make("Stone"), "moonbase.Stone is no launcher: it has no start, poll, cancel"),
        ({"hosts": []}, "builtins.dict is no installed launcher"),
    ):
        with pytest.raises(UserErrorException, match=words):
            ComputeTarget.attach(workspace, "cluster", launcher)  # type: ignore[arg-type]
    for most in (0, -1, True, 2.0, "4", 10**9):
        with pytest.raises(ComputeTargetException, match="max_nodes is .*the cluster decides"):
            ComputeTarget.attach(workspace, "cluster", make(), max_nodes=most)  # type: ignore[arg-type]
    assert workspace.compute_targets == {}


def test_a_limit_counts_and_changes(workspace: Workspace) -> None:
    target = ComputeTarget.attach(workspace, "cluster", make(), max_nodes=1)
    for name in "ab":
        (workspace.root / "runs" / "birds" / name).mkdir(parents=True)
        target.slots.request(name, workspace.root / "runs" / "birds" / name, 1)
    assert target.slots.acquire("a") == ""
    assert "waits for 1 of 1 node" in target.slots.acquire("b")
    target.update(max_nodes=2)
    assert target.slots.acquire("b") == ""
    assert (ComputeTarget(workspace, "cluster").max_nodes, record(workspace)["launcher"]) == (2, "moon")
    with pytest.raises(UserErrorException, match="a, b"):
        target.detach()


def test_a_damaged_record_is_named(workspace: Workspace) -> None:
    ComputeTarget.attach(workspace, "cluster", make())
    file = workspace.root / "compute" / "cluster.json"
    file.write_text('{"launcher": "moon"}')
    with pytest.raises(WorkspaceException, match=r"cluster\.json is damaged.*attach the cluster anew"):
        ComputeTarget(workspace, "cluster")


# Where a job runs


def test_the_launcher_is_resolved_with_its_options(workspace: Workspace) -> None:
    target = ComputeTarget.attach(workspace, "cluster", make(hosts=("a", "b")), max_nodes=4)
    found = resolve(workspace, "cluster")
    assert resolve(workspace, target) == found
    assert (found.launcher, found.max_nodes, found.options["hosts"]) == ("moon", 4, ["a", "b"])
    assert found.words == "cluster: the launcher 'moon' (crater=Tycho, hosts=a,b), at most 4 nodes at once"
    assert found.several_machines
    assert launcher_of(found.launcher, found.options) == make(hosts=("a", "b"))
    ComputeTarget.attach(workspace, "free", make())
    assert resolve(workspace, "free").max_nodes is None


@pytest.mark.parametrize(
    ("mapped", "words"),
    [
        ({"launcher": "moon", "options": {"crater": "x", "crwe": 1}}, "no option 'crwe'; did you mean crew?"),
        ({"launcher": "moon", "options": {}}, "needs the option crater"),
        ({"launcher": "moon", "options": {"crater": 3}}, "crater is 3; it is a text"),
        ({"launcher": "moon", "options": {"crater": "x", "hosts": "a"}}, "hosts is 'a'; it is a list of texts"),
        ({"launcher": "moon", "options": {"crater": "x", "crew": -1}}, "crew is at least 0"),
        ({"launcher": "moon", "options": {"crater": "x", "crew": 101}}, "cannot be made with .*ValueError: too many"),
        ({"launcher": "moon", "options": {"crater": "x", "password": "hunter2"}}, "Give it by reference"),
        ({"launcher": "moon", "options": {"crater": "x", "rover": {"nam": "x"}}}, "rover has no 'nam'; it has name"),
        ({"launcher": "local", "options": {"hosts": []}}, "no option 'hosts'. It takes none"),
        ({"launcher": "sun"}, "no launcher named 'sun'; installed are .*local, moon"),
        ({"launcher": "broken"}, "'broken' of moonbase could not be loaded .*a_package_that_nobody_has"),
        ({"launcher": "stone"}, "is no launcher"),
    ],
)
def test_wrong_options_are_found_when_the_job_is_submitted(
    workspace: Workspace, tmp_path: Path, mapped: dict[str, Any], words: str
) -> None:
    path = workspace.config.path
    path.write_text(json.dumps({**json.loads(path.read_text()), "vm_sizes": {"BIG": mapped}}))
    again = Workspace.from_config(path)
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("")
    estimator = Estimator(source_directory=str(source), entry_script="train.py", vm_size="big")
    with pytest.raises(UserErrorException, match=words):
        Experiment(again, "birds").submit(estimator)
    assert not list((workspace.root / "runs").glob("*/*"))


def test_options_of_every_kind_come_back_from_json() -> None:
    options = {
        "crater": "Tycho", "hosts": ["a"], "crew": 3, "speed": 2, "dark": True, "side": "far", "key_file": "/k",
        "labels": {"a": "b"}, "rover": {"name": "second"},
    }  # fmt: skip
    made: Any = launcher_of("moon", json.loads(json.dumps(options)))
    assert (made.hosts, made.speed, made.key_file, made.rover.wheels) == (("a",), 2, Path("/k"), 4)
    assert launcher_of("moon", {"crater": "x", "key_file": None}) == make(crater="x")


def test_a_job_runs_there(workspace: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("from trainkit import Run\nRun.get_context().log('x', 1)\n")
    target = ComputeTarget.attach(workspace, "cluster", make(), max_nodes=1)
    run = Experiment(workspace, "birds").submit(ScriptRunConfig(str(source), "train.py", compute_target=target))
    run.wait_for_completion()
    assert run.get_metrics() == {"x": 1}
    assert list(target.get_active_runs()) == []
    target.detach()
