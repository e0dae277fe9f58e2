"""Everything that can be wrong with a job, one by one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit import checks
from trainkit.distributed import World
from trainkit.errors import (
    ExperimentExecutionException,
    RunConfigurationException,
    TrainkitError,
    UnsupportedJob,
    UserErrorException,
)
from trainkit.sources import inside, source_dir


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.py").write_text("import os\n")
    (folder / "sub" / "deep.py").write_text("import os\n")
    (tmp_path / "outside.py").write_text("import os\n")
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    return folder


def test_a_script_is_named_relative_absolute_or_from_here(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    assert checks.script_in(source, "train.py") == "train.py"
    assert checks.script_in(source, "./sub/../sub/deep.py") == "sub/deep.py"
    assert checks.script_in(source, source / "train.py") == "train.py"
    assert checks.script_in(source, "source/sub/deep.py") == "sub/deep.py"


def test_a_source_behind_a_link(source: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(source)
    assert inside(tmp_path / "alias", "train.py") == "train.py"
    assert inside(tmp_path / "alias", source / "train.py") == "train.py"


@pytest.mark.parametrize("name", ["absent.py", "../outside.py", "link.py", "sub", "/etc/passwd"])
def test_a_script_that_is_not_in_the_source(source: Path, name: str) -> None:
    with pytest.raises(ExperimentExecutionException, match="script path doesn't exist. The script should be inside"):
        checks.script_in(source, name)


@pytest.mark.parametrize("name", [3, "", b"train.py"])
def test_a_script_that_is_no_path(source: Path, name: Any) -> None:
    with pytest.raises(UserErrorException, match="needs a script"):
        checks.script_in(source, name)


def test_notebooks(source: Path) -> None:
    (source / "n.ipynb").write_text("{}")
    with pytest.raises(UnsupportedJob, match="nbconvert"):
        checks.script_in(source, "n.ipynb")


@pytest.mark.parametrize("value", [None, 3, "absent", "a\0b", b"x"])
def test_sources_that_are_none(value: Any) -> None:
    with pytest.raises(UserErrorException):
        source_dir(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("horovod.py", "import horovod.torch as hvd\n"), ("torch.py", "print(1)\n"),
        ("yaml.py", "from yaml import x\n"),
        ("json.py", "def f():\n    import json\n"),
    ],
)  # fmt: skip
def test_a_script_named_like_what_it_imports(source: Path, name: str, text: str) -> None:
    (source / name).write_text(text)
    with pytest.raises(UserErrorException, match=f"name of the package '{name[:-3]}'.*train_{name}"):
        checks.refuse_shadowing(source, name)


@pytest.mark.parametrize("text", ["from . import train\n", "def broken(:\n", "x = 1\0\n", "# import train\n"])
def test_scripts_that_may_have_their_name(source: Path, text: str) -> None:
    (source / "train.py").write_text(text)
    checks.refuse_shadowing(source, "train.py")


def test_arguments_are_texts_and_variables_stay() -> None:
    values = ["--lr", 0.1, 3, True, Path("data"), np.float32(0.5), np.int64(7), "$LOCAL_RANK", "", "a b", "é"]
    wanted = ("--lr", "0.1", "3", "True", "data", "0.5", "7", "$LOCAL_RANK", "", "a b", "é")
    assert checks.arguments_of(values) == wanted
    assert checks.arguments_of("--name 'two words' $RANK") == ("--name", "two words", "$RANK")


class _Dataset:
    def as_mount(self) -> None: ...


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([None], r"arguments\[0\]"), (["a", ["b"]], r"arguments\[1\]"), (["a\0"], "NUL"), ({"a": 1}, "a list"),
        (3, "a list"), ("'open", "split"), (["\ud800"], "encoding"), (["x" * 2_000_000], "Put them into a file"),
        ([_Dataset()], "data sets come in a later version"), (b"abc", "a list"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(values: Any, words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        checks.arguments_of(values)


@given(st.lists(st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.booleans()), max_size=5))
def test_any_arguments_are_given_or_refused(values: list[Any]) -> None:
    try:
        words = checks.arguments_of(values)
    except UserErrorException:
        return
    assert len(words) == len(values)
    assert all(b"\0" not in os.fsencode(word) for word in words)


def test_commands() -> None:
    assert checks.command_of("python -m x --n $NODE_RANK") == ("python", "-m", "x", "--n", "$NODE_RANK")
    for bad in ("a && b", "a | b", ["a", ">", "b"], "", []):
        with pytest.raises(UserErrorException, match="Put it into a script"):
            checks.command_of(bad)


def test_a_script_or_a_command() -> None:
    with pytest.raises(RunConfigurationException):
        checks.refuse_both("a.py", "b")
    with pytest.raises(UserErrorException, match="needs a script"):
        checks.refuse_both(None, None)


def test_too_many_nodes_or_ranks() -> None:
    with pytest.raises(UnsupportedJob, match="5 nodes were asked of birds, which has at most 4"):
        checks.refuse_too_many(World("mpi", 5, 1), 4, "birds", True)
    with pytest.raises(UnsupportedJob, match="CPUs"):
        checks.refuse_too_many(World("mpi", 4000, 1000), None, "local", True)
    checks.refuse_too_many(World("mpi", 4000, 1000), None, "far", False)
    checks.refuse_too_many(World("mpi", 2, 2), None, "local", True)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True])
def test_time_limits_that_cannot_be(value: Any) -> None:
    with pytest.raises(UserErrorException):
        checks.seconds_of(value)


def test_tags() -> None:
    assert checks.tags_of(None) == {}
    assert checks.tags_of({"a": 1, "b": None, "ü": "x"}) == {"a": "1", "b": "", "ü": "x"}
    for bad in (["a"], {3: "a"}, {"": "a"}, "a"):
        with pytest.raises(TrainkitError, match="tags is a dictionary"):
            checks.tags_of(bad)
