"""FastaiLoop on several ranks: what one process learns and measures, each sample once, resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.loops import worlds
from tests.loops.learners import learner
from trainkit.boot.rundir import RunDir, read_lines
from trainkit.loops import FastaiLoop
from trainkit.loops.digest import expected
from trainkit.loops.fastailoop import FineTune
from trainkit.loops.order import Order

pytest.importorskip("fastai")
ROOT = Path(__file__).parents[2]
COUNT = 40  # 33 to train with: with batches of 8 the last has one sample, and some ranks have none of it
SCRIPT = """
import os, signal, shutil, sys
from pathlib import Path
from fastai.callback.core import Callback
from tests.loops.learners import bits, learner
from trainkit.loops import FastaiLoop, Preempted, Saving
from trainkit.loops.fastailoop import FineTune

class Asked(Callback):
    def __init__(self, rank, event, times, signal=signal.SIGTERM):
        super().__init__()
        self.rank, self.left, self.signal = rank, [times], signal
        setattr(self, event, self.count)
    def count(self):
        self.left[0] -= 1
        if self.left[0] == 0 and RANK == self.rank:
            os.kill(os.getpid(), self.signal)

def loop(plain=False, count=40, folder=None, **values):
    saving = None if folder is None else Saving(every_steps=2, folder=folder)
    values = {"record": False, "quiet": True, "plan": FineTune(2), **values}
    return FastaiLoop(learner(plain, count), saving=saving, **values)
"""


def _ended(loop: FastaiLoop) -> dict[str, Any]:
    rows = loop.fit().rows
    weights = [p.detach().flatten().tolist() for p in loop.learner.model.parameters()]
    values, _, losses = loop.predictions()
    return {"rows": rows, "weights": weights, "values": values.tolist(), "losses": losses.tolist()}


ENDED = """
one = loop(plain=True)
history = one.fit()
values, targets, losses = one.predictions()
report(rows=history.rows, weights=[p.detach().flatten().tolist() for p in one.learner.model.parameters()],
       values=values.tolist(), losses=losses.tolist(), backend=one.world.collective.name)
"""

RESUMED = """
whole = loop(count=45, sync_batch_norm=SYNC)
rows = whole.fit().rows
report(whole=[bits(whole.learner), rows])
asked = [(0, "after_batch", 3), (SIZE - 1, "after_step", 7), (1, "after_batch", 8)]
for number, (rank, event, times) in enumerate(asked):
    folder = Path(f"checkpoints{number}")
    try:
        loop(count=45, folder=folder, callbacks=[Asked(rank, event, times)], sync_batch_norm=SYNC).fit()
        report(**{f"resumed{number}": "was not asked"})
    except Preempted as left:
        again = loop(count=45, folder=folder, sync_batch_norm=SYNC)
        rows = again.fit().rows
        report(**{f"resumed{number}": [bits(again.learner), rows]})
"""

KILLED = """
loop(plain=True, folder=Path(FOLDER), callbacks=[Asked(1, "after_step", 9, signal.SIGKILL)], record=True).fit()
"""

TAKEN_UP = """
one = loop(plain=True, folder=Path(FOLDER), record=True)
report(rows=one.fit().rows, weights=[p.detach().flatten().tolist() for p in one.learner.model.parameters()])
"""


def _run(folder: Path, script: str, size: int, by: str) -> worlds.Outcome:
    return worlds.run(folder, SCRIPT + script, size, by, {"PYTHONPATH": str(ROOT)}, seconds=300)


def _near(ours: Any, theirs: Any, by: float) -> bool:
    return all(
        abs(a - b) <= by for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)
    )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fit of one process, to compare with."""
    return _ended(FastaiLoop(learner(True, COUNT), saving=None, record=False, quiet=True, plan=FineTune(2)))


def _compare(found: dict[str, Any], one: dict[str, Any]) -> None:
    assert _near(found["weights"], one["weights"], 1e-5)
    for ours, theirs in zip(found["rows"], one["rows"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, by in (("error_rate", 1e-6), ("f1_score", 1e-6), ("valid_loss", 1e-5), ("train_loss", 1e-5)):
            assert abs(ours[name] - theirs[name]) <= by, name


@pytest.mark.engine
@pytest.mark.parametrize(("by", "size", "sync"), [("mpirun", 4, False), ("torchrun", 3, True)])
def test_several_ranks_learn_and_measure_as_one_and_resume_to_the_bit(
    tmp_path: Path, one_process: dict[str, Any], by: str, size: int, sync: bool
) -> None:
    script = f"SIZE, SYNC = {size}, {sync}\n" + ENDED + RESUMED
    found = _run(tmp_path, script, size, by)
    assert found.same("backend") == ("mpi" if by == "mpirun" else "gloo")
    same = {name: found.same(name) for name in ("rows", "weights", "values", "losses")}
    _compare(same, one_process)
    assert _near(same["values"], one_process["values"], 1e-5)
    assert _near([same["losses"]], [one_process["losses"]], 1e-5)
    for number in range(3):
        assert found.each(f"resumed{number}") == found.each("whole")


@pytest.mark.engine
def test_killed_and_taken_up_by_another_number_of_ranks_every_sample_is_still_seen_once(
    tmp_path: Path, one_process: dict[str, Any]
) -> None:
    folder = tmp_path / "checkpoints"
    head = f"FOLDER = {str(folder)!r}\n"
    killed = worlds.start(tmp_path / "two", SCRIPT + head + KILLED, 2, "torchrun", {"PYTHONPATH": str(ROOT)})
    assert killed.wait(300).code != 0
    found = _run(tmp_path / "four", head + TAKEN_UP, 4, "torchrun")
    _compare({"rows": found.same("rows"), "weights": found.same("weights")}, one_process)
    (run,) = {file.parent for file in (tmp_path / "four" / ".trainkit" / "runs").glob("*/*/run.json")}
    count = COUNT * 5 // 6
    accounts = {row["epoch"]: row for row in read_lines(RunDir(run).samples)}
    parts = accounts[1]["parts"]
    assert [part["start"] for part in parts] == [0, *(part["stop"] for part in parts[:-1])]
    assert parts[-1]["stop"] == count and {part["world_size"] for part in parts} == {2, 4}
    for part in parts:
        assert part["digest"] == f"{expected(Order(count, 8, 0), 1, part['start'], part['stop']):032x}"
