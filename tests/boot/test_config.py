"""config.json: found in the documented order, believed only where it is right."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.boot.config import find_config, load_config, parse_config, require_config
from trainkit.errors import UserErrorException

KEYS = {"subscription_id": "s", "resource_group": "g", "workspace_name": "birds"}


def put(path: Path, values: Any = None, **more: Any) -> Path:
    """A configuration file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**KEYS, **more} if values is None else values), encoding="utf-8")
    return path


def load(path: Path) -> Any:
    return load_config(path, {})


def test_kind_of_folder_decides_before_distance(tmp_path: Path) -> None:
    start = tmp_path / "a" / "b" / "c"
    start.mkdir(parents=True)
    order = [
        tmp_path / "a/b/c/.azureml/config.json",
        tmp_path / "a/b/c/.azureml/project.json",
        tmp_path / "a/b/.azureml/config.json",
        tmp_path / ".azureml/config.json",
        tmp_path / ".azureml/project.json",
        tmp_path / "a/b/c/aml_config/config.json",
        tmp_path / "a/aml_config/project.json",
        tmp_path / "a/b/c/config.json",
        tmp_path / "a/config.json",
    ]
    for path in order:
        put(path)
    put(tmp_path / "a/b/c/project.json")  # never looked for: only in a folder made for it
    for path in order:
        assert find_config(start) == path
        path.unlink()
    found = find_config(start)
    assert found is None or tmp_path not in found.parents


def test_a_file_is_itself_and_a_directory_of_that_name_is_not(tmp_path: Path) -> None:
    other = put(tmp_path / "other.json")
    assert find_config(other) == other
    (tmp_path / "x" / "config.json").mkdir(parents=True)
    put(tmp_path / "config.json")
    assert find_config(tmp_path / "x") == tmp_path / "config.json"
    assert find_config(tmp_path / "x", "other.json") == other


def test_not_found_names_the_directory_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="could not be found in .*nowhere or its parent") as caught:
        require_config(tmp_path / "nowhere", "no-such-configuration.json")
    assert "trainkit init" in caught.value.message


def test_a_file_that_is_named_is_that_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "config.json")
    assert require_config(Path("~/config.json")) == tmp_path / "config.json"
    with pytest.raises(UserErrorException, match="There is no file .*other.json"):
        require_config(Path("~/other.json"))


def test_three_keys_are_enough_and_the_root_is_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, folder = put(tmp_path / "one/config.json"), put(tmp_path / "two/.azureml/config.json")
    monkeypatch.chdir(tmp_path / "one")
    relative = load(Path("config.json"))
    monkeypatch.chdir(tmp_path)
    assert relative.root == load(bare).root == tmp_path / "one/.trainkit"
    assert relative.path == bare
    assert load(folder).root == tmp_path / "two/.trainkit"
    assert load(bare).name == "birds"
    assert load(bare).snapshot_limit_bytes is None


def test_own_keys(tmp_path: Path) -> None:
    sizes = {"STANDARD_NC6": {"launcher": "ssh", "options": {"hosts": ["a"]}}, "Small": "local"}
    config = load(
        put(tmp_path / "config.json", root="../records", vm_sizes=sizes, snapshot_limit_bytes=7, default_image="i")
    )
    assert config.root == tmp_path.parent / "records"
    size = config.vm_size("Standard_nc6")
    assert size and (size.name, size.launcher, size.options) == ("STANDARD_NC6", "ssh", {"hosts": ["a"]})
    small = config.vm_size("SMALL")
    assert small and small.launcher == "local"
    assert config.vm_size("other") is None
    assert (config.snapshot_limit_bytes, config.default_image) == (7, "i")
    assert load(put(tmp_path / "config.json", root="~/records")).root == Path.home() / "records"


def test_the_old_scope_is_understood_and_windows_marks_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / ".azureml" / "project.json"
    put(path, {"Scope": "/subscriptions/s1/resourceGroups/g1/providers/Microsoft.X/workspaces/birds", "Id": None})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    config = load(path)
    assert (config.subscription_id, config.resource_group, config.name) == ("s1", "g1", "birds")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[1]", "holds a list"),
        ("null", "holds null"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", r"required parameters.*missing: subscription_id, resource_group, workspace_name"),
        ('{"subscription_id": "s", "resource_group": "g"}', "missing: workspace_name"),
        (json.dumps({**KEYS, "workspace_name": "../../etc"}), "'../../etc' is not possible"),
        (json.dumps({**KEYS, "workspace_name": 3}), 'a number as "workspace_name"'),
        (json.dumps({**KEYS, "subscription_id": None}), 'null as "subscription_id"'),
        (json.dumps({**KEYS, "root": ["x"]}), 'a list as "root"'),
        (json.dumps({**KEYS, "root": "."}), "no directory of its own"),
        (json.dumps({**KEYS, "root": "/"}), "no directory of its own"),
        (json.dumps({**KEYS, "root": ""}), "no directory of its own"),
        (json.dumps({**KEYS, "root": "~nobody-of-this-name/x"}), "home directory of nobody here"),
        (json.dumps({**KEYS, "vm_sizes": []}), 'a list as "vm_sizes"'),
        (json.dumps({**KEYS, "vm_sizes": {"A": 1}}), 'a number as "vm_sizes.A"'),
        (json.dumps({**KEYS, "vm_sizes": {"A": {"launcher": "x", "hosts": []}}}), '"hosts" in "vm_sizes.A"'),
        (json.dumps({**KEYS, "vm_sizes": {"A": {"launcher": "x", "options": 1}}}), "vm_sizes.A.options"),
        (json.dumps({**KEYS, "vm_sizes": {"A": "x", "a": "y"}}), "twice"),
        (json.dumps({**KEYS, "snapshot_limit_bytes": True}), "true or false"),
        (json.dumps({**KEYS, "snapshot_limit_bytes": 0}), "at least 1"),
        (json.dumps({**KEYS, "snapshot_limit_files": 1.5}), "whole number"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserErrorException, match=words) as caught:
        load(path)
    assert str(path) in caught.value.message


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserErrorException, match="not UTF-8"):
        load(tmp_path / "config.json")
    with pytest.raises(UserErrorException, match="cannot be read: No such file"):
        load(tmp_path / "none.json")


def test_in_a_rank_a_copy_of_the_file_means_the_runs_own_workspace(tmp_path: Path) -> None:
    root = tmp_path / "home" / ".trainkit"
    run_dir = root / "runs" / "birds" / "birds_1_ab"
    copy, elsewhere = put(run_dir / "code/config.json"), put(tmp_path / "other/config.json")
    env = {"TRAINKIT_RUN_DIR": os.fspath(run_dir), "TRAINKIT_ROOT": os.fspath(root)}
    assert load_config(copy, env).root == root
    assert load_config(elsewhere, env).root == tmp_path / "other/.trainkit"
    assert load_config(copy, {}).root == run_dir / "code/.trainkit"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["root", "vm_sizes", "snapshot_limit_bytes", *KEYS]), JSON))
def test_any_values_are_either_a_configuration_or_one_clear_error(values: dict[str, Any]) -> None:
    path = Path("/somewhere/config.json")
    try:
        config = parse_config(path, {**KEYS, **values}, {})
    except UserErrorException as error:
        assert str(path) in error.message
    else:
        assert config.root.is_absolute()
