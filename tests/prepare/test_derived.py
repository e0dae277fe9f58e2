"""Packages go into an image by its own installers, as lists of words that no shell reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainkit.environmentspec import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.derived import Derived

PYTHON = {"path": "/opt/conda/bin/python", "pip": True, "conda": "/usr/bin/micromamba", "prefix": "/opt/conda"}


def derived(envs: Path, python: dict[str, Any] | None = None, **packages: Any) -> Derived | None:
    spec = EnvironmentSpec("tests", "python", **packages)
    return Derived.of(spec, {"python": {**PYTHON, **(python or {})}}, "image base", envs)


def test_condas_packages_come_first_from_the_channels_that_are_named(tmp_path: Path) -> None:
    found = derived(tmp_path, conda_packages=("numpy", "b c"), pip_packages=("lite; python_version > '3'",))
    assert found is not None
    begin, conda, copy, pip = found.dockerfile("base:1", "root").splitlines()
    assert (begin, copy) == ("FROM base:1", "COPY . /opt/trainkit/")
    words = json.loads(conda.removeprefix("RUN "))
    assert words[:5] == ["/usr/bin/micromamba", "install", "--yes", "--prefix", "/opt/conda"]
    assert words[5:] == ["--override-channels", "--channel", "conda-forge", "numpy", "b c"]
    assert json.loads(pip.removeprefix("RUN "))[3:6] == ["/opt/conda/bin/python", "-m", "pip"]
    own = derived(tmp_path, conda_packages=("numpy",), conda_channels=("lab", "defaults"))
    assert own is not None and '"--channel", "lab", "--channel", "defaults"' in own.dockerfile("base:1", "")


def test_an_images_own_user_stays_its_user(tmp_path: Path) -> None:
    found = derived(tmp_path, pip_packages=("lite",))
    assert found is not None
    lines = found.dockerfile("base:1", "jovyan:100").splitlines()
    assert (lines[1], lines[-1]) == ("USER root", "USER jovyan:100")


def test_packages_that_are_files_here_go_along(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "a.whl").write_text("a")
    wheel = tmp_path / "my lite.whl"
    wheel.write_text("one")
    lines = (f"--find-links {tmp_path}/shelf", f"lite @ file://{tmp_path}/my%20lite.whl ; python_version > '3'", "a")
    found = derived(tmp_path / "envs", pip_packages=lines)
    assert found is not None
    with found.context() as folder:
        assert (folder / "requirements.txt").read_text().splitlines() == [
            "--find-links /opt/trainkit/packages-0",
            "lite @ file:///opt/trainkit/packages-1/my%20lite.whl ; python_version > '3'",
            "a",
        ]
        assert (folder / "packages-0" / "a.whl").read_text() + (
            folder / "packages-1" / wheel.name
        ).read_text() == "aone"
        assert (folder / "requirements.txt").stat().st_mode & 0o777 == 0o644
    assert not folder.exists()
    wheel.write_text("two")
    other = derived(tmp_path / "envs", pip_packages=lines)
    assert other is not None and other.inputs != found.inputs
    wheel.unlink()
    with pytest.raises(EnvironmentBuildError, match="my lite.whl cannot be read"):
        derived(tmp_path / "envs", pip_packages=lines)


def test_what_links_lead_to_goes_along_and_counts(tmp_path: Path) -> None:
    shelf, build = tmp_path / "my shelf", tmp_path / "build"
    (build / "more").mkdir(parents=True)
    (build / "a.whl").write_text("a")
    (build / "more" / "b.whl").write_text("b")
    shelf.mkdir()
    for name, target in (("a.whl", "../build/a.whl"), ("more", "../build/more"), ("gone", "nowhere"), ("self", ".")):
        (shelf / name).symlink_to(target)
    envs = tmp_path / ".runs" / "envs"
    envs.mkdir(parents=True)
    (shelf / "runs").symlink_to(envs.parent)
    lines = (f"--find-links file://{tmp_path}/my%20shelf", "a")
    found = derived(envs, pip_packages=lines)
    assert found is not None
    with found.context() as folder:
        assert (folder / "requirements.txt").read_text() == "--find-links /opt/trainkit/packages-0\na\n"
        seen = {p.relative_to(folder / "packages-0").as_posix() for p in (folder / "packages-0").rglob("*")}
        assert seen == {"a.whl", "more", "more/b.whl"} and (folder / "packages-0/a.whl").read_text() == "a"
        assert not (folder / "packages-0" / "a.whl").is_symlink()
    (build / "more" / "b.whl").write_text("another")
    other = derived(envs, pip_packages=lines)
    assert other is not None and other.inputs != found.inputs


def test_nothing_is_built_for_nothing_and_what_cannot_be_installed_is_refused(tmp_path: Path) -> None:
    assert derived(tmp_path) is None
    assert derived(tmp_path, pip_packages=("lite",), user_managed=True) is None
    with pytest.raises(EnvironmentBuildError, match=r"image base has no pip"):
        derived(tmp_path, {"pip": False, "conda": ""}, pip_packages=("lite",))
    with pytest.raises(EnvironmentBuildError, match=r"asks for numpy, but .* in the image base is not conda's"):
        derived(tmp_path, {"conda": ""}, conda_packages=("numpy",))
