"""Estimators: what they become, and every refusal of their constructors, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainkit import ContainerRegistry, Estimator, MpiConfiguration, PyTorchConfiguration
from trainkit.environment import Environment
from trainkit.errors import TrainingException, UnsupportedJob, UserErrorException
from trainkit.estimators import Gloo, Mpi, Nccl
from trainkit.imagespec import ImageSpec, RegistrySpec


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a script, in an otherwise empty current directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("print('hello')\n")
    monkeypatch.chdir(tmp_path)
    return folder


def estimator(project: Path, **options: Any) -> Estimator:
    return Estimator(project, **{"compute_target": "local", "entry_script": "train.py", **options})


def test_parameters_become_arguments_in_order(project: Path) -> None:
    made = estimator(
        project, script_params={"--num_epochs": 30, "--output_dir": "./outputs", "--flag": "", "--off": None}
    )
    assert made.run_config.arguments == ["--num_epochs", 30, "--output_dir", "./outputs", "--flag", "--off"]
    config = made.to_script_run_config()
    assert config.script == "train.py" and config.compute_target == "local" and config.use_gpu is False


@pytest.mark.parametrize("params", [["--a", 1], {3: 1}, {"": 1}, "--a 1"])
def test_parameters_that_are_none(project: Path, params: Any) -> None:
    with pytest.raises(TrainingException):
        estimator(project, script_params=params)


MESSAGES = [
    ({"node_count": 0}, TrainingException, "Node count should be at least 1."),
    ({"process_count_per_node": -1}, TrainingException, "Process count per node should be at least 1."),
    ({"node_count": "2"}, TrainingException, "Node count should be a whole number, not '2'."),
    (
        {"node_count": 2}, TrainingException,
        "'distributed_backend' or 'distributed_training' must be specified when node_count > 1 or "
        "process_count_per_node > 1.",
    ),
    ({"compute_target": None}, TrainingException, "Either compute target or VM size should be specified."),
    (
        {"distributed_backend": "foo"}, TrainingException,
        "Unsupported distributed backend value: foo. Supported backend(s): ['mpi', 'gloo', 'nccl'].",
    ),
    (
        {"use_docker": False, "custom_docker_image": "x"}, TrainingException,
        "If use_docker parameter is set to false, custom_docker_image parameter is not allowed.",
    ),
    (
        {"use_docker": False, "custom_docker_base_image": "x"}, TrainingException,
        "If use_docker parameter is set to false, custom_docker_image parameter is not allowed.",
    ),
    (
        {"custom_docker_image": "x", "custom_docker_base_image": "y"}, TrainingException,
        "custom_docker_base_image is the old name of custom_docker_image; give only the latter.",
    ),
    ({"use_docker": "yes"}, TrainingException, "use_docker is True, False or None, not 'yes'."),
    ({"custom_docker_image": ["x"]}, TrainingException, "custom_docker_image is the name of an image, not ['x']."),
    (
        {"image_registry_details": "r.example.org"}, TrainingException,
        "image_registry_details is a ContainerRegistry, not of str.",
    ),
    (
        {"environment_definition": Environment("e"), "custom_docker_image": "x",
         "image_registry_details": ContainerRegistry("r.example.org")}, TrainingException,
        "environment_definition describes the whole environment: custom_docker_image, image_registry_details cannot "
        "be given beside it.",
    ),
    (
        {"user_managed": True, "pip_packages": ["timm"]}, UserErrorException,
        "If user_managed is True, then conda_packages, conda_dependencies_file, pip_packages or "
        "pip_requirements_file cannot be specified.",
    ),
    (
        {"environment_definition": Environment("e"), "pip_packages": ["timm"]}, TrainingException,
        "environment_definition describes the whole environment: pip_packages cannot be given beside it.",
    ),
    (
        {"conda_dependencies_file": "c.yml", "pip_packages": ["timm"]}, TrainingException,
        "If conda_dependencies_file is specified, then conda_packages, pip_packages or pip_requirements_file cannot "
        "be specified: add them to the file.",
    ),
    (
        {"pip_requirements_file": "absent.txt"}, UserErrorException,
        "path doesn't exist. The pip requirements file should be inside the project folder",
    ),
    (
        {"compute_target": object(), "node_count": 2, "distributed_training": MpiConfiguration()}, TrainingException,
        "Compute target should be AmlCompute or KubernetesCompute for distributed training (node_count > 1).",
    ),
    ({"distributed_training": "mpi"}, TrainingException, "'distributed_training' must be an MpiConfiguration"),
    ({"pip_packages": "timm"}, UserErrorException, "pip_packages is a list of strings"),
    ({"pip_packages": ["pillow=5"]}, UserErrorException, "'pillow=5' is no pip requirement"),
    ({"use_gpu": "maybe"}, TrainingException, "use_gpu is True, False or 'required', not 'maybe'."),
    (
        {"distributed_training": MpiConfiguration(2), "process_count_per_node": 3}, TrainingException,
        "process_count_per_node is given twice, as 3 and as 2",
    ),
    (
        {"pip_requirements_file": "a", "pip_requirements_file_path": "b"}, TrainingException,
        "pip_requirements_file_path is the old name of pip_requirements_file",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "message"), MESSAGES, ids=[str(list(o)) for o, _, _ in MESSAGES])
@pytest.mark.filterwarnings("ignore:Deprecated arguments")
def test_what_the_constructor_refuses(project: Path, options: Any, kind: type[Exception], message: str) -> None:
    before = sorted(project.parent.rglob("*"))
    with pytest.raises(kind) as caught:
        estimator(project, **options)
    assert type(caught.value) is kind and message in str(caught.value)
    assert sorted(project.parent.rglob("*")) == before


def test_an_unknown_argument(project: Path) -> None:
    with pytest.raises(TypeError, match="node_cuont"):
        estimator(project, node_cuont=2)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, None),
        ({"distributed_training": MpiConfiguration(), "node_count": 2}, MpiConfiguration(1, 2)),
        ({"distributed_training": MpiConfiguration(2)}, MpiConfiguration(2, 1)),
        ({"distributed_training": PyTorchConfiguration(), "node_count": 2, "process_count_per_node": 2},
         PyTorchConfiguration(None, 4, 2)),
        ({"distributed_training": PyTorchConfiguration("Gloo", process_count=2)}, PyTorchConfiguration("Gloo", 2, 1)),
    ],
)  # fmt: skip
def test_one_configuration_from_counts_in_two_places(project: Path, options: Any, wanted: Any) -> None:
    assert estimator(project, **options).to_script_run_config().distributed() == wanted


def test_a_backend_is_the_old_way_to_say_it(project: Path) -> None:
    with pytest.warns(DeprecationWarning, match="distributed_backend.*vm_priority") as caught:
        made = estimator(project, distributed_backend="mpi", node_count=2, vm_priority="dedicated")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert made.to_script_run_config().distributed() == MpiConfiguration(1, 2)


def test_the_first_names_of_backends() -> None:
    with pytest.warns(DeprecationWarning, match="old name") as caught:
        assert Mpi(2).process_count_per_node == 2
        assert (Nccl().communication_backend, Gloo().communication_backend) == ("Nccl", "Gloo")
    assert len(caught) == 3 and {w.filename for w in caught} == {__file__}


def test_files_of_packages_are_read_in_the_project(project: Path) -> None:
    (project / "r.txt").write_text("timm\n")
    (project / "c.yml").write_text("dependencies:\n- pip:\n  - rich\n")
    assert estimator(project, pip_requirements_file="r.txt").conda_dependencies.pip_packages == ["timm"]
    assert estimator(project, conda_dependencies_file="c.yml").conda_dependencies.pip_packages == ["rich"]
    (project.parent / "outside.txt").write_text("timm\n")
    with pytest.raises(UserErrorException, match="inside the project folder"):
        estimator(project, pip_requirements_file="../outside.txt")


def test_its_environment_can_still_be_changed(project: Path) -> None:
    made = estimator(project, pip_packages=["timm"], environment_variables={"A": "1"}, inherit=False)
    made.conda_dependencies.add_pip_package("rich")
    spec = made.to_script_run_config().environment.spec()
    assert spec.pip_packages == ("timm", "rich") and not spec.inherit and spec.environment_variables == {"A": "1"}


@pytest.mark.parametrize("name", ["inputs", "source_directory_data_store"])
def test_what_later_versions_bring_is_kept_for_submit(project: Path, name: str) -> None:
    assert list(estimator(project, **{name: ["x"]}).to_script_run_config().later) == [name]


def test_its_image(project: Path) -> None:
    registry = ContainerRegistry("r.example.org", "user", "s3cret")
    made = estimator(
        project, custom_docker_image="r.example.org/pets:1", image_registry_details=registry, shm_size="8g",
        user_managed=True,
    )  # fmt: skip
    config = made.to_script_run_config()
    spec = config.environment.spec(config.run_config.docker)
    assert spec.user_managed and spec.image == ImageSpec(
        base="r.example.org/pets:1", registry=RegistrySpec("r.example.org", "user"), shm_size="8g"
    )
    assert config.environment.password() == "s3cret" and "s3cret" not in repr(made) + repr(config) + repr(spec)


def test_use_docker_counts_in_a_given_environment_too(project: Path) -> None:
    given = Environment("given")
    config = estimator(project, environment_definition=given, use_docker=True).to_script_run_config()
    assert config.environment.spec(config.run_config.docker, "python:3.11").image == ImageSpec(base="python:3.11")
    given.docker.base_image = "python:3.12"
    config = estimator(project, environment_definition=given, use_docker=False).to_script_run_config()
    with pytest.raises(UnsupportedJob, match="use_docker=False asks for no container, but docker.base_image"):
        config.environment.spec(config.run_config.docker)
