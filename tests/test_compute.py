"""Compute targets: looked up, described, measured; and where a job that names one runs."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.strangers import moon  # noqa: F401
from trainkit import (
    AmlCompute,
    ComputeTarget,
    ComputeTargetException,
    UserErrorException,
    Workspace,
    WorkspaceException,
)
from trainkit.boot.rundir import RunDir, publish
from trainkit.compute import resolve

STATUS_KEYS = {
    "currentNodeCount", "targetNodeCount", "nodeStateCounts", "allocationState", "allocationStateTransitionTime",
    "errors", "creationTime", "modifiedTime", "provisioningState", "provisioningStateTransitionTime", "scaleSettings",
    "vmPriority", "vmSize",
}  # fmt: skip


def create(workspace: Workspace, name: str = "cluster", **values: Any) -> AmlCompute:
    """A target of four nodes, unless `values` say otherwise."""
    return ComputeTarget.create(
        workspace, name, AmlCompute.provisioning_configuration(**{"vm_size": "STANDARD_NC6", "max_nodes": 4, **values})
    )


def run(workspace: Workspace, name: str) -> Path:
    """A run's directory."""
    path = workspace.root / "runs" / "birds" / name
    path.mkdir(parents=True)
    return path


def test_first_missing_then_made_then_found(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ComputeTargetException, match="ComputeTargetNotFound: Compute Target with name gpucluster not"):
        ComputeTarget(workspace=workspace, name="gpucluster")
    made = create(workspace, "gpucluster")
    made.wait_for_completion(show_output=True, min_node_count=None, timeout_in_minutes=20)
    printed = capsys.readouterr().out
    assert "Succeeded" in printed
    assert "Minimum number of nodes requested have been provisioned" in printed
    made.wait_for_completion()
    assert capsys.readouterr().out == ""
    found = ComputeTarget(workspace=workspace, name="gpucluster")
    assert type(found) is AmlCompute
    assert (found.name, found.type, found.vm_size, found.provisioning_state) == (
        "gpucluster", "AmlCompute", "STANDARD_NC6", "Succeeded",
    )  # fmt: skip
    assert workspace.compute_targets["gpucluster"].name == "gpucluster"
    assert copy.deepcopy(found).name == "gpucluster"
    with pytest.raises(ComputeTargetException, match="its targets: gpucluster"):
        ComputeTarget(workspace, "gpu-cluster")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "x\0", "a" * 1000, 3, None])
def test_names_that_cannot_be_are_not_found(workspace: Workspace, name: Any) -> None:
    with pytest.raises(ComputeTargetException, match="ComputeTargetNotFound"):
        ComputeTarget(workspace, name)
    with pytest.raises(ComputeTargetException, match="not possible"):
        create(workspace, name)
    assert workspace.compute_targets == {}


@pytest.mark.parametrize("name", ["local", "amlcompute", "containerinstance", "Local"])
def test_reserved_names(workspace: Workspace, name: str) -> None:
    with pytest.raises(UserErrorException, match=f"different target name. {name} is a reserved name"):
        create(workspace, name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_nodes": None}, "max nodes count is mandatory"),
        ({"max_nodes": 1, "min_nodes": 2}, "max nodes count must be greater than or equal to min nodes count"),
        ({"max_nodes": 0}, "max_nodes is 0"),
        ({"max_nodes": -1}, "max_nodes is -1"),
        ({"max_nodes": True}, "max_nodes is True"),
        ({"max_nodes": 2.0}, "max_nodes is 2.0"),
        ({"max_nodes": "4"}, "max_nodes is '4'"),
        ({"max_nodes": 10**9}, "from 1 to 10000"),
        ({"min_nodes": -1}, "min_nodes is -1"),
        ({"idle_seconds_before_scaledown": -1}, "idle_seconds_before_scaledown is -1"),
        ({"vm_priority": "spot"}, "vm_priority is 'spot'"),
        ({"vm_size": 6}, "vm_size is 6"),
        ({"tags": {"a": "b"}, "description": 3}, "description"),
    ],
)
def test_impossible_descriptions(workspace: Workspace, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ComputeTargetException, match=f"Invalid provisioning configuration, .*{words}"):
        create(workspace, **values)
    assert not (workspace.root / "compute").exists()


