"""Which engine runs a job's image is decided by what answers, and an error says what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.containers import Engine
from trainkit.errors import UnsupportedJob
from trainkit.prepare.engines import choose_engine, image_engine


@pytest.mark.engine
def test_docker_is_used_where_it_answers_then_podman_or_the_one_that_is_named(docker: Engine, podman: Engine) -> None:
    assert (choose_engine(), choose_engine("podman"), choose_engine("docker")) == ("docker", "podman", "docker")


@pytest.mark.engine
def test_podman_is_used_where_dockers_daemon_does_not_answer(podman: Engine) -> None:
    assert choose_engine() == "podman"
    with pytest.raises(
        UnsupportedJob, match=r"asks for .* docker, but docker does not answer.*no-docker.* podman would"
    ):
        choose_engine("docker")


def test_where_nothing_answers_the_error_says_what_was_found(
    no_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedJob, match=r"knows apptainer, docker, podman"):
        choose_engine("lxc")
    old = tmp_path / "bin" / "podman"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 3.4.4\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(old.parent))
    with pytest.raises(UnsupportedJob) as caught:
        choose_engine()
    assert "docker is not on the PATH. podman 3.4.4 is too old: 4.0 or later is needed." in caught.value.message
    assert "apptainer is not on the PATH. Install docker or podman, start docker's daemon" in caught.value.message
    old.with_name("docker").write_text("#!/bin/sh\necho 28.0.1 Engine containerd rootlesskit\n")
    old.with_name("docker").chmod(0o755)
    with pytest.raises(UnsupportedJob, match="asks for .* docker, but docker's daemon runs without root here"):
        choose_engine("docker")
    old.rename(old.with_name("apptainer"))
    with pytest.raises(
        UnsupportedJob, match="asks for .* apptainer, but trainkit knows how apptainer runs images, but"
    ):
        choose_engine("apptainer")


def test_an_engine_that_only_runs_images_prepares_none() -> None:
    with pytest.raises(UnsupportedJob, match="neither fetches nor builds them"):
        image_engine("apptainer")
