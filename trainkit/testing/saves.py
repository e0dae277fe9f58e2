"""Kills processes while they write checkpoints, at random instants, and judges what is left; for tests and the soak.

    python -m trainkit.testing.saves FOLDER --kills 200 --seed 0

This process imports torch once and forks a child for each kill, so that a kill costs a fraction of a second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainkit.errors import CheckpointError
from trainkit.loops.checkpoints import Checkpoints, Saved, load

_KEEP = 2
_LONGEST_SECONDS = 0.25  # some 20 checkpoints are written in that time


def values_of(step: int) -> dict[str, dict[str, Tensor]]:
    """What the checkpoint of a step holds: no two are alike, and each is alike all through."""
    weights = torch.full((200_000,), float(step)) + torch.arange(200_000) % 7
    return {"model": {"weight": weights, "steps": torch.tensor(step)}, "optimizer": {"0.momentum_buffer": weights + 1}}


def save_for_ever(folder: Path, step: int, saved: int) -> None:
    """Save step after step, each twice; the number of each that is on the disk is written to the descriptor `saved`."""
    checkpoints = Checkpoints(folder, keep=_KEEP)
    while True:
        step += 1
        for _ in range(2):  # as after a resume: the second one takes the place of the first
            checkpoints.save(step, values_of(step), {"step": step}, [{"rank": 0}], str(step))
            checkpoints.wait()
            os.write(saved, step.to_bytes(8, "little"))


def wrong(found: Saved, at_least: int) -> str:
    """What is not as it has to be with the newest checkpoint; empty where all is right."""
    if found.step < at_least:
        return f"step {at_least} was on the disk, and {found.step} is the newest that is left"
    wanted = values_of(found.step)
    same = all(torch.equal(found.tensors[g][n], value) for g, named in wanted.items() for n, value in named.items())
    return "" if same and found.state == {"step": found.step} else f"the checkpoint of step {found.step} holds others"


def kill_once(folder: Path, begin: int, seconds: float) -> tuple[int, str]:
    """Kill a child that saves from step `begin` + 1 on, after so many seconds; the newest step, and what is wrong."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            save_for_ever(folder, begin, writing)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    last = int.from_bytes(told[-8:], "little") if told else begin
    if not os.WIFSIGNALED(status):
        return last, f"the writer ended by itself, with {os.WEXITSTATUS(status)}"
    if last == 0:
        return 0, ""
    try:
        found = load(folder)
    except CheckpointError as error:
        return last, error.message
    return found.step, wrong(found, last)


def kill_often(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill `kills` writers of one folder, one after the other; how far they got, and everything that was wrong."""
    draws, step, faults, half_made = random.Random(seed), 0, [], 0
    for number in range(kills):
        step, fault = kill_once(folder, step, draws.uniform(0, _LONGEST_SECONDS))
        half_made += any(path.name.startswith(".") for path in folder.glob(".*"))
        if fault:
            faults.append(f"kill {number}: {fault}")
    return {"kills": kills, "saved": step, "while_writing": half_made, "wrong": faults}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: prints one JSON object; exit code 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # a fork and the threads of torch's own pool do not go together
    result = kill_often(options.folder, options.kills, options.seed)
    print(json.dumps(result))
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
