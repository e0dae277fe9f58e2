"""A rank that holds the others up, in real jobs: found, told with all stacks, and ended where that was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from trainkit import Workspace
from trainkit.boot.rundir import RunDir, read_json, read_lines
from trainkit.errors import TrainkitError
from trainkit.notes import notes_of
from trainkit.outcome import stages_of
from trainkit.testing import runs, wait_until

HANGING = """
import os, time
import torch
from torch import nn
from trainkit.loops import Callback, TorchLoop

class Stop(Callback):
    def on_step(self, training):
        time.sleep(0.02)
        if os.environ["RANK"] == "1" and training.at.step == 25 and not os.path.exists("../stopped"):
            open("../stopped", "w").close()
            while not os.path.exists("../mended"):
                time.sleep(0.1)  # here

torch.manual_seed(0)
model = nn.Linear(4, 2)
loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
    train=(torch.randn(160, 4), torch.zeros(160).long()), batch=4, callbacks=[Stop()], device="cpu", quiet=True,
)
loop.fit(epochs=1)
"""
PLAIN = """
import os, time
from trainkit import Run

run = Run.get_context()

def meet(place):
    with run.waiting():
        open("../%s-%d" % (place, run.rank), "w").close()
        while not all(os.path.exists("../%s-%d" % (place, rank)) for rank in range(run.world_size)):
            time.sleep(0.05)

run.phase("read")
meet("read")
run.phase("tokenise")
while run.rank == 1 and not os.path.exists("../mended"):
    time.sleep(0.1)  # here
meet("tokenised")
"""
JOBS: dict[str, tuple[str, dict[str, Any]]] = {  # they run side by side, for each of them mostly waits
    "reported": (HANGING, {"hang": "report"}),
    "ended": (HANGING, {"hang": "end"}),
    "restarted": (HANGING, {"hang": "end", "max_restarts": 1}),
    "plain": (PLAIN, {}),
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A run of each of JOBS, on two ranks."""
    folder = tmp_path_factory.mktemp("hangs")
    workspace = Workspace.create("hangs", path=str(folder))
    started: dict[str, Any] = {}
    try:
        for name, (script, values) in JOBS.items():
            started[name] = runs.submit(workspace, folder / "source" / name, script, ranks=2, **values)
        yield started
    finally:
        for run in started.values():
            with suppress(TrainkitError):  # it has ended
                run.cancel()


def hang_of(run: Any, script: str, where: str, seconds: float = 90.0) -> dict[str, Any]:
    """The one record of attempt 1, which names rank 1 and has where each rank is."""
    attempt = RunDir(run.directory).attempt(1)
    found = wait_until(lambda: list(read_lines(attempt.hangs)), seconds, "the hang's record")
    assert [line["ranks"] for line in found] == [[1]] and found[0]["held_up"] == [0]
    here = next(number for number, text in enumerate(script.splitlines(), 1) if "# here" in text)
    assert f"line {here} in {where}" in found[0]["stacks"]["1"], found[0]["stacks"]
    assert set(found[0]["stacks"]) == {"0", "1"} and "train.py" in found[0]["stacks"]["0"]
    assert notes_of(RunDir(run.directory)) == [found[0]["words"]]
    return dict(found[0])


def ended(run: Any) -> dict[str, Any]:
    """The run's last state."""
    run.wait_for_completion(raise_on_error=False)
    return dict(read_json(RunDir(run.directory).state) or {})


def test_a_rank_that_holds_the_others_up_is_named_and_the_job_goes_on(jobs: dict[str, Any]) -> None:
    run = jobs["reported"]
    found = hang_of(run, HANGING, "on_step")
    assert "after step 25; it was updating the weights or in a callback. Rank 0 waits for it." in found["words"]
    (Path(run.directory) / "mended").touch()
    assert ended(run)["status"] == "Completed"
    assert len(list(read_lines(RunDir(run.directory).attempt(1).hangs))) == 1


def test_a_rank_that_holds_the_others_up_ends_the_job_where_that_was_asked_for(jobs: dict[str, Any]) -> None:
    found, state = hang_of(jobs["ended"], HANGING, "on_step"), ended(jobs["ended"])
    assert (state["status"], state["verdict"]["kind"]) == ("Failed", "hang")
    assert state["verdict"]["summary"] == found["words"] and json.dumps(state).count("has not moved") == 1


def test_a_job_that_hung_is_started_again(jobs: dict[str, Any]) -> None:
    run = RunDir(jobs["restarted"].directory)
    found, state = hang_of(jobs["restarted"], HANGING, "on_step"), ended(jobs["restarted"])
    assert (state["status"], state["attempt"], state["verdict"]) == ("Completed", 2, None)
    told = [stage["details"] for stage in stages_of(run)]
    why = "restart 1 of 1: " + found["words"].rstrip(".")
    assert len([words for words in told if words.startswith(why)]) == 1, told
    assert len(run.attempts()) == 2 and not list(read_lines(run.attempt(2).hangs))
    assert notes_of(run) == [found["words"]]


def test_a_rank_of_a_plain_script_that_declares_its_phases_is_named(jobs: dict[str, Any]) -> None:
    """A phase of a script's own has a minute."""
    run = jobs["plain"]
    found = hang_of(run, PLAIN, "<module>", 150)
    assert found["words"].startswith("Rank 1 has not moved for 6"), found["words"]
    assert found["words"].endswith(' s; it was in "tokenise". Rank 0 waits for it.')
    assert "in meet" in found["stacks"]["0"]
    (Path(run.directory) / "mended").touch()
    assert ended(run)["status"] == "Completed"
