"""How configurations become worlds of nodes and ranks."""

from __future__ import annotations

from typing import Any

import pytest

from trainkit import MpiConfiguration, PyTorchConfiguration, RunConfiguration, ScriptRunConfig
from trainkit.distributed import SpreadConfiguration, World, world_of
from trainkit.errors import RunConfigurationException
from trainkit.runconfig import DockerConfiguration


@pytest.mark.parametrize(
    ("configuration", "world"),
    [
        (None, World()),
        (MpiConfiguration(), World("mpi")),
        (MpiConfiguration(2, 3), World("mpi", 3, 2)),
        (PyTorchConfiguration(), World("torchrun")),
        (PyTorchConfiguration(node_count=3), World("torchrun", 3, 1)),
        (PyTorchConfiguration("Gloo", 6, 3), World("torchrun", 3, 2, "gloo")),
        (SpreadConfiguration("fork", 2), World("fork", 1, 2)),
    ],
)
def test_worlds(configuration: Any, world: World) -> None:
    assert world_of(configuration) == world


def test_the_run_configurations_node_count_is_the_same_or_refused() -> None:
    assert world_of(MpiConfiguration(2), 3) == World("mpi", 3, 2)
    with pytest.raises(RunConfigurationException, match="2 and, in MpiConfiguration, as 3"):
        world_of(MpiConfiguration(1, 3), 2)
    with pytest.raises(RunConfigurationException, match="MpiConfiguration\\(node_count=2\\)"):
        world_of(None, 2)


@pytest.mark.parametrize("value", [0, -1, 10**9, 1.0, "2", None, True])
def test_counts_that_cannot_be(value: Any) -> None:
    for configuration in (MpiConfiguration(value), MpiConfiguration(1, value), PyTorchConfiguration(None, 1, value)):
        with pytest.raises(RunConfigurationException):
            world_of(configuration)


def test_process_count_is_the_total() -> None:
    with pytest.raises(RunConfigurationException, match="Ask for 4 or 6"):
        world_of(PyTorchConfiguration(process_count=5, node_count=2))


def test_backends() -> None:
    with pytest.raises(RunConfigurationException, match="mpi is not a supported backend. 'communication_backend' must"):
        PyTorchConfiguration("mpi")
    assert PyTorchConfiguration("nccl").check_backend() == "nccl"


@pytest.mark.parametrize("value", ["mpi", MpiConfiguration, 2])
def test_a_configuration_of_another_type(value: Any) -> None:
    with pytest.raises(RunConfigurationException, match="'distributed_job_config' must be an MpiConfiguration"):
        ScriptRunConfig(".", "train.py", distributed_job_config=value)


@pytest.mark.parametrize("name", ["environment", "run_config", "docker_runtime_config"])
def test_arguments_of_another_type(name: str) -> None:
    with pytest.raises(RunConfigurationException, match=name):
        ScriptRunConfig(".", "train.py", **{name: "x"})  # type: ignore[arg-type]


def test_attributes_that_do_not_exist_cannot_be_set() -> None:
    for thing in (ScriptRunConfig("."), RunConfiguration(), MpiConfiguration(), DockerConfiguration()):
        with pytest.raises(AttributeError):
            thing.no_such = 1  # type: ignore[union-attr]


def test_the_communicator_chooses() -> None:
    run = RunConfiguration()
    assert run.distributed() is None
    run.communicator, run.mpi.process_count_per_node = "OpenMpi", 2
    assert run.distributed() == MpiConfiguration(2)
    run.communicator = "Gloo"
    assert run.distributed() == PyTorchConfiguration("Gloo")
    run.communicator = "carrier pigeon"
    with pytest.raises(RunConfigurationException, match="'Mpi', 'Nccl', 'Gloo'"):
        run.distributed()


def test_a_shared_run_configuration_is_not_changed() -> None:
    run = RunConfiguration(script="a.py", target="local")
    config = ScriptRunConfig(".", run_config=run, compute_target="other")
    assert (run.target, config.compute_target, config.script) == ("local", "other", "a.py")
    plain = ScriptRunConfig(".", run_config=run)
    plain.run_config.environment.environment_variables["A"] = "1"
    assert plain.run_config is run
