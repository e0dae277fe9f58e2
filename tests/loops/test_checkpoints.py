"""Checkpoints: what is saved comes back bit by bit, and the newest that is whole is the one that is used."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trainkit.errors import CheckpointError
from trainkit.loops import tensorfile, writer
from trainkit.loops.checkpoints import Checkpoints, Saved, load

BASE = torch.arange(24.0).reshape(2, 3, 4)
TENSORS: dict[str, Tensor] = {
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 5),
    "bytes": torch.tensor([1, 2, 255], dtype=torch.uint8),
    "truth": torch.tensor([True, False, True]),
    "short": torch.tensor([1.5, -0.0, float("nan"), float("-inf")], dtype=torch.bfloat16),
    "half": torch.tensor([6e-8, 65504.0], dtype=torch.float16),
    "double": torch.tensor([np.pi, 5e-324], dtype=torch.float64),
    "long": torch.tensor([2**62 + 1, -1]),
    "complex": torch.tensor([1 + 2j]),
    "every other": BASE[:, :, ::2],
    "turned": BASE.permute(2, 0, 1),
    "expanded": torch.tensor([[7.0]]).expand(3, 2),
    "part": BASE[1],
    "channels.last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "bf16 channels last": torch.randn(2, 3, 4, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last),
    "näme/../with \"signs\"": torch.ones(1),
    "parameter": torch.nn.Parameter(torch.randn(3)),
}  # fmt: skip


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, also where it is no number."""
    plain = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*plain)


def save(folder: Path, step: int, value: float = 0.0, keep: int = 3) -> Checkpoints:
    """A small checkpoint on the disk."""
    checkpoints = Checkpoints(folder, keep)
    tensors = {"model": {"weight": torch.full((100,), value)}, "optimizer": {}}
    checkpoints.save(step, tensors, {"step": step}, [{"rank": 0}, {"rank": 1}], "ab12")
    checkpoints.wait()
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tensors_of_all_kinds_come_back_bit_by_bit_also_to_the_stock_library(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):  # the second time into buffers that are there already
        checkpoints.save(step, {"model": TENSORS, "nothing": {}}, {}, [{}], "")
    checkpoints.wait()
    found = load(tmp_path)
    assert found.step == 2 and found.tensors["nothing"] == {}
    stock = load_file(found.path / "model.safetensors")
    assert set(found.tensors["model"]) == set(stock) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert same(found.tensors["model"][name], tensor), name
        assert same(stock[name], tensor), name


def test_what_is_saved_is_the_moment_of_saving(tmp_path: Path) -> None:
    weight = torch.zeros(3_000_000)
    state: dict[str, Any] = {"losses": [1.0]}
    checkpoints = Checkpoints(tmp_path)
    for step in range(3):
        weight.fill_(step)
        assert checkpoints.save(step, {"model": {"weight": weight}}, state, [{}], "") > 0
        weight.fill_(-1)  # training goes on while the file is being written
        state["losses"].append(2.0)
    checkpoints.wait()
    for step in range(3):
        found = load(tmp_path / writer.directory_name(step))
        assert torch.equal(found.tensors["model"]["weight"], torch.full((3_000_000,), float(step)))
        assert len(found.state["losses"]) == step + 1


def test_buffers_are_used_again_and_follow_what_changes(tmp_path: Path) -> None:
    checkpoints, weight = Checkpoints(tmp_path), torch.ones(10)
    checkpoints.save(1, {"model": {"weight": weight}}, {}, [{}], "")
    first = checkpoints._files["model"]
    checkpoints.save(2, {"model": {"weight": weight + 1}, "optimizer": {"0.momentum_buffer": weight}}, {}, [{}], "")
    assert checkpoints._files["model"] is first
    checkpoints.save(3, {"model": {"weight": weight.double(), "more": weight}}, {}, [{}], "")
    checkpoints.wait()
    assert [set(load(path).tensors) for path in writer.directories(tmp_path)] == [
        {"model"}, {"model", "optimizer"}, {"model"}
    ]  # fmt: skip
    assert load(tmp_path).tensors["model"]["weight"].dtype == torch.float64


def test_everything_about_it_is_in_the_manifest(tmp_path: Path) -> None:
    save(tmp_path, 12)
    found = load(tmp_path)
    assert (found.step, found.world_size, found.samples) == (12, 2, "ab12")
    assert found.state == {"step": 12} and found.ranks == [{"rank": 0}, {"rank": 1}]
    assert names(found.path) == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert found.path == tmp_path / "step-00000012"
    assert {path.stat().st_mode & 0o777 for path in found.path.iterdir()} == {0o600}


def test_the_last_ones_are_kept_by_the_order_of_writing(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep=3)
    assert names(tmp_path) == ["step-00000010", "step-00000015", "step-00000020"]
    save(tmp_path, 3, keep=2)  # somebody went back: what is written last is the newest
    assert names(tmp_path) == ["step-00000003", "step-00000020"]
    assert load(tmp_path).step == 3


def test_a_step_that_is_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, 5, 1.0)
    save(tmp_path, 5, 2.0)
    assert names(tmp_path) == ["step-00000005"]
    assert load(tmp_path).tensors["model"]["weight"][0] == 2.0


