"""What users are told when packages cannot be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainkit.environment import Environment
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare import prepare
from trainkit.prepare.base import Base
from trainkit.prepare.verdicts import explain, without_build
from trainkit.requirements import Requirement, parse


def failure(tmp_path: Path, shelf: Any, *packages: str, **options: Any) -> str:
    wanted = Environment("tests", pip_packages=[*shelf.options, *packages], **options).spec()
    with pytest.raises(EnvironmentBuildError) as caught:
        prepare(wanted, tmp_path / "envs", tmp_path / "prepare.log")
    return caught.value.message


@pytest.mark.parametrize("inherit", [True, False])
def test_a_pin_with_only_sources_names_the_lowest_higher_version_with_a_build(
    tmp_path: Path, shelf: Any, inherit: bool
) -> None:
    shelf.source("tk_image", "5.4.1")
    for version in ("5.0", "6.2", "9.0"):
        shelf.build("tk_image", version)
    message = failure(tmp_path, shelf, "tk-image==5.4.1", inherit=inherit)
    assert "tk-image==5.4.1" in message and "no build for Python" in message
    assert "lowest higher version that has one is tk-image==6.2" in message
    assert "--no-binary tk-image" in message


def test_a_pin_with_builds_for_another_python_only(tmp_path: Path, shelf: Any, other_python: str) -> None:
    shelf.build("tk_image", "5.4.1", tag=other_python)
    shelf.build("tk_image", "7.0")
    message = failure(tmp_path, shelf, "tk_image==5.4.1")
    assert "lowest higher version that has one is tk-image==7.0" in message
    assert "--no-binary" not in message  # there are no sources to build


def test_all_bad_pins_are_told_at_once(tmp_path: Path, shelf: Any, other_python: str) -> None:
    for name in ("tk_one", "tk_two"):
        shelf.build(name, "1.0", tag=other_python)
        shelf.build(name, "2.0")
    message = failure(tmp_path, shelf, "tk_one==1.0", "tk_two==1.0")
    assert "tk-one==2.0" in message and "tk-two==2.0" in message


def test_a_pin_above_every_build(tmp_path: Path, shelf: Any, other_python: str) -> None:
    shelf.build("tk_image", "3.0")
    shelf.build("tk_image", "4.0", tag=other_python)
    assert "newest version that has one is tk-image==3.0" in failure(tmp_path, shelf, "tk_image==4.0")


def test_a_version_that_does_not_exist(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_image", "3.0")
    message = failure(tmp_path, shelf, "tk_image==99")
    assert "no version of tk-image that is 99" in message and "3.0" in message


def test_packages_that_exclude_each_other(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_a", "1.0", needs=["tk_b==1"])
    shelf.build("tk_b", "1.0")
    shelf.build("tk_b", "2.0")
    message = failure(tmp_path, shelf, "tk_a", "tk_b==2.0")
    assert "cannot be installed" in message and "tk-b" in message


def test_a_package_that_was_never_built_is_built_from_its_sources(tmp_path: Path, shelf: Any) -> None:
    shelf.source("tk_never", "1.0")
    message = failure(tmp_path, shelf, "tk_never", inherit=False)
    assert "tk-never" in message.replace("_", "-")
    assert "building from source" in (tmp_path / "prepare.log").read_text()


class _Nothing:
    """An index in which nothing is found."""

    base = Base("python", "python", "/", "3.11.2", (), ())
    requirements: list[Requirement] = [parse("pillow==5.4.1")]

    def has_build(self, requirement: str) -> bool:
        return False

    def lowest_build(self, name: str, above: str = "") -> str:
        return "9.2.0" if above == "5.4.1" else ""

    def newest_build(self, name: str) -> str:
        return ""


def test_the_installers_own_words_are_understood() -> None:
    source = (
        "error: No solution found when resolving dependencies\n  cause: Because pillow==5.4.1 has no usable wheels and "
        "you require pillow==5.4.1, we can conclude that your requirements are unsatisfiable.\n\nhint: Wheels are "
        "required for `pillow` because building from source is disabled for all packages (i.e., with `--no-build`)\n"
    )
    assert without_build(source) == ["pillow"]
    assert "pillow==9.2.0" in explain(source, _Nothing())
    unreachable = "error: Request failed after 3 retries\n  cause: error sending request for url (x)\n"
    assert "could not be reached" in explain(unreachable, _Nothing())
    assert "see the installer's output" in explain("something else", _Nothing())
