"""Whether a job runs in a container, and of which image, as decided from what users set."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from trainkit import Environment
from trainkit.containers import arguments_of, dockerfile_text, for_cluster, image_of
from trainkit.docker import DockerBuildContext, DockerConfiguration, DockerSection
from trainkit.environmentspec import EnvironmentSpec
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.imagespec import ImageSpec, RegistrySpec

DOCKERFILE = "FROM python:3.11\nRUN pip install fastai\n"


def section(**values: Any) -> DockerSection:
    made = DockerSection()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_without_a_wish_there_is_no_container() -> None:
    assert image_of(section()) is None
    assert image_of(section(enabled=False, shm_size="8g"), DockerConfiguration(shm_size="1g")) is None
    assert image_of(section(), DockerConfiguration(use_docker=False), default_image="python:3.11") is None


@pytest.mark.parametrize(
    ("values", "run", "wanted"),
    [
        ({"base_image": "fastdotai/fastai2:latest"}, {}, ImageSpec(base="fastdotai/fastai2:latest")),
        ({"enabled": True, "base_image": "a"}, {"use_docker": True}, ImageSpec(base="a")),
        ({"enabled": True}, {}, ImageSpec(base="of-config:1")),
        ({}, {"use_docker": True}, ImageSpec(base="of-config:1")),
        ({"enabled": False, "base_image": "a"}, {"use_docker": True}, ImageSpec(base="a")),
        ({"base_dockerfile": DOCKERFILE}, {}, ImageSpec(dockerfile=DOCKERFILE)),
        (
            {"base_image": "a", "arguments": ["--init"], "shm_size": "512MB", "engine": "podman"},
            {},
            ImageSpec("podman", "a", arguments=("--init",), shm_size="512m"),
        ),
        (
            {"base_image": "a", "arguments": ["--init"], "shm_size": "512m", "engine": "podman"},
            {"arguments": ["-v", "/a:/b"], "shm_size": "8G", "engine": "docker"},
            ImageSpec("docker", "a", arguments=("-v", "/a:/b"), shm_size="8g"),
        ),
    ],
)
def test_which_image_runs_and_how(values: dict[str, Any], run: dict[str, Any], wanted: ImageSpec) -> None:
    assert image_of(section(**values), DockerConfiguration(**run), "of-config:1") == wanted


@pytest.mark.parametrize(
    ("values", "run", "words"),
    [
        (
            {"enabled": False, "base_image": "a"},
            {},
            "docker.enabled=False asks for no container, but docker.base_image",
        ),
        ({"base_dockerfile": DOCKERFILE}, {"use_docker": False}, "use_docker=False .* docker.base_dockerfile"),
        ({"enabled": True}, {}, 'docker.enabled=True .* Set docker.base_image, or "default_image" in config.json'),
        ({}, {"use_docker": True}, "use_docker=True asks for a container, but nothing says of which image"),
        ({"arguments": ["-v"]}, {}, "docker.arguments .* runs in none"),
        ({}, {"arguments": ["-v"]}, "docker.arguments .* runs in none"),
        ({"enabled": "yes"}, {}, "docker.enabled is True or False"),
        ({"base_image": ""}, {}, "name of an image"),
        ({"base_image": "--privileged"}, {}, "name of an image"),
        ({"base_image": "a b"}, {}, "name of an image"),
        ({"base_image": "registry.example.org/Pets"}, {}, "its path in small letters"),
        ({"base_image": "UPPER/case"}, {}, "its path in small letters"),
        ({"base_image": "a:1:2"}, {}, "is no name of an image"),
        ({"base_image": "./x.sif"}, {}, "a file or an address, but docker and podman take images by their names"),
        ({"base_image": "docker://a:1"}, {}, "a file or an address, but docker and podman take images by their names"),
        ({"base_image": 3}, {}, "name of an image"),
        ({"build_context": "folder"}, {}, "DockerBuildContext.from_local_directory"),
        ({"base_image": "a", "arguments": "-v /a:/b"}, {}, "list of texts"),
        ({"base_image": "a", "arguments": [3]}, {}, "holds texts"),
        ({"base_image": "a", "shm_size": "two"}, {}, "shm_size is a size such as '2g'"),
        ({"base_image": "a"}, {"shm_size": "0g"}, "shm_size is a size such as '2g'"),
        ({"base_image": "a", "engine": 3}, {}, "name of a container engine"),
        ({"base_image": "a", "base_image_registry": "registry.example.org"}, {}, "is a ContainerRegistry"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], run: dict[str, Any], words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        image_of(section(**values), DockerConfiguration(**run))


def test_what_has_no_effect_says_so() -> None:
    with pytest.warns(DeprecationWarning, match="gpu_support has no effect"):
        made = section(base_image="a", gpu_support=True, shared_volumes=False)
    with pytest.warns(DeprecationWarning, match="shared_volumes=False has no effect"):
        image_of(made)


def test_a_path_is_read_at_submit_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("./Dockerfile", Path("Dockerfile"), "Dockerfile"):
        made = section(base_dockerfile=path)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "Dockerfile").write_text(DOCKERFILE)
        assert image_of(made) == ImageSpec(dockerfile=DOCKERFILE)
        (tmp_path / "Dockerfile").unlink()
        with pytest.raises(UserErrorException, match=f"there is no file {tmp_path}/Dockerfile"):
            image_of(made)


@pytest.mark.parametrize(
    "text", ["FROM python:3.11", "from python:3.11 # small", "# a\nFROM x", "ARG A=1\n  FROM x:$A"]
)
def test_a_dockerfile_is_told_from_a_path(text: str) -> None:
    assert dockerfile_text(text) == text


@pytest.mark.parametrize("value", ["RUN x\nRUN y", "", 3, b"FROM x", "no/such file/Dockerfile"])
def test_what_is_no_dockerfile(value: Any) -> None:
    with pytest.raises(UserErrorException, match="base_dockerfile"):
        dockerfile_text(value)


def test_a_folder_or_another_file_is_no_dockerfile(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(UserErrorException, match=r"notes\.txt is no Dockerfile"):
        dockerfile_text(tmp_path / "notes.txt")
    with pytest.raises(UserErrorException, match="cannot be read: Is a directory"):
        dockerfile_text(tmp_path)


@pytest.mark.parametrize("file", [io.StringIO(DOCKERFILE), io.BytesIO(DOCKERFILE.encode())])
def test_an_open_file_is_read_before_it_is_closed(file: Any) -> None:
    made = section(base_dockerfile=file)
    file.close()
    assert image_of(made) == ImageSpec(dockerfile=DOCKERFILE)


def test_a_build_context_is_a_folder_with_a_dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets" / "docker").mkdir(parents=True)
    (tmp_path / "pets" / "docker" / "Dockerfile").write_text(DOCKERFILE)
    monkeypatch.chdir(tmp_path)
    context = DockerBuildContext.from_local_directory(None, "pets", "docker/Dockerfile")
    assert image_of(section(build_context=context)) == ImageSpec(dockerfile=DOCKERFILE, context=str(tmp_path / "pets"))
    for folder, name, words in (
        ("pets", "Dockerfile", "pets has no Dockerfile"),
        ("cats", "Dockerfile", "there is none at"),
        ("pets", "../Dockerfile", "lies in it"),
    ):
        with pytest.raises(UserErrorException, match=words):
            DockerBuildContext.from_local_directory(None, folder, name)


def test_the_later_one_wins_and_says_so_once(capfd: pytest.CaptureFixture[str]) -> None:
    made = section(base_image="a")
    made.base_image = None
    made.base_dockerfile = DOCKERFILE
    made.base_image = None
    made.base_dockerfile = "./Dockerfile"
    assert made.source() == ("base_dockerfile", "./Dockerfile")
    assert capfd.readouterr().err == ""
    made.base_image = "b"
    assert made.base_dockerfile is None and made.source() == ("base_image", "b")
    assert (
        capfd.readouterr().err == "trainkit: docker.base_image takes the place of docker.base_dockerfile, set before.\n"
    )
    made.base_image = "c"
    assert capfd.readouterr().err == ""


def test_an_environment_with_an_image_is_frozen_with_nothing_of_this_machine() -> None:
    environment = Environment("pets", pip_packages=["fastai==2.7.12"], python_version="3.7")
    environment.docker.base_image = "fastdotai/fastai2:latest"
    environment.docker.base_image_registry.address = "https://myregistry.azurecr.io/"
    environment.docker.base_image_registry.username = "username"
    environment.docker.base_image_registry.password = "env:PETS_PASSWORD"
    spec = environment.spec()
    assert spec == EnvironmentSpec(
        "pets",
        "python",
        pip_packages=("fastai==2.7.12",),
        python_version="3.7",
        image=ImageSpec(
            base="fastdotai/fastai2:latest",
            registry=RegistrySpec("myregistry.azurecr.io", "username", "env:PETS_PASSWORD"),
        ),
    )
    assert not spec.is_plain
    assert EnvironmentSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_with_user_managed_dependencies_the_images_python_is_taken() -> None:
    environment = Environment("pets")
    environment.docker.base_image = "python:3.11"
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = "/opt/conda/bin/python"
    assert environment.spec() == EnvironmentSpec(
        "pets", "/opt/conda/bin/python", user_managed=True, image=ImageSpec(base="python:3.11")
    )
    environment.python.interpreter_path = "bin/python"
    with pytest.raises(UserErrorException, match="a program in the image"):
        environment.spec()
    environment.python.interpreter_path = "python3"
    environment.inherit = False
    with pytest.raises(UserErrorException, match="inherit=False has no meaning in an image"):
        environment.spec()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EnvironmentSpec("e", "python", image=ImageSpec(dockerfile=DOCKERFILE)), "has a Dockerfile"),
        (EnvironmentSpec("e", "python", pip_packages=("a",), image=ImageSpec(base="x")), "has packages"),
        (
            EnvironmentSpec("e", "python", image=ImageSpec("docker", "x", arguments=("-v",))),
            "arguments and a container",
        ),
        (
            EnvironmentSpec("e", "python", image=ImageSpec(base="x", registry=RegistrySpec("r", "u"))),
            "image_pull_secrets",
        ),
    ],
)
def test_a_cluster_that_runs_images_itself_builds_none(spec: EnvironmentSpec, words: str) -> None:
    with pytest.raises(UnsupportedJob, match=words):
        for_cluster(spec, "lab")


def test_a_cluster_that_runs_images_itself_takes_their_names() -> None:
    for spec in (EnvironmentSpec("e", "/bin/python"), EnvironmentSpec("e", "python", image=ImageSpec(base="x"))):
        assert for_cluster(spec, "lab") == spec


@pytest.mark.parametrize("word", ["-d", "--name=mine", "--entrypoint", "--rm=false", "--user"])
def test_words_that_a_jobs_container_has_already_are_refused(word: str) -> None:
    with pytest.raises(UserErrorException, match="trainkit's own to say"):
        arguments_of([word])
    assert arguments_of(["--cap-add=SYS_PTRACE"]) == ("--cap-add=SYS_PTRACE",)
