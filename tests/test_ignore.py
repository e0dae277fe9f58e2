"""Ignore files are read as git reads them: git itself is the judge."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit.ignore import parse_line, translate
from trainkit.tree import read_tree

NAMES = ("a", "x.py", "y.txt", "a-b", "c b", "[z]", ".h", "]", "-", "z", "#", "!a", "b ")
FOLDERS = ("", "p/", "p/b/", "foo/", "src/", "src/p/", "src/foo/b/", "F/", "a b/")
PIECES = (
    "*", "**", "***", "?", "a", "b", "p", "foo", "src", "f?o", "fo*", "*.py", "*.txt", "[a-c]", "[!a]", "[^x].*",
    "[]a]", "[a-]", "[-a]", "[z-a]", "[a\\-b]", "[\\]z]", "[[:alpha:]]", "[[:upper:]]", "[", "\\", "\\[z]", "a\\ b",
    "a b", "b ", "x.py", "**a", "a**", "-", "#", "\\#", "\\!a", ".",
)  # fmt: skip

lines = st.builds(
    lambda keeps, anchor, pieces, end: keeps + anchor + "/".join(pieces) + end,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "  ", "\r"]),
)
files = st.dictionaries(
    st.sampled_from(FOLDERS), st.lists(lines, min_size=1, max_size=4).map("\n".join), min_size=1, max_size=2
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of many small files."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    top = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(top)], check=True)
    for folder in FOLDERS:
        os.makedirs(top / folder, exist_ok=True)
        for name in NAMES:
            (top / folder / name).touch()
    return top


def kept_by_git(top: Path) -> set[str]:
    command = ["git", "-C", str(top), "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]
    return set(filter(None, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")))


def kept(top: Path) -> set[str]:
    return {entry.path for entry in read_tree(top).entries if entry.kind != "directory"}


def compare(top: Path, rules: dict[str, str]) -> None:
    """Both keep the same files."""
    for folder in FOLDERS:
        (top / folder / ".gitignore").unlink(missing_ok=True)
    for folder, text in rules.items():
        (top / folder / ".gitignore").write_bytes(text.encode())
    assert kept(top) == kept_by_git(top)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files)
def test_any_rules_mean_what_git_says(repository: Path, rules: dict[str, str]) -> None:
    compare(repository, rules)


@pytest.mark.parametrize(
    "text",
    [
        "*\n!*/\n!*.py",  # everything but scripts, at any depth
        "/*\n!/src",
        "src/\n!src/x.py",  # nothing can be taken back from a directory that is left out
        "src/*\n!src/p",
        "src/**\n!src/**/\n!src/**/*.py",
        "**/b",
        "src/**/b",
        "/p",
        "foo/*\n!foo/[[:alpha:]]",
        "\ufeffz",
        "# a comment\n\n   \n\\#\n\\!a",
        "a**/*",
    ],
)
def test_what_people_write(repository: Path, text: str) -> None:
    compare(repository, {"": text})


def test_nested_files_have_the_last_word(repository: Path) -> None:
    compare(repository, {"": "*.py\nz", "src/": "!x.py\n*.txt", "src/p/": "/x.py\n!*.txt"})


@pytest.mark.parametrize("line", ["", "   ", "# x", "/", "!", "\\", "a\\", "[", "a[b", "[[:nothing:]]"])
def test_lines_that_match_nothing(line: str) -> None:
    assert parse_line(line) is None


@given(st.text())
def test_no_line_breaks_it(line: str) -> None:
    parse_line(line)
    translate(line)
