"""TorchLoop on a GPU: precisions, the bits of a resumed fit, and steps that never wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.loops.small import loop, same, weights
from trainkit.loops import Callback, Saving, Tensors


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    torch.cuda.set_sync_debug_mode("default")


class Broken(Exception):
    """What the test interrupts with."""


class Break(Callback):
    """Raises after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, training: Any) -> None:
        if training.step == self.step:
            raise Broken


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_resumed_fit_has_the_bits_of_a_whole_one(tmp_path: Path, precision: str) -> None:
    if precision == "bf16" and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    settings: dict[str, Any] = {"device": "cuda", "precision": precision, "dropout": 0.3, "record": False}
    whole = loop(callbacks=[Break(-1)], saving=None, **settings)
    rows = whole.fit(epochs=3).rows
    saving = Saving(every_steps=4, folder=tmp_path / "kept")
    with pytest.raises(Broken):
        loop(callbacks=[Break(10)], saving=saving, **settings).fit(epochs=3)
    again = loop(callbacks=[Break(-1)], saving=saving, **settings)
    history = again.fit(epochs=3)
    assert same(weights(again), weights(whole))
    assert history.rows == rows
    assert all(p.is_cuda for p in again.model.parameters())


class Strict(Callback):
    """From the second step to the last but one, whatever waits for the device is an error."""

    def on_step(self, training: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if 2 <= training.step < training.steps - 1 else "default")


def test_a_step_does_not_wait_for_the_device() -> None:
    data = Tensors(torch.randn(512, 6), torch.randint(2, (512,)))
    one = loop(train=data, val=None, batch=16, device="cuda", record=False, saving=None, callbacks=[Strict()])
    one.fit(epochs=1)


def test_the_timer_knows_the_parts_of_a_step_on_the_device() -> None:
    data = Tensors(torch.randn(2048, 6), torch.randint(2, (2048,)))
    one = loop(train=data, val=None, batch=16, device="cuda", record=False, saving=None)
    assert one.fit(epochs=1).advice.startswith("A step took ")


def test_evaluation_on_the_device_is_that_on_the_cpu() -> None:
    found = [loop(device=device, record=False).evaluate() for device in ("cuda", "cpu")]
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], abs=1e-6)
