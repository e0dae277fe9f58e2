"""Fits that are killed and asked to end at random instants, for tests and soaks; how they end is compared bit by bit.

One job trains a small network on several ranks with restarts; every attempt is interrupted at a random instant, also
while it starts, evaluates or saves. In the end its weights, optimizer state and metrics must be those of a job that
nobody interrupted, and its account of samples must prove that each was seen exactly once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trainkit import Workspace
from trainkit.boot.attempts import launched
from trainkit.boot.processes import with_environment
from trainkit.loops.verifying import verify
from trainkit.testing import wait_until
from trainkit.testing.runs import submit

SCRIPT = """
import hashlib, json, sys
import torch
from torch import nn
from trainkit.loops import Accuracy, Saving, TorchLoop, WarmupCosine, join

torch.manual_seed(0)
numbers = torch.Generator().manual_seed(1)
inputs = torch.randn(400, 12, generator=numbers)
data = (inputs, (inputs.sum(1) > 0).long())
model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 2))
loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.AdamW(model.parameters(), 0.003),
    train=data, val=data, metrics=[Accuracy()], batch=8, accumulate=2, schedule=WarmupCosine(),
    saving=Saving(every_steps=20), backend={backend!r}, quiet=True,
)
history = loop.fit(epochs={epochs})
state = [p.detach() for p in model.parameters()]
state += [v for each in loop.optimizer.state.values() for v in each.values() if isinstance(v, torch.Tensor)]
text = b"".join(tensor.contiguous().numpy().tobytes() for tensor in state)
if join({backend!r}).rank == 0:
    with open("outputs/end.json", "w") as file:
        json.dump({{"bits": hashlib.sha256(text).hexdigest(), "rows": history.rows}}, file)
"""
_END_SECONDS = 240.0


@dataclass
class Campaign:
    """What became of one interrupted job."""

    kills: int = 0
    terms: int = 0
    attempts: int = 0
    wrong: list[str] = field(default_factory=list)


def whole(workspace: Workspace, folder: Path, ranks: int, epochs: int, spread: str, backend: str) -> dict[str, Any]:
    """What a job that nobody interrupts ends with."""
    run = submit(workspace, folder, SCRIPT.format(epochs=epochs, backend=backend), spread, ranks)
    run.wait_for_completion()
    return _end(run)


def _end(run: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.directory / "outputs" / "end.json").read_text())
    metrics = run.get_metrics()
    found["recorded"] = {name: metrics[name] for name in ("train_loss", "val_loss", "val_accuracy")}
    return found


def interrupt(
    workspace: Workspace, folder: Path, expected: dict[str, Any], chance: random.Random, kills: int, terms: int,
    ranks: int = 2, epochs: int = 60, spread: str = "fork", backend: str = "gloo", span_seconds: float = 6.0,
) -> Campaign:  # fmt: skip
    """Submit the job and interrupt it up to so many times; it may end before all of them were made."""
    run = submit(
        workspace, folder, SCRIPT.format(epochs=epochs, backend=backend), spread, ranks, max_restarts=kills + terms + 9
    )
    done = Campaign()
    todo = ["kill"] * kills + ["term"] * terms
    chance.shuffle(todo)
    for kind in todo:
        attempt = _newest(run)
        if not _interrupted(run, kind, attempt, chance, ranks, span_seconds):
            break
        done.kills += kind == "kill"
        done.terms += kind == "term"
        wait_until(partial(_after, run, attempt), _END_SECONDS, "the next attempt")
    status = wait_until(lambda: _final(run), _END_SECONDS, "the end of the run")
    done.attempts = len(launched(run._dir))
    done.wrong = _wrong(run, status, expected)
    return done


def _after(run: Any, attempt: int) -> bool:
    """Whether an attempt is over: another one has begun, or the run has ended."""
    return _newest(run) > attempt or bool(_final(run))


def _newest(run: Any) -> int:
    """The number of the newest attempt that was launched; 1 before there is one."""
    return max((one.number for one in launched(run._dir)), default=1)


def _final(run: Any) -> str:
    status: str = run.get_status()
    return status if status in ("Completed", "Failed", "Canceled") else ""


def _interrupted(run: Any, kind: str, attempt: int, chance: random.Random, ranks: int, span: float) -> bool:
    """Hurt one rank of this attempt at a random instant; False where the run is over."""
    until = time.monotonic() + _END_SECONDS
    while len(found := scripts(run.id, attempt, ranks)) < ranks:
        if _final(run):
            return False
        if time.monotonic() > until:
            raise TimeoutError(f"attempt {attempt} never had {ranks} ranks")
        time.sleep(0.02)
    time.sleep(chance.uniform(0, span))
    victim = found[chance.randrange(ranks)]
    try:
        os.kill(victim, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def scripts(run_id: str, attempt: int, ranks: int) -> dict[int, int]:
    """The pids of an attempt's scripts by rank, plainly started: of a rank's processes, the one another started."""
    attempts = set(with_environment("TRAINKIT_RUN_ID", run_id)) & set(
        with_environment("TRAINKIT_ATTEMPT", str(attempt))
    )
    found = {rank: attempts & set(with_environment("RANK", str(rank))) for rank in range(ranks)}
    return {rank: max(pids) for rank, pids in found.items() if len(pids) > 1}


def _wrong(run: Any, status: str, expected: dict[str, Any]) -> list[str]:
    """What differs from the uninterrupted job."""
    if status != "Completed":
        return [f"the run ended as {status}: {(run.get_details().get('error') or {})}"]
    end = _end(run)
    wrong = [f"{name} differ" for name in ("bits", "rows", "recorded") if end[name] != expected[name]]
    return wrong + list(verify(run.directory).problems)
