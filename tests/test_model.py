"""The model registry as its users see it: register, fetch, list, download, edit, delete; also when things go wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit.errors import (
    ModelNotFoundException,
    ModelPathNotFoundException,
    UserErrorException,
    WebserviceException,
)
from trainkit.model import Model, register_files
from trainkit.registry.store import check_file_name, check_name


@dataclass(frozen=True)
class Space:
    """All that the registry asks of a workspace."""

    root: Path


@pytest.fixture
def ws(tmp_path: Path) -> Space:
    return Space(tmp_path / "root")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "job" / "outputs"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"weights " * 1000)
    (folder / "deep" / "labels.txt").write_text("ants\nbees\n")
    return folder


def seen(ws: Space) -> list[str]:
    """All that anybody can see of the registry."""
    return [model.id for model in Model.list(ws)]


def leftovers(ws: Space) -> list[str]:
    return os.listdir(ws.root / "models" / ".new")


def test_versions_count_from_one(ws: Space, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = Model.register(ws, model_path=outputs / "model.pt", model_name="pt-dnn")
    second = Model.register(ws, outputs / "model.pt", "pt-dnn")
    other = Model.register(ws, outputs, "other")
    assert capsys.readouterr().out.splitlines()[0] == "Registering model pt-dnn"
    assert (first.version, second.version, other.version) == (1, 2, 1)
    assert first.id == "pt-dnn:1" and type(first.version) is int
    assert Model(ws, "pt-dnn").version == 2
    assert Model(ws, "pt-dnn", version=1).id == Model(ws, id="pt-dnn:1").id == "pt-dnn:1"
    assert seen(ws) == ["other:1", "pt-dnn:2", "pt-dnn:1"]
    assert [model.id for model in Model.list(ws, latest=True)] == ["other:1", "pt-dnn:2"]
    assert leftovers(ws) == []


def test_a_folder_downloads_as_a_folder(ws: Space, outputs: Path, tmp_path: Path) -> None:
    model = Model.register(ws, str(outputs) + "/", "birds")
    assert model.files == ["outputs/deep/labels.txt", "outputs/model.pt"]
    target = tmp_path / "here" / "there"
    path = Path(model.download(target))
    assert path == target / "outputs"
    assert (path / "model.pt").read_bytes() == (outputs / "model.pt").read_bytes()
    assert (path / "deep" / "labels.txt").read_text() == "ants\nbees\n"
    assert os.listdir(target) == ["outputs"]
    (path / "model.pt").write_bytes(b"a download can be written to")


def test_a_file_downloads_as_a_file(ws: Space, outputs: Path, tmp_path: Path) -> None:
    path = Model.register(ws, outputs / "model.pt", "birds").download(target_dir=str(tmp_path / "d"))
    assert path == str(tmp_path / "d" / "model.pt") and Path(path).is_file()


def test_download_overwrites_only_when_told(ws: Space, outputs: Path, tmp_path: Path) -> None:
    model = Model.register(ws, outputs, "birds")
    taken = tmp_path / "d" / "outputs" / "model.pt"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    (taken.parent / "notes.txt").write_text("mine too")
    with pytest.raises(WebserviceException, match="File already exists. To overwrite, set exist_ok to True."):
        model.download(tmp_path / "d")
    assert taken.read_text() == "mine" and sorted(os.listdir(taken.parent)) == ["model.pt", "notes.txt"]
    model.download(tmp_path / "d", exist_ok=True)
    assert taken.read_bytes() == (outputs / "model.pt").read_bytes()
    assert (taken.parent / "notes.txt").read_text() == "mine too"
    assert (taken.parent / "deep" / "labels.txt").is_file() and os.listdir(tmp_path / "d") == ["outputs"]


def test_download_into_what_is_no_folder(ws: Space, outputs: Path, tmp_path: Path) -> None:
    model = Model.register(ws, outputs, "birds")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "outputs").write_text("a file")
    with pytest.raises(WebserviceException, match="is a file, not a folder"):
        model.download(tmp_path / "d", exist_ok=True)
    (tmp_path / "e" / "outputs" / "model.pt").mkdir(parents=True)
    with pytest.raises(WebserviceException, match="is a folder where the model has a file"):
        model.download(tmp_path / "e", exist_ok=True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named_and_nothing_appears(ws: Space, outputs: Path, tmp_path: Path, damage: str) -> None:
    model = Model.register(ws, outputs, "birds")
    stored = ws.root / "models" / "birds" / "1" / "files" / "outputs" / "model.pt"
    data = bytearray(stored.read_bytes())
    data[4000] ^= 1
    stored.unlink()
    if damage != "remove":
        stored.write_bytes(data if damage == "flip" else data[:4000])
    with pytest.raises(
        WebserviceException, match=r"The file outputs/model.pt of model birds:1 (is corrupted|cannot be)"
    ):
        model.download(tmp_path / "new" / "target")
    assert not (tmp_path / "new").exists()
    with pytest.raises(WebserviceException, match="outputs/model.pt of model birds:1"):
        model.verified("outputs/model.pt")
    assert model.verified("outputs/deep/labels.txt").read_text() == "ants\nbees\n"


def test_a_damaged_record_is_one_error(ws: Space, outputs: Path) -> None:
    Model.register(ws, outputs, "birds")
    record = ws.root / "models" / "birds" / "1" / "model.json"
    good = record.read_text()
    for bad in (good[: len(good) // 2], "[]", good.replace("outputs/model.pt", "../../../model.pt")):
        record.write_text(bad)
        with pytest.raises(WebserviceException):
            Model(ws, "birds")


def test_later_changes_of_the_outputs_change_nothing(ws: Space, outputs: Path, tmp_path: Path) -> None:
    before = (outputs / "model.pt").read_bytes()
    model = Model.register(ws, outputs, "birds")
    with open(outputs / "model.pt", "r+b") as file:
        file.write(b"CHANGED IN PLACE")
    shutil.rmtree(outputs / "deep")
    path = Path(model.download(tmp_path / "d"))
    assert (path / "model.pt").read_bytes() == before and (path / "deep" / "labels.txt").is_file()


def test_files_are_private_and_read_only(ws: Space, outputs: Path) -> None:
    Model.register(ws, outputs, "birds")
    for path in (ws.root / "models").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    stored = ws.root / "models" / "birds" / "1" / "files" / "outputs" / "model.pt"
    assert stored.stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "/a", "-a", "_a", ".a", "a b", "a\n", "a\0", "ä", "a" * 256, None, 3, b"a"]
)
def test_invalid_names_are_refused(ws: Space, outputs: Path, name: object) -> None:
    with pytest.raises(WebserviceException, match="Error, provided model name is invalid. "):
        Model.register(ws, outputs, name)  # type: ignore[arg-type]
    with pytest.raises(WebserviceException, match="Error, provided model name is invalid. "):
        Model.get_model_path(name, _workspace=ws)  # type: ignore[arg-type]
    assert not ws.root.exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.one_of(st.text(max_size=12), st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}", fullmatch=True)))
def test_any_name_is_registered_or_refused(tmp_path: Path, name: str) -> None:
    ws = Space(tmp_path / "any")
    source = tmp_path / "m.pt"
    source.write_bytes(b"x")
    try:
        model = register_files(ws, name, {"m.pt": source})
    except WebserviceException as e:
        assert "provided model name is invalid" in e.message
        return
    assert Model(ws, id=model.id).name == name
    assert (ws.root / "models" / name / str(model.version) / "files" / "m.pt").read_bytes() == b"x"
    assert sorted(os.listdir(tmp_path)) == ["any", "m.pt"]
    model.delete()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.one_of(st.text(max_size=20), st.lists(st.sampled_from(["..", ".", "", "a", "b\\c", "ü"])).map("/".join)))
def test_any_file_name_stays_inside(tmp_path: Path, name: str) -> None:
    ws = Space(tmp_path / "any")
    source = tmp_path / "m.pt"
    source.write_bytes(b"x")
    try:
        model = register_files(ws, "m", {name: source})
    except WebserviceException as e:
        assert "cannot be named" in e.message
        return
    home = (ws.root / "models" / "m" / str(model.version) / "files").resolve()
    assert home in (home / name).resolve(strict=True).parents
    target = tmp_path / "target"
    model.download(target)
    assert (target / name).read_bytes() == b"x" and target.resolve() in (target / name).resolve().parents
    shutil.rmtree(target)
    model.delete()
    assert sorted(os.listdir(tmp_path)) == ["any", "m.pt"]


def test_names_by_example() -> None:
    assert check_name("pt-dnn.v1_2") == "pt-dnn.v1_2"
    assert check_file_name("outputs/model.pt") == "outputs/model.pt"
    for bad in ("/etc/passwd", "a/../../b", "a//b", "a/", "\udcff"):
        with pytest.raises(WebserviceException, match="cannot be named"):
            check_file_name(bad)


def test_links_and_devices_are_refused(ws: Space, outputs: Path) -> None:
    (outputs / "latest.pt").symlink_to(outputs / "model.pt")
    with pytest.raises(WebserviceException, match="latest.pt is a link; a model holds regular files only"):
        Model.register(ws, outputs, "birds")
    with pytest.raises(WebserviceException, match="is a link"):
        register_files(ws, "birds", {"a.pt": outputs / "latest.pt"})
    (outputs / "latest.pt").unlink()
    (outputs / "elsewhere").symlink_to("/etc")
    with pytest.raises(WebserviceException, match="elsewhere is a link"):
        Model.register(ws, outputs, "birds")
    (outputs / "elsewhere").unlink()
    os.mkfifo(outputs / "pipe")
    with pytest.raises(WebserviceException, match="pipe is not a regular file"):
        Model.register(ws, outputs, "birds")
    with pytest.raises(WebserviceException, match="pipe is not a regular file"):
        register_files(ws, "birds", {"pipe": outputs / "pipe"})
    assert seen(ws) == [] and leftovers(ws) == []


def test_the_given_path_itself_may_be_a_link(ws: Space, outputs: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "outputs").symlink_to("../job/outputs")
    assert Model.register(ws, code / "outputs", "birds").files == ["outputs/deep/labels.txt", "outputs/model.pt"]


def test_what_cannot_be_registered(ws: Space, outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(WebserviceException, match="Error, provided model path .*nothing.pt cannot be found"):
        Model.register(ws, tmp_path / "nothing.pt", "birds")
    with pytest.raises(WebserviceException, match="Error, provided model path .*nothing.pt cannot be found"):
        register_files(ws, "birds", {"nothing.pt": tmp_path / "nothing.pt"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(WebserviceException, match="at least one file"):
        Model.register(ws, tmp_path / "empty", "birds")
    with pytest.raises(WebserviceException, match="without model_framework"):
        Model.register(ws, outputs, "birds", model_framework_version="2.14")
    with pytest.raises(WebserviceException, match="cannot be a file of the model and the folder"):
        register_files(ws, "birds", {"a": outputs / "model.pt", "a/b": outputs / "model.pt"})
    with pytest.raises(WebserviceException, match="is not in this workspace"):
        register_files(ws, "birds", {"a": outputs / "model.pt"}, run_id="e_1700000000_0123abcd")
    for tags in (["a"], {"": "b"}, {1: "b"}, {"a": "\ud800"}):
        with pytest.raises(UserErrorException):
            Model.register(ws, outputs, "birds", tags=tags)  # type: ignore[arg-type]
    with pytest.raises(UserErrorException, match="list of pairs"):
        Model.register(ws, outputs, "birds", datasets=[1])  # type: ignore[list-item]
    with pytest.raises(UserErrorException, match="A Workspace is needed"):
        Model.register(None, outputs, "birds")  # type: ignore[arg-type]
    assert seen(ws) == []


def test_child_paths_take_a_part_of_the_folder(ws: Space, outputs: Path) -> None:
    assert Model.register(ws, outputs, "a", child_paths=["deep"]).files == ["outputs/deep/labels.txt"]
    assert Model.register(ws, outputs, "a", child_paths=["model.pt"]).files == ["outputs/model.pt"]
    for bad in (["../job"], ["/etc/hosts"], ["missing.pt"]):
        with pytest.raises(WebserviceException):
            Model.register(ws, outputs, "a", child_paths=bad)


def test_what_is_not_there_is_said(ws: Space, outputs: Path) -> None:
    with pytest.raises(ModelNotFoundException, match="birds is not registered; registered are: none"):
        Model(ws, "birds")
    Model.register(ws, outputs, "birds", tags={"stage": "test"})
    with pytest.raises(ModelNotFoundException, match="birds:7 is not registered; its versions are: 1"):
        Model(ws, id="birds:7")
    with pytest.raises(ModelNotFoundException, match="its versions are: 1"):
        Model(ws, "birds", tags=["missing"])
    for bad in ("birds", "birds:", ":1", "birds:0", "birds:x", "birds:-1"):
        with pytest.raises(UserErrorException, match="'name:version'"):
            Model(ws, id=bad)
    with pytest.raises(UserErrorException, match="contradicts"):
        Model(ws, id="birds:1", version=2)
    for version in (0, -1, True, "1", 1.0):
        with pytest.raises(UserErrorException, match="whole number from 1"):
            Model(ws, "birds", version=version)  # type: ignore[arg-type]
    with pytest.raises(UserErrorException, match="Which model?"):
        Model(ws)
    with pytest.raises(ModelPathNotFoundException, match="has 2 files"):
        Model(ws, "birds").verified()


def test_tags_properties_and_description(ws: Space, outputs: Path) -> None:
    model = Model.register(ws, outputs, "birds", tags={"a": 1}, properties={"p": "q"}, description="first")
    assert (model.tags, model.properties, model.description) == ({"a": "1"}, {"p": "q"}, "first")
    model.add_tags({"b": "2", "ü": "🐦"})
    model.remove_tags(["a", "never"])
    model.add_properties({"p": "q", "r": "s"})
    with pytest.raises(WebserviceException, match="for good"):
        model.add_properties({"p": "other"})
    again = Model(ws, "birds")
    assert (again.tags, again.properties) == ({"b": "2", "ü": "🐦"}, {"p": "q", "r": "s"})
    again.update(tags={"only": "this"}, description="second")
    model = Model(ws, "birds")
    assert (model.tags, model.description, model.version) == ({"only": "this"}, "second", 1)
    model.update_tags_properties(add_tags={"x": "y"}, remove_tags=["only"], add_properties={"z": "0"})
    assert Model(ws, "birds").tags == {"x": "y"} and Model(ws, "birds").properties["z"] == "0"


def test_list_filters(ws: Space, outputs: Path) -> None:
    Model.register(ws, outputs, "a", tags={"stage": "prod", "n": "1"}, model_framework="PyTorch")
    Model.register(ws, outputs, "a", tags={"stage": "test"})
    Model.register(ws, outputs, "b", tags={"stage": "test"}, properties={"k": "v"})

    def ids(**asked: object) -> list[str]:
        return sorted(model.id for model in Model.list(ws, **asked))  # type: ignore[arg-type]

    assert ids(name="a") == ["a:1", "a:2"] and ids(name="c") == []
    assert ids(tags="stage") == ["a:1", "a:2", "b:1"]
    assert ids(tags=[["stage", "test"]]) == ids(tags={"stage": "test"}) == ["a:2", "b:1"]
    assert ids(tags=["n", ["stage", "prod"]]) == ["a:1"]
    assert ids(properties=["k"]) == ["b:1"] and ids(model_framework="PyTorch") == ["a:1"]
    assert ids(tags=["stage"], latest=True) == ["a:2", "b:1"] and ids(run_id="none") == []
    assert Model(ws, tags=[["stage", "prod"]]).id == "a:1"
    with pytest.raises(UserErrorException):
        ids(tags=[1])


def test_strangers_among_the_files_are_passed_over(ws: Space, outputs: Path) -> None:
    Model.register(ws, outputs, "birds")
    (ws.root / "models" / "notes.txt").write_text("a file")
    for name in ("birds/01", "birds/tmp", "birds/٣", "other/x"):
        (ws.root / "models" / name).mkdir(parents=True)
    assert seen(ws) == ["birds:1"] and Model.register(ws, outputs, "birds").version == 2


def test_deleted_numbers_do_not_come_back(ws: Space, outputs: Path) -> None:
    Model.register(ws, outputs, "birds")
    second = Model.register(ws, outputs, "birds")
    second.delete()
    assert seen(ws) == ["birds:1"] and leftovers(ws) == []
    assert Model.register(ws, outputs, "birds").version == 3
    for version in (1, 3):
        Model(ws, "birds", version=version).delete()
    assert seen(ws) == [] and Model.register(ws, outputs, "birds").version == 4
    for again in (second.delete, lambda: second.add_tags({"a": "b"})):
        with pytest.raises(ModelNotFoundException, match="birds:2"):
            again()


def test_lineage_comes_from_the_run(ws: Space, outputs: Path) -> None:
    run_id = "my_exp_1700000000_0123abcd"
    run_dir = ws.root / "runs" / "my_exp" / run_id
    (run_dir / "properties").mkdir(parents=True)
    run = {
        "id": run_id,
        "experiment": "my_exp",
        "snapshot": {"id": "s1"},
        "environment": {"digest": "e1"},
        "git": {"c": 1},
    }
    (run_dir / "run.json").write_text(json.dumps(run))
    (run_dir / "properties" / (b"data".hex() + ".json")).write_text(json.dumps({"key": "data", "value": "sample"}))
    model = register_files(ws, "birds", {"model.pt": outputs / "model.pt"}, run_id=run_id, lineage={"more": 1})
    again = Model(ws, "birds", run_id=run_id)
    assert again.run_id == run_id and again.experiment_name == "my_exp"
    assert {key: again.lineage[key] for key in ("run", "snapshot", "environment", "data", "git", "more")} == {
        "run": run_id,
        "snapshot": "s1",
        "environment": "e1",
        "data": "sample",
        "git": {"c": 1},
        "more": 1,
    }
    assert model.serialize()["runId"] == run_id
    assert Model.register(ws, outputs, "birds", datasets=[("training", "d:1")]).lineage == {
        "data": [["training", "d:1"]]
    }


def test_a_real_runs_model_is_traced_to_it(workspace: Any) -> None:
    from trainkit import Experiment

    run = Experiment(workspace, "birds").start_logging(snapshot_directory=None)
    run.add_properties({"data": "five birds"})
    Path("model.pt").write_bytes(b"weights")
    run.upload_file("outputs/model.pt", "model.pt")
    model = run.register_model("pt-dnn", "outputs/")
    run.complete()
    assert (model.id, model.run_id, model.experiment_name) == ("pt-dnn:1", run.id, "birds")
    assert model.lineage["run"] == run.id and model.lineage["data"] == "five birds"
    assert workspace.models["pt-dnn"].id == Model(workspace, run_id=run.id).id == model.id
    assert Path(model.download("here"), "model.pt").read_bytes() == b"weights"


def test_serialize_is_json(ws: Space, outputs: Path) -> None:
    model = Model.register(ws, outputs / "model.pt", "birds", model_framework=Model.Framework.PYTORCH)
    values = json.loads(json.dumps(model.serialize()))
    assert (values["id"], values["version"], values["framework"]) == ("birds:1", 1, "PyTorch")
    digest = hashlib.sha256((outputs / "model.pt").read_bytes()).hexdigest()
    assert values["files"] == [{"name": "model.pt", "bytes": 8000, "sha256": digest}]
    assert values["url"].startswith("file:///") and "birds:1" in repr(model)
    assert values["createdTime"].endswith("+00:00")


def test_get_model_path(ws: Space, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Model.register(ws, outputs, "birds")
    Model.register(ws, outputs / "model.pt", "birds")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert Model.get_model_path("birds", _workspace=ws) == str(here / "azureml-models" / "birds" / "2" / "model.pt")
    assert Model.get_model_path("birds", 1, _workspace=ws) == str(here / "azureml-models" / "birds" / "1" / "outputs")
    shutil.rmtree(ws.root)  # from here on without a registry
    assert Model.get_model_path("birds") == str(here / "azureml-models" / "birds" / "2" / "model.pt")
    assert Model.get_model_path("birds", version=1) == str(here / "azureml-models" / "birds" / "1" / "outputs")
    shutil.rmtree(here / "azureml-models")
    (here / "birds").write_text("a file of that name")
    assert Model.get_model_path("birds") == str(here / "birds")
    with pytest.raises(ModelNotFoundException):
        Model.get_model_path("other", _workspace=ws)


def spawn(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    head = "import sys\nfrom pathlib import Path\nfrom types import SimpleNamespace\nfrom trainkit.model import Model\n"
    head += "ws = SimpleNamespace(root=Path(sys.argv[1]))\n"
    words = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_twenty_processes_register_at_once(ws: Space, outputs: Path) -> None:
    code = (
        "print('ready', flush=True); sys.stdin.read()\n"
        "for _ in range(3): print(Model.register(ws, sys.argv[2], 'birds').version, flush=True)\n"
    )
    processes = [spawn(code, ws.root, outputs) for _ in range(20)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    versions = []
    for process in processes:
        assert process.stdout is not None and process.stderr is not None
        lines = process.stdout.read().decode().splitlines()
        assert process.wait() == 0, process.stderr.read().decode()
        process.stdout.close()
        process.stderr.close()
        versions += [int(line) for line in lines if line.isdecimal()]
    assert sorted(versions) == list(range(1, 61)) == sorted(m.version for m in Model.list(ws, "birds"))
    assert leftovers(ws) == []
    Model(ws, "birds", version=60).verified("outputs/model.pt")


def test_a_registration_killed_in_the_middle_leaves_nothing(ws: Space, tmp_path: Path) -> None:
    big = tmp_path / "big.pt"
    with open(big, "wb") as file:
        file.truncate(1 << 30)
    process = spawn("Model.register(ws, sys.argv[2], 'birds')", ws.root, big)
    deadline = time.monotonic() + 60
    while not list((ws.root / "models").glob(".new/*/model/files/big.pt")):
        assert time.monotonic() < deadline and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert seen(ws) == [] and leftovers(ws) != []
    with pytest.raises(ModelNotFoundException):
        Model(ws, "birds")
    small = tmp_path / "small.pt"
    small.write_bytes(b"x")
    assert Model.register(ws, small, "birds").version == 1
    assert leftovers(ws) == []


def test_a_file_that_changes_meanwhile_is_refused(ws: Space, tmp_path: Path) -> None:
    big = tmp_path / "big.pt"
    with open(big, "wb") as file:
        file.truncate(1 << 28)
    process = spawn("Model.register(ws, sys.argv[2], 'birds')", ws.root, big)
    deadline = time.monotonic() + 60
    while not list((ws.root / "models").glob(".new/*/model/files/big.pt")):
        assert time.monotonic() < deadline and process.poll() is None
    with open(big, "ab") as file:
        file.write(b"more")
    _, errors = process.communicate()
    assert b"changed while it was read" in errors and seen(ws) == [] and leftovers(ws) == []


def test_a_failing_disk_leaves_nothing(ws: Space, outputs: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\nModel.register(ws, sys.argv[2], 'b')"
    )
    _, errors = spawn(code, ws.root, outputs).communicate()
    message = errors.decode().splitlines()[-1]
    assert "WebserviceException: Model b was not registered" in message and os.strerror(errno.EFBIG) in message
    assert seen(ws) == [] and leftovers(ws) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """On a real file system of 64 KiB, mounted in a namespace of its own."""
    disk, small, huge = tmp_path / "disk", tmp_path / "small.pt", tmp_path / "huge.pt"
    disk.mkdir()
    small.write_bytes(b"x" * 24_000)
    huge.write_bytes(b"x" * 100_000)
    code = """if True:
        import os, sys
        from pathlib import Path
        from types import SimpleNamespace
        from trainkit.model import Model
        disk, small, huge = map(Path, sys.argv[1:])
        ws = SimpleNamespace(root=disk / "root")
        def attempt(act):
            try:
                act()
            except Exception as e:
                print(type(e).__name__, e)
        model = Model.register(ws, small, "small")
        attempt(lambda: Model.register(ws, huge, "huge"))
        print([m.id for m in Model.list(ws)], os.listdir(ws.root / "models" / ".new"))
        model.download(disk / "fits")
        attempt(lambda: model.download(disk / "new" / "full"))
        print(sorted(os.listdir(disk)))
    """
    mount = 'mount -t tmpfs -o size=64k none "$4" || { echo no mount; exit 0; }; exec "$@"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    words = [*namespace, sys.executable, "-c", code, disk, small, huge]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if "unshare" in done.stderr or "no mount" in done.stdout:
        pytest.skip("no mount in a namespace of one's own here: " + done.stderr.strip())
    print(done.stdout, done.stderr)
    lines = done.stdout.splitlines()
    assert (
        f"WebserviceException Model huge was not registered: the disk of {disk / 'root' / 'models'} is full" in lines[2]
    )
    assert lines[3] == "['small:1'] []"
    assert "WebserviceException Model small:1 could not be downloaded" in lines[4] and "No space left" in lines[4]
    assert lines[5] == "['fits', 'root']"