def test_a_checkpoint_a_folder_and_a_run_are_all_places_to_load_from(tmp_path: Path) -> None:
    save(tmp_path / "run" / "checkpoints", 1)
    save(tmp_path / "run" / "checkpoints", 2)
    assert load(tmp_path / "run").step == load(tmp_path / "run" / "checkpoints").step == 2
    assert load(str(tmp_path / "run" / "checkpoints" / "step-00000001")).step == 1
    for nothing in (tmp_path / "no", tmp_path):
        with pytest.raises(CheckpointError, match="there is no checkpoint in"):
            load(nothing)
    assert Checkpoints(tmp_path / "no").newest() is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def gone(path: Path) -> Path:
    path.unlink()
    return path


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest as its writer would have."""
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps({**manifest, "digest": writer._digest(manifest)}))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda p: flip(p / "model.safetensors"), "another sha256"),
    "a file cut short": (lambda p: (p / "model.safetensors").open("r+b").truncate(50), "has 50 bytes"),
    "an empty file": (lambda p: (p / "optimizer.safetensors").write_bytes(b""), "has 0 bytes"),
    "a missing file": (lambda p: (p / "optimizer.safetensors").unlink(), "is missing"),
    "a link for a file": (lambda p: os.symlink("/dev/zero", gone(p / "model.safetensors")), "cannot be read"),
    "a folder for a file": (lambda p: os.mkdir(gone(p / "model.safetensors")), "model.safetensors"),
    "state that is changed": (lambda p: flip(p / "state.json"), "another sha256"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "has no manifest.json"),
    "a manifest cut short": (lambda p: (p / "manifest.json").open("r+b").truncate(40), "is no JSON"),
    "a manifest of zeros": (lambda p: (p / "manifest.json").write_bytes(bytes(300)), "is no JSON"),
    "a manifest that nests": (lambda p: (p / "manifest.json").write_text("[" * 100_000), "is no JSON"),
    "another manifest": (lambda p: (p / "manifest.json").write_text("[]"), "was changed"),
    "another step": (
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text().replace('"step": 2', '"step": 9')),
        "was changed",
    ),
    "a name that leads out": (
        lambda p: reseal(p / "manifest.json", lambda m: m["files"].update({"../x.json": {"sha256": "", "size": 0}})),
        "no file named '../x.json'",
    ),
    "no hash": (lambda p: reseal(p / "manifest.json", lambda m: m["files"].update({"state.json": 5})), "no hash"),
    "another format": (lambda p: reseal(p / "manifest.json", lambda m: m.update(format=9)), "format 9"),
    "no state": (lambda p: reseal(p / "manifest.json", lambda m: m["files"].pop("state.json")), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_passed_over_with_one_line_that_says_why(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1, 1.0)
    save(tmp_path, 2, 2.0)
    act, why = DAMAGE[damage]
    act(tmp_path / "step-00000002")
    found = Checkpoints(tmp_path).newest()
    assert found is not None and found.step == 1
    assert torch.equal(found.tensors["model"]["weight"], torch.ones(100))
    (line,) = capsys.readouterr().err.splitlines()
    assert "step-00000002 is passed over" in line and why in line
    DAMAGE["a flipped bit"][0](tmp_path / "step-00000001")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints in .* is whole"):
        load(tmp_path)
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08\0\0\0\0\0\0\0", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}x", b"\x02\0\0\0\0\0\0\0[]"]
    + [
        len(text).to_bytes(8, "little") + text.encode() + bytes(8)
        for text in (
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,80]}}',
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,8]}}',
            '{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
            '{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}',
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,-8]}}',
            '{"a":{"dtype":"F32","shape":"2","data_offsets":[0,8]}}',
            '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}',
            '{"a":5}',
        )
    ],
)
def test_bytes_that_are_no_tensors_are_one_clear_error(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"m\.safetensors is no safetensors file"):
        tensorfile.parse(Path("m.safetensors"), np.frombuffer(bytearray(content), np.uint8))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"state": {"a": {1: 2}}}, "the key 1 is no text"),
        ({"state": {"a": torch.ones(1)}}, "not JSON"),
        ({"tensors": {"../model": {}}}, "no file named '../model.safetensors'"),
        ({"tensors": {"model": {"sparse": torch.eye(3).to_sparse()}}}, "'sparse' .* cannot be stored"),
        ({"tensors": {"model": {"wide": torch.ones(1, dtype=torch.complex128)}}}, "'wide' .*complex128"),
        ({"tensors": {"model": {"nowhere": torch.ones(1, device="meta")}}}, "'nowhere' .* on meta"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    checkpoints = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=words):
        checkpoints.save(2, **{"tensors": {}, "state": {}, "ranks": [{}], "samples": "", **values})
    assert names(tmp_path) == ["step-00000001"]
    checkpoints.save(3, {"model": {}}, {}, [{}], "")
    checkpoints.wait()
    assert load(tmp_path).step == 3


@pytest.mark.parametrize("keep", [0, -1, True, 2.5, None])
def test_at_least_one_is_kept(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(CheckpointError, match="at least 1"):
        Checkpoints(tmp_path, keep=keep)


def test_readers_need_no_thread_and_a_saved_one_is_not_hurt_by_the_next(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 1, 1.0, keep=1)
    found: Saved = load(tmp_path)
    checkpoints.save(2, {"model": {"weight": torch.zeros(100)}}, {}, [{}], "")
    checkpoints.wait()
    assert not found.path.exists()
    assert torch.equal(found.tensors["model"]["weight"], torch.ones(100))
    assert not [thread for thread in threading.enumerate() if thread.name == "trainkit-checkpoint"]
