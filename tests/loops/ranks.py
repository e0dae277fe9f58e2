"""What every rank of a test's world computes, over each backend in turn: one launch carries all of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.loops.small import Noisy, loop, weights
from trainkit.loops import Callback, Preempted, Saving, TorchLoop
from trainkit.loops.digest import digest

STEPS = 50


def bits(tensors: list[Tensor]) -> str:
    """A text that is the same for the same bits."""
    return digest_of(torch.cat([t.detach().double().flatten() for t in tensors]))


def digest_of(values: Tensor) -> str:
    """The same for one tensor of float64."""
    return f"{digest(values.view(torch.int64).numpy(), 0):032x}:{values.sum().item()!r}"


def numbers(one: TorchLoop) -> list[float]:
    """The model's parameters as plain numbers."""
    return torch.cat([p.detach().double().flatten() for p in one.model.parameters()]).tolist()


class Ask(Callback):
    """Sends SIGTERM to one rank, as a scheduler might, after a step."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_step(self, training: Any) -> None:
        if training.step == self.step and training.world.rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


def learned(backend: str) -> dict[str, Any]:
    """Weights after the same steps in both precisions, with and without accumulation, and the metrics on the way."""
    found: dict[str, Any] = {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        for accumulate in (1, 3):
            one = loop(dtype=dtype, backend=backend, accumulate=accumulate, record=False, training_metrics=True)
            rows = one.fit(steps=STEPS).rows
            found[f"{name} x {accumulate}"] = {"weights": numbers(one), "rows": rows, "bits": bits(weights(one))}
    one = loop(dtype=torch.float64, backend=backend, record=False)
    found["evaluated"], found["predicted"] = one.evaluate(), one.predict(Noisy(23, torch.float64)).flatten().tolist()
    return found


def normalised(backend: str) -> list[float]:
    """Weights and statistics of a network with batch normalisation over all ranks; the last batches are uneven."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()
    one = TorchLoop(
        model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1, 0.9),
        train=Noisy(53, torch.float64), batch=10, sync_batch_norm=True, backend=backend, record=False, quiet=True,
    )  # fmt: skip
    one.fit(epochs=3)
    state = one.model.state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)]).tolist()


def interrupted(backend: str, folder: Path, rank: int) -> dict[str, Any]:
    """A fit that one rank is asked to end, taken up again: the bits it ends with, beside those of a whole one."""
    whole = loop(dropout=0.2, backend=backend, record=False, saving=None, accumulate=2, callbacks=[Ask(-1, 0)])
    rows = whole.fit(epochs=3).rows
    saving = Saving(every_steps=4, folder=folder / backend)
    settings: dict[str, Any] = {"backend": backend, "dropout": 0.2, "record": False, "saving": saving, "accumulate": 2}
    stopped = []
    for step in (3, 10, 14):
        try:
            loop(callbacks=[Ask(step, rank)], **settings).fit(epochs=3)
        except Preempted as end:
            stopped.append(end.message.split(";")[0])
    last = loop(callbacks=[Ask(-1, 0)], **settings)
    history = last.fit(epochs=3)
    return {"stopped": stopped, "same": bits(weights(last)) == bits(weights(whole)), "rows": history.rows == rows}


def begun(backend: str, folder: Path) -> None:
    """A fit in float64 that ends in the middle of its second epoch, for worlds of other sizes to go on with."""
    saving = Saving(folder=folder)
    try:
        loop(dtype=torch.float64, backend=backend, record=False, saving=saving, callbacks=[Ask(9, 0)]).fit(epochs=4)
    except Preempted:
        return
    raise AssertionError("it was not asked to end")


def gone_on(backend: str, folder: Path) -> dict[str, Any]:
    """What became of it here."""
    one = loop(dtype=torch.float64, backend=backend, record=False, saving=Saving(folder=folder), callbacks=[Ask(-1, 0)])
    rows = one.fit(epochs=4).rows
    return {"weights": numbers(one), "rows": rows}