def test_only_a_description_creates(workspace: Workspace) -> None:
    with pytest.raises(ComputeTargetException, match="returns, not dict"):
        ComputeTarget.create(workspace, "cluster", {"max_nodes": 4})  # type: ignore[arg-type]


def test_arguments_for_a_clouds_machines_have_no_effect_and_are_not_kept(workspace: Workspace) -> None:
    with pytest.warns(DeprecationWarning, match="admin_username, admin_user_password") as caught:
        create(workspace, admin_username="me", admin_user_password="hunter2")
    assert len(caught) == 1
    assert "hunter2" not in "".join(p.read_text() for p in workspace.root.rglob("*") if p.is_file())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create(workspace, "other", vm_priority="LowPriority")


def test_creating_again_is_the_same_or_refused(workspace: Workspace) -> None:
    first = create(workspace, tags={"a": "b"})
    assert create(workspace, vm_size="standard_nc6").created_on == first.created_on
    with pytest.raises(ComputeTargetException, match="exists, but not as asked: .*max_nodes=4.*max_nodes=8"):
        create(workspace, max_nodes=8)
    assert ComputeTarget(workspace, "cluster").configuration.max_nodes == 4


def test_status_always_answers(workspace: Workspace) -> None:
    target = create(workspace, min_nodes=1)
    status = target.get_status().serialize()
    assert set(status) == STATUS_KEYS
    assert json.loads(json.dumps(status)) == status
    assert status["scaleSettings"] == {
        "minNodeCount": 1, "maxNodeCount": 4, "nodeIdleTimeBeforeScaleDown": "PT1800S",
    }  # fmt: skip
    assert set(status["nodeStateCounts"]) == {
        f"{s}NodeCount" for s in ("preparing", "running", "idle", "unusable", "leaving", "preempted")
    }
    assert (status["currentNodeCount"], status["nodeStateCounts"]["idleNodeCount"]) == (1, 1)
    assert (status["provisioningState"], status["allocationState"], status["errors"]) == ("Succeeded", "Steady", None)
    target.delete()
    assert set(target.get_status().serialize()) == STATUS_KEYS
    assert target.get_status().provisioning_state == "Deleting"
    with pytest.raises(ComputeTargetException, match="not found"):
        target.refresh_state()


def test_status_counts_what_runs_hold_and_want(workspace: Workspace) -> None:
    target = create(workspace, max_nodes=3)
    for name, nodes in (("a", 2), ("b", 3)):
        target.slots.request(name, run(workspace, name), nodes)
    assert target.slots.acquire("a") == ""
    assert target.slots.acquire("b") == "waits for 3 of 3 nodes of cluster; 2 are in use by a"
    status = ComputeTarget(workspace, "cluster").get_status().serialize()
    assert (status["currentNodeCount"], status["targetNodeCount"], status["allocationState"]) == (2, 3, "Resizing")
    assert status["nodeStateCounts"]["runningNodeCount"] == 2
    assert [node["runId"] for node in target.list_nodes()] == ["a", "a"]
    with pytest.raises(UserErrorException, match="a, b"):
        target.delete()
    for name in "ab":
        publish(RunDir(workspace.root / "runs" / "birds" / name).state, {"status": "Completed"})
    assert target.list_nodes() == []
    assert list(target.get_active_runs()) == []
    target.delete()
    assert workspace.compute_targets == {}


def test_update_counts_for_runs_that_wait(workspace: Workspace) -> None:
    target, early = create(workspace, max_nodes=1), ComputeTarget(workspace, "cluster")
    for name in "ab":
        early.slots.request(name, run(workspace, name), 1)
    assert early.slots.acquire("a") == ""
    assert early.slots.acquire("b") != ""
    target.update(max_nodes=2, idle_seconds_before_scaledown=60)
    assert early.slots.acquire("b") == ""
    early.refresh_state()
    assert early.configuration.max_nodes == 2
    assert early.get_status().scale_settings["nodeIdleTimeBeforeScaleDown"] == "PT60S"
    with pytest.raises(ComputeTargetException, match="max_nodes is 0"):
        target.update(max_nodes=0)
    with pytest.raises(ComputeTargetException, match="must be greater than or equal"):
        target.update(min_nodes=3)
    assert ComputeTarget(workspace, "cluster").configuration == early.configuration


