"""Requirement lines: read, checked, and never anything else than packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.errors import UserErrorException
from trainkit.requirements import check, normalised, parse, read_file


@pytest.mark.parametrize(
    ("line", "name", "pin"),
    [
        ("pillow==5.4.1", "pillow", "5.4.1"),
        (" Foo_Bar.baz >= 1 ", "foo-bar-baz", ""),
        ("torch==2.14.*", "torch", ""),
        ("a[x,y]===1.0", "a", "1.0"),
        ("a==1; python_version<'4'", "a", "1"),
        ("a @ file:///tmp/a.whl", "a", ""),
    ],
)
def test_a_line_names_a_package(line: str, name: str, pin: str) -> None:
    requirement = parse(line)
    assert (requirement.name, requirement.pin) == (name, pin)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "  ",
        "pillow=5.4",
        "two words",
        "./local",
        "-e .",
        "--target /etc",
        "-r other.txt",
        "a\nb",
        "a\0b",
        "-",
        "==",
    ],
)
def test_what_is_no_requirement_is_refused(line: str) -> None:
    with pytest.raises(UserErrorException):
        check([line])


def test_options_become_long_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(["-f wheels", "--no-index", "--extra-index-url=https://example.org/x"]) == (
        f"--find-links {tmp_path / 'wheels'}",
        "--no-index",
        "--extra-index-url https://example.org/x",
    )


@pytest.mark.parametrize("line", ["--index-url https://me:secret@example.org/", "a @ https://token@example.org/a.whl"])
def test_credentials_never_get_into_a_record(line: str) -> None:
    with pytest.raises(UserErrorException) as caught:
        check([line])
    assert "netrc" in caught.value.message and "secret" not in caught.value.message


def test_a_package_asked_for_twice() -> None:
    assert check(["a==1", "a==1"]) == ("a==1",)
    with pytest.raises(UserErrorException, match="keep one"):
        check(["a==1", "A==2"])
    assert len(check(["a==1; python_version<'3'", "a==2; python_version>='3'"])) == 2


@pytest.mark.parametrize("value", ["pillow", b"pillow"])
def test_one_string_is_no_list(value: object) -> None:
    with pytest.raises(UserErrorException, match="list"):
        check(value)  # type: ignore[arg-type]


def test_files_include_others_and_speak_of_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "deep.txt").write_text("b==2  # why\n--find-links wheels\n")
    (tmp_path / "top.txt").write_text("\ufeffa \\\n  >= 1\n# nothing\n-r more/deep.txt\n", encoding="utf-8")
    assert read_file(tmp_path / "top.txt") == ["a >= 1", "b==2", f"--find-links {tmp_path / 'more' / 'wheels'}"]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("good\n\npillow=5\n")
    with pytest.raises(UserErrorException, match=r"r\.txt, line 3: 'pillow=5'"):
        read_file(tmp_path / "r.txt")


def test_a_file_that_includes_itself(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("-r r.txt\n")
    with pytest.raises(UserErrorException, match="includes itself"):
        read_file(tmp_path / "r.txt")


@given(st.text(max_size=40))
def test_any_text_is_a_line_or_refused(text: str) -> None:
    try:
        requirement = parse(text)
    except UserErrorException:
        return
    assert "\n" not in requirement.line
    assert requirement.line.startswith("--") or normalised(requirement.name) == requirement.name != ""
