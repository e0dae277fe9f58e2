"""What `use_gpu` means on targets with none, few and enough GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from trainkit.boot.gpus import Gpu
from trainkit.distributed import World
from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.gpus import Devices, choose, words

TWO = [Gpu("0", "NVIDIA A100"), Gpu("1", "NVIDIA A100")]


@pytest.mark.parametrize(
    ("use_gpu", "world", "gpus", "devices"),
    [
        (False, World(), TWO, Devices(0, "cpu", "gloo")),
        (True, World(), [], Devices(0, "cpu", "gloo")),
        (True, World(), TWO, Devices(1, "1 x NVIDIA A100", "nccl", ("0",))),
        (True, World("mpi", 1, 2), TWO, Devices(2, "2 x NVIDIA A100", "nccl", ("0", "1"))),
        (True, World("mpi", 2, 1), TWO, Devices(1, "2 x NVIDIA A100", "nccl", ("0", "1"))),
        ("required", World("torchrun", 1, 2, "gloo"), TWO, Devices(2, "2 x NVIDIA A100", "gloo", ("0", "1"))),
        (True, World("mpi", 2, 4), None, Devices(4, "8 GPU(s) of far", "nccl")),
        (False, World("mpi", 2, 4), None, Devices(0, "cpu", "gloo")),
    ],
)
def test_choices(use_gpu: Any, world: World, gpus: Any, devices: Devices) -> None:
    assert choose(use_gpu, world, gpus, "far") == devices


def test_too_few() -> None:
    with pytest.raises(UnsupportedJob, match=r"3 ranks \(1 x 3\).*this machine, which has 2 x NVIDIA A100.*at most 2"):
        choose(True, World("mpi", 1, 3), TWO, "this machine")


def test_required_and_absent() -> None:
    with pytest.raises(UnsupportedJob, match="this machine has no GPU"):
        choose("required", World(), [], "this machine")


@pytest.mark.parametrize(("use_gpu", "gpus"), [(True, []), (False, TWO)])
def test_nccl_needs_them(use_gpu: bool, gpus: list[Gpu]) -> None:
    with pytest.raises(UnsupportedJob, match="Gloo"):
        choose(use_gpu, World("torchrun", 1, 2, "nccl"), gpus, "this machine")


@pytest.mark.parametrize("value", ["yes", None, 2])
def test_use_gpu_is_one_of_three(value: Any) -> None:
    with pytest.raises(UserErrorException, match="True, False or 'required'"):
        choose(value, World(), [], "this machine")


def test_words() -> None:
    assert words([]) == "cpu"
    assert words([*TWO, Gpu("2", "NVIDIA T4")]) == "2 x NVIDIA A100, 1 x NVIDIA T4"
