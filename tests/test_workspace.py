"""A workspace: made once, found from anywhere, never where the current directory happens to be."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trainkit import AmlCompute, ComputeTarget, UserErrorException, Workspace, WorkspaceException


def test_create_makes_a_workspace_that_from_config_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Workspace.create("birds", path=tmp_path / "deep" / "ws")
    inside = tmp_path / "deep/ws/src"
    inside.mkdir()
    monkeypatch.chdir(inside)
    found = Workspace.from_config()
    assert found == made
    assert found.root == tmp_path / "deep/ws/.trainkit"
    assert found.root.is_absolute()
    assert stat.S_IMODE(found.root.stat().st_mode) == 0o700
    assert (found.name, found.location) == ("birds", "local")
    assert all(isinstance(value, str) for value in (found.subscription_id, found.resource_group))
    assert Workspace.from_config(path=str(tmp_path / "deep/ws/config.json")) == made
    assert Workspace.get("birds") == made == Workspace(workspace_name="birds")
    assert found.get_details()["root"] == str(found.root)


def test_create_never_writes_over(tmp_path: Path) -> None:
    Workspace.create("birds", path=tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserErrorException, match="it is the workspace 'birds'"):
        Workspace.create("birds", path=tmp_path)
    with pytest.raises(UserErrorException, match="it is the workspace 'birds'"):
        Workspace.create("fish", path=tmp_path, exist_ok=True)
    assert Workspace.create("birds", path=tmp_path, exist_ok=True).name == "birds"
    assert (tmp_path / "config.json").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [".trainkit", "config.json"]


@pytest.mark.parametrize("name", ["", "ab", "a" * 34, "-abc", "a b c", "../x", "x/../y", "naïve", "abc\n", 7])
def test_impossible_names_leave_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserErrorException, match="not possible"):
        Workspace.create(name, path=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_impossible_root_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="no directory of its own"):
        Workspace.create("birds", path=tmp_path / "new", root="..")
    assert not (tmp_path / "new").exists()


def test_one_of_many_at_once_makes_it(tmp_path: Path) -> None:
    code = (
        "import sys; from trainkit import Workspace, UserErrorException\n"
        "sys.stdin.readline()\n"
        "try: Workspace.create(sys.argv[1], path=sys.argv[2]); print('made')\n"
        "except UserErrorException: print('refused')"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", code, f"ws-{i}", str(tmp_path)], stdin=-1, stdout=-1, text=True)
        for i in range(5)
    ]
    answers = [process.communicate("go\n")[0].strip() for process in several]
    assert sorted(answers) == ["made"] + ["refused"] * 4
    assert Workspace.from_config(tmp_path).name == f"ws-{answers.index('made')}"


def test_another_workspace_than_asked_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workspace.create("birds", path=tmp_path, subscription_id="s1", resource_group="g1")
    monkeypatch.chdir(tmp_path)
    assert Workspace("s1", "g1", "birds").name == "birds"
    for asked in [("s2", "g1", "birds"), ("s1", "g2", "birds"), ("s1", "g1", "fish")]:
        with pytest.raises(UserErrorException, match="The workspace asked for"):
            Workspace(*asked)


def test_write_config_is_found_first_and_means_the_same_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.create("birds", path=tmp_path / "ws")
    config = tmp_path / "ws/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vm_sizes": {"BIG": "local"}}))
    workspace = Workspace.from_config(config)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    workspace.write_config()
    assert (tmp_path / "other/.azureml/config.json").is_file()
    found = Workspace.from_config()
    assert found == workspace
    assert found.config.vm_size("big") is not None
    workspace.write_config(path=str(tmp_path / "ws"), file_name="mine.json")
    written = tmp_path / "ws/.azureml/mine.json"
    assert json.loads(written.read_text())["root"] == ".trainkit"
    assert Workspace.from_config(written) == workspace
    with pytest.raises(UserErrorException, match="is a path"):
        workspace.write_config(file_name="../mine.json")


def test_reading_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"subscription_id": "s", "resource_group": "g", "workspace_name": "birds"})
    )
    workspace = Workspace.from_config(tmp_path)
    assert workspace.compute_targets == {}
    assert workspace.experiments == {}
    assert workspace.environments == {}
    assert workspace.models == {}
    assert os.listdir(tmp_path) == ["config.json"]
    assert workspace.prepare_root() == tmp_path / ".trainkit"
    assert (workspace.root / ".gitignore").read_text() == "*\n"


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    workspace = Workspace.create("birds", path=tmp_path / "ws")
    config = workspace.config.path
    config.write_text(json.dumps({**json.loads(config.read_text()), "root": str(tmp_path / "file" / "root")}))
    with pytest.raises(WorkspaceException, match=r'cannot be made .*"root" in .*config.json'):
        Workspace.from_config(config).prepare_root()
    with pytest.raises(UserErrorException, match="cannot be written"):
        Workspace.create("birds", path=tmp_path / "file" / "ws")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_writable_is_named(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir(mode=0o500)
    with pytest.raises(UserErrorException, match="cannot be written: Permission denied"):
        Workspace.create("birds", path=tmp_path / "ws")


def test_inventory(workspace: Workspace) -> None:
    ComputeTarget.create(workspace, "cpu", AmlCompute.provisioning_configuration(max_nodes=2))
    assert list(workspace.compute_targets) == ["cpu"]
    with pytest.raises(Exception, match="no_such_run"):
        workspace.get_run("no_such_run")


def test_import_is_light() -> None:
    code = "import sys, trainkit.workspace, trainkit.compute, trainkit.snapshot, trainkit.slots; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "numpy", "onnx", "rich", "click", "PIL", "asyncio", "trainkit.run", "trainkit.model"}
    assert not heavy & set(loaded)
