"""GPUs counted from the driver's files, as a machine with some would have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.boot.gpus import Gpu, installed, visible

TWO = [Gpu("0", "NVIDIA A100", "GPU-aa11"), Gpu("1", "NVIDIA A100", "GPU-bb22")]


def machine(tmp_path: Path, minors: list[int], devices: list[int]) -> list[Gpu]:
    proc, dev = tmp_path / "proc", tmp_path / "dev"
    dev.mkdir()
    for n, minor in enumerate(minors):
        (proc / f"0000:0{n}:00.0").mkdir(parents=True)
        text = f"Model: \t\t NVIDIA T{n}\nIRQ:   \t\t 1\nGPU UUID: \t GPU-{n}\nDevice Minor: \t {minor}\n"
        (proc / f"0000:0{n}:00.0" / "information").write_text(text)
    for device in devices:
        (dev / f"nvidia{device}").touch()
    (dev / "nvidiactl").touch()
    return installed(proc, dev)


def test_none(tmp_path: Path) -> None:
    assert machine(tmp_path, [], []) == []


def test_in_the_order_of_the_bus(tmp_path: Path) -> None:
    assert machine(tmp_path, [1, 0], [0, 1]) == [Gpu("0", "NVIDIA T0", "GPU-0"), Gpu("1", "NVIDIA T1", "GPU-1")]


def test_those_that_a_container_was_not_given_do_not_count(tmp_path: Path) -> None:
    assert [g.name for g in machine(tmp_path, [0, 1, 2], [1])] == ["NVIDIA T1"]


def test_devices_without_the_drivers_files(tmp_path: Path) -> None:
    assert [g.name for g in machine(tmp_path, [], [0, 3])] == ["NVIDIA GPU", "NVIDIA GPU"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (None, ["0", "1"]), ("", []), ("1", ["1"]), ("1,0", ["1", "0"]), ("0,7,1", ["0"]), ("-1", []),
        ("GPU-bb", ["GPU-bb"]), ("1,1", ["1"]),
    ],
)  # fmt: skip
def test_what_programs_may_see(text: str | None, ids: list[str]) -> None:
    env = {} if text is None else {"CUDA_VISIBLE_DEVICES": text}
    assert [g.id for g in visible(env, TWO)] == ids
