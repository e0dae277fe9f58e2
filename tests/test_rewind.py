"""Metrics of a stretch that is done again are void, for every reader; nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit import Experiment, Workspace, events
from trainkit.boot.context import RunContext
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import RunDir
from trainkit.cli.app import main
from trainkit.errors import UserErrorException


def rank(run: Path, attempt: int, number: int = 0) -> RunContext:
    """A rank of this attempt, as its process sees the run."""
    return RunContext(run, f"rank-{number}", attempt, Rank(number, 2))


def test_what_came_after_the_mark_is_void_once_it_is_done_again(tmp_path: Path) -> None:
    first = rank(tmp_path, 1)
    for step in (1, 2):
        first.log("loss", step, step=step)
    marks = first.mark()
    first.log("loss", 30, step=3)
    first.log_row("table", x=1)
    first.tag("stage", "three")
    assert events.metrics(tmp_path)["loss"] == [1, 2, 30]
    second = rank(tmp_path, 2)
    second.rewind(marks)
    assert events.metrics(tmp_path) == {"loss": [1, 2]}
    second.log("loss", 3, step=3)
    second.log_row("table", x=1)
    assert events.metrics(tmp_path) == {"loss": [1, 2, 3], "table": {"x": 1}}
    assert [point.step for point in events.points(tmp_path, "loss")] == [1, 2, 3]
    assert events.tags(tmp_path) == {"stage": "three"}


def test_what_is_void_may_be_only_earlier_or_only_this_attempts(tmp_path: Path) -> None:
    """A script of two fits: the first is complete, the second has no checkpoint yet; the script repeats its own."""
    first = rank(tmp_path, 1)
    first.log("rate", 0.1)
    first.log("loss", 1)
    marks = first.mark()
    first.log("between", 5)
    first.log("loss", 20)
    second = rank(tmp_path, 2)
    second.log("rate", 0.1)
    second.rewind(marks, void="own")
    second.log("between", 5)
    second.rewind(marks, void="earlier")
    second.log("loss", 2)
    assert events.metrics(tmp_path) == {"rate": 0.1, "loss": [1, 2], "between": 5}
    with pytest.raises(UserErrorException, match="'both', 'earlier' or 'own', not 'all'"):
        second.rewind(marks, void="all")


def test_without_a_rewind_the_metrics_of_all_attempts_stay(tmp_path: Path) -> None:
    rank(tmp_path, 1).log("loss", 1)
    rank(tmp_path, 2).log("loss", 2)
    assert events.metrics(tmp_path) == {"loss": [1, 2]}


def test_rank_0_rewinds_for_all_and_what_the_others_have_logged_since_stays(tmp_path: Path) -> None:
    ranks = [rank(tmp_path, 1, number) for number in (0, 1)]
    for one in ranks:
        one.log("loss", 1)
    marks = {**ranks[0].mark(), **ranks[1].mark()}
    for one in ranks:
        one.log("loss", 2)
    again = [rank(tmp_path, 2, number) for number in (0, 1)]
    again[1].log("loss", 1)  # what the script records before its loop begins, again
    again[0].rewind(marks)
    again[1].log("loss", 20)
    found: dict[Any, Any] = events.metrics(tmp_path, "all")
    assert found == {0: {"loss": 1}, 1: {"loss": [1, 20]}}
    with pytest.raises(UserErrorException, match="let rank 0 do it"):
        again[1].rewind(marks)


def test_a_rank_rewinds_its_own_record(tmp_path: Path) -> None:
    one = rank(tmp_path, 1, 3)
    marks = one.mark()
    assert marks == {"rank-3": 0}
    one.log("x", 1)
    rank(tmp_path, 2, 3).rewind(marks)
    assert events.metrics(tmp_path, 3) == {}


def test_in_one_attempt_the_order_of_writing_decides(tmp_path: Path) -> None:
    one, other = rank(tmp_path, 1), rank(tmp_path, 1, 1)
    one.log("x", 1)
    marks = {**one.mark(), **other.mark()}
    one.log("x", 2)
    other.log("x", 2)
    one.rewind(marks)
    one.log("x", 3)
    other.log("x", 3)
    found: dict[Any, Any] = events.metrics(tmp_path, "all")
    assert found == {0: {"x": [1, 3]}, 1: {"x": 3}}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.booleans())
@settings(max_examples=25)
def test_any_number_of_kills_leaves_what_one_uninterrupted_run_records(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], torn: bool
) -> None:
    """Each attempt goes on from the last checkpoint (a save every other step), or from the one before that."""
    run = tmp_path_factory.mktemp("run")
    saved: list[tuple[int, dict[str, int]]] = [(0, {"rank-0": 0})]
    for attempt, extra in enumerate([*kills, None], 1):
        if len(saved) > 1 and attempt % 3 == 0:
            saved.pop()  # the newest checkpoint was corrupt
        step, marks = saved[-1]
        one = rank(run, attempt)
        if attempt > 1:
            one.rewind(marks)
        stop = 8 if extra is None else min(8, step + extra)
        while step < stop:
            step += 1
            one.log("step", step)
            if step % 2 == 0:
                saved.append((step, one.mark()))
        if torn and extra:  # something was written
            with open(RunDir(run).events_of("rank-0"), "ab") as file:
                file.write(b'{"t": 1.0, "k": "metric", "n": "st')
    assert events.metrics(run) == {"step": [1, 2, 3, 4, 5, 6, 7, 8]}


def test_marks_that_are_none_are_refused_and_damaged_rewinds_change_nothing(tmp_path: Path) -> None:
    one = rank(tmp_path, 1)
    one.log("x", 1)
    for bad in (None, 5, {"rank-0": -1}, {"rank-0": "0"}, {"rank-0": True}, {3: 4}):
        with pytest.raises(UserErrorException, match="rewind takes the marks"):
            one.rewind(bad)  # type: ignore[arg-type]
    path = RunDir(tmp_path).events_of("rank-0")
    values: tuple[Any, ...] = (None, [], {"rank-0": "0"}, {"rank-0": None}, {"rank-1": 0})
    for value in values:
        path.open("a").write(json.dumps({"k": "rewind", "n": "", "a": "?", "v": value}) + "\n")
    path.open("a").write('{"k": "rewind", "n": ')
    assert events.metrics(tmp_path) == {"x": 1}


OFFLINE = """
import sys
from trainkit import Run
run = Run.get_context()
run.log("loss", 1)
marks = run.mark()
run.log("loss", 2)
run.rewind(marks)
run.log("loss", 3)
print(run.directory)
"""


def test_the_command_and_the_list_of_runs_honour_it_also_in_a_run_started_by_hand(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=True)
    run = Path(done.stdout.split()[-1])
    assert workspace.get_run(run.name).get_metrics() == {"loss": [1, 3]}
    assert main(["metrics", run.name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == [1, 3]
    with Experiment(workspace, "own").start_logging(snapshot_directory=None) as own:
        marks = own.mark()
        own.log("loss", 5)
        own.rewind(marks)
    assert main(["runs", "--json", "--metric", "loss"]) == 0
    rows = {row["id"]: row["metrics"]["loss"] for row in json.loads(capsys.readouterr().out)}
    assert rows == {run.name: 3, own.id: None}


KILLED = """
import sys
from trainkit.boot.context import RunContext
from trainkit.boot.ranks import Rank
run = RunContext(sys.argv[1], "rank-0", 1, Rank())
run.log("n", -1)
print(run.mark()["rank-0"], flush=True)
for n in range(10**9):
    run.log("n", n)
"""


def test_a_killed_writer_is_rewound_to_its_mark(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    mark = int(child.stdout.readline())
    path, deadline = RunDir(tmp_path).events_of("rank-0"), time.monotonic() + 30
    while path.stat().st_size < mark + 10_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    second = rank(tmp_path, 2)
    second.rewind({"rank-0": mark})
    second.log("n", 0)
    assert events.metrics(tmp_path) == {"n": [-1, 0]}