def test_what_this_kind_of_target_cannot(workspace: Workspace) -> None:
    target = create(workspace)
    with pytest.raises(ComputeTargetException, match="use delete"):
        target.detach()
    with pytest.raises(ComputeTargetException, match="never has 5 nodes"):
        target.wait_for_completion(min_node_count=5)


def test_a_damaged_record_is_named(workspace: Workspace) -> None:
    create(workspace)
    record = workspace.root / "compute" / "cluster.json"
    for text in ("{", "{}"):
        record.write_text(text)
        with pytest.raises(WorkspaceException, match=r"cluster\.json is damaged"):
            ComputeTarget(workspace, "cluster")


def test_many_create_at_once(workspace: Workspace) -> None:
    code = (
        "import sys; from trainkit import Workspace, ComputeTarget, AmlCompute\n"
        "ws = Workspace.from_config(sys.argv[1]); sys.stdin.readline()\n"
        "print(ComputeTarget.create(ws, 'c', AmlCompute.provisioning_configuration(max_nodes=3)).created_on)"
    )
    command = [sys.executable, "-c", code, str(workspace.config.path)]
    several = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(6)]
    answers = {process.communicate("go\n")[0].strip() for process in several}
    assert answers == {ComputeTarget(workspace, "c").created_on}


# Where a job runs


@pytest.mark.parametrize("target", [None, "local"])
def test_no_target_is_this_machine(workspace: Workspace, target: Any) -> None:
    found = resolve(workspace, target)
    assert (found.name, found.launcher, found.options, found.max_nodes) == ("local", "local", {}, None)
    assert found.words == "this machine"


def test_an_unmapped_size_is_this_machine_and_the_record_says_so(workspace: Workspace) -> None:
    found = resolve(workspace, create(workspace))
    assert (found.name, found.launcher, found.max_nodes, found.vm_size) == ("cluster", "local", 4, "STANDARD_NC6")
    assert found.words == (
        f"cluster: this machine (STANDARD_NC6 is not mapped in {workspace.config.path}), at most 4 nodes at once"
    )
    assert resolve(workspace, "cluster") == found
    assert "not mapped" in resolve(workspace, None, vm_size="STANDARD_NC6").words


@pytest.mark.usefixtures("moon")
def test_config_maps_sizes_to_launchers(workspace: Workspace) -> None:
    path = workspace.config.path
    options = {"crater": "Tycho", "hosts": ["a", "b"]}
    sizes = {"Standard_NC6": {"launcher": "moon", "options": options}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "vm_sizes": sizes}))
    mapped = Workspace.from_config(path)
    found = resolve(mapped, create(mapped))
    assert (found.launcher, found.options, found.max_nodes) == ("moon", options, 4)
    assert found.words == "cluster: STANDARD_NC6 through the launcher 'moon', at most 4 nodes at once"
    single = resolve(mapped, None, vm_size="standard_nc6")
    assert (single.name, single.launcher, single.max_nodes) == ("amlcompute", "moon", None)
    here, other = AmlCompute.supported_vmsizes(mapped)
    assert here["vCPUs"] >= 1
    assert here["memoryGB"] > 0
    assert other == {"name": "Standard_NC6", "launcher": "moon"}


def test_unknown_and_foreign_targets(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ComputeTargetException, match="none yet"):
        resolve(workspace, "cluster")
    with pytest.raises(UserErrorException, match="compute_target is 7"):
        resolve(workspace, 7)
    other = Workspace.create("other", path=tmp_path / "other")
    with pytest.raises(ComputeTargetException, match="belongs to the workspace other"):
        resolve(workspace, create(other))
