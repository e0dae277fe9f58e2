"""Several ranks' logs as one: of real jobs, of nodes whose clocks differ, while they grow; nothing lost, in order."""

from __future__ import annotations

import re
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit import Workspace
from trainkit.boot.lognotes import LogNotes
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, replace
from trainkit.cli import app
from trainkit.errors import UserErrorException
from trainkit.merged import Line, Merger, attempt_of, first_cause, label, merged, text_of
from trainkit.testing.runs import submit

AT = 1_700_000_000.0


def attempt_with(folder: Path, printed: list[tuple[float, int, str]], nodes: int = 1, ranks: int = 2) -> AttemptDir:
    """An attempt whose ranks printed this at these moments (by their nodes' clocks), as the agents noted it."""
    attempt = RunDir(folder).attempt(1)
    make_private(attempt.logs)
    for node in range(nodes):
        LogNotes(attempt, node, range(node * ranks, (node + 1) * ranks)).close()
    for at, rank, text in printed:
        with attempt.rank_log(rank).open("ab") as log:
            log.write(text.encode())
        with (attempt.logs / f"notes-{rank // ranks}").open("ab") as notes:
            notes.write(struct.pack("<dIIQ", AT + at, rank, 0, attempt.rank_log(rank).stat().st_size))
    return attempt


def shown(attempt: AttemptDir, **options: Any) -> list[str]:
    return [f"{label(line.ranks).decode()}{line.text}" for line in merged(attempt.path.parents[1], **options)]


TEXTS = st.lists(st.sampled_from(["a\n", "b\n", "c", "\n", "x", "é\n", "long " * 50 + "\n"]), min_size=1, max_size=4)
EVENTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), TEXTS), max_size=40)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.booleans())
def test_nothing_is_lost_and_time_and_ranks_keep_their_order(
    events: list[tuple[int, int, list[str]]], folded: bool
) -> None:
    printed = [(at / 10, rank, "".join(texts)) for at, rank, texts in sorted(events, key=lambda e: e[:2])]
    with tempfile.TemporaryDirectory() as folder:
        attempt = attempt_with(Path(folder), printed, nodes=3)
        lines = list(merged(folder, folded=folded))
        follower, followed = Merger(attempt, folded), []
        for blocks in (*follower.new(), *follower.all()):
            followed += blocks
    assert [line.time for line in lines] == sorted(line.time for line in lines)
    for rank in range(6):
        said = "".join(text for _, who, text in printed if who == rank)
        whole = said if said.endswith("\n") or not said else said + "\n"
        assert "".join(line.text + "\n" for line in lines if rank in line.ranks) == whole
        assert b"".join(text for _, ranks, text in followed if rank in ranks).decode() == whole


def test_lines_are_in_the_order_of_time_across_nodes(tmp_path: Path) -> None:
    printed = [(0.0, 0, "first\n"), (5.0, 3, "second\n"), (9.0, 1, "third\n"), (9.1, 2, "third\n")]
    assert shown(attempt_with(tmp_path, printed, nodes=2)) == ["[0] first", "[3] second", "[1-2 x2] third"]


def test_a_clock_that_the_preflight_found_ahead_is_set_right(tmp_path: Path) -> None:
    attempt = attempt_with(tmp_path, [(1.0, 0, "one\n"), (62.0, 2, "two\n"), (3.0, 1, "three\n")], nodes=2)
    facts = [{"time": AT, "between": [AT, AT]}, {"time": AT + 60.2, "between": [AT - 0.1, AT + 0.2]}]
    replace(attempt.preflight, {"nodes": facts})
    lines = list(merged(tmp_path))
    assert [line.text for line in lines] == ["one", "two", "three"]
    assert lines[1].time == pytest.approx(AT + 2.0, abs=0.2)


def test_a_clock_that_was_set_back_loses_nothing(tmp_path: Path) -> None:
    assert shown(attempt_with(tmp_path, [(9.0, 0, "one\n"), (2.0, 0, "two\n")])) == ["[0] one", "[0] two"]


def test_what_nobody_noted_is_there(tmp_path: Path) -> None:
    attempt = attempt_with(tmp_path, [(1.0, 0, "noted\n")])
    with attempt.rank_log(0).open("a") as log:
        log.write("after the agent was killed\nunfinished")
    attempt.rank_log(7).write_text("of a rank that no agent knew\n")
    assert sorted(shown(attempt)) == [
        "[0] after the agent was killed", "[0] noted", "[0] unfinished", "[7] of a rank that no agent knew",
    ]  # fmt: skip


def test_while_it_grows_each_line_comes_once(tmp_path: Path) -> None:
    attempt = attempt_with(tmp_path, [])
    notes, merger, found = LogNotes(attempt, 0, range(2)), Merger(attempt), b""
    for number in range(3):
        for rank in range(2):
            with attempt.rank_log(rank).open("a") as log:
                log.write(f"step {number}\n")
        deadline = time.monotonic() + 20
        while found.count(b"step %d" % number) == 0 and time.monotonic() < deadline:
            notes.step()
            found += b"".join(text_of(blocks) for blocks in merger.new())
            time.sleep(0.01)
    with attempt.rank_log(1).open("a") as log:
        log.write("no end")
    found += b"".join(text_of(blocks) for blocks in merger.all())
    notes.close()
    assert found.decode() == "".join(f"[0-1 x2] step {number}\n" for number in range(3)) + "[1] no end\n"


def test_labels_name_ranks_shortly() -> None:
    assert [label(ranks) for ranks in ((3,), (0, 1), (0, 1, 2, 5, 7, 8))] == [b"[3] ", b"[0-1 x2] ", b"[0-2,5,7-8 x6] "]


def test_an_attempt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserErrorException, match="no attempt of it has begun"):
        next(merged(tmp_path))
    attempt_with(tmp_path, [])
    with pytest.raises(UserErrorException, match="no attempt 3: its attempts are 1 to 1"):
        attempt_of(tmp_path, 3)


SCRIPT = """
import os, time
rank = int(os.environ["RANK"])
def together(name):
    open(f"outputs/{name}-{rank}", "w").close()
    while not all(os.path.exists(f"outputs/{name}-{r}") for r in range(3)):
        time.sleep(0.005)
print("begun", flush=True)
for turn in range(3):
    together(f"before-{turn}")
    if rank == turn:
        print("only", rank, flush=True)
    time.sleep(0.4)
together("end")
print("epoch 1 done", flush=True)
if rank == 1:
    time.sleep(0.5)
    raise ValueError("planted")
time.sleep(60)
"""


def test_of_a_real_job(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = submit(workspace, tmp_path / "source", SCRIPT, ranks=3)
    run.wait_for_completion(raise_on_error=False)
    lines = list(merged(run.directory))
    own = [line for line in lines if line.text.startswith("only")]
    assert [(line.ranks, line.text) for line in own] == [((rank,), f"only {rank}") for rank in range(3)]
    assert own[2].time - own[0].time > 0.4
    assert Line(lines[0].time, (0, 1, 2), "epoch 1 done") in [line._replace(time=lines[0].time) for line in lines]
    rank, words = first_cause(run.directory, attempt_of(run.directory, None))
    assert rank == 1
    assert words[-1] == "ValueError: planted"
    capsys.readouterr()
    assert app.main(["logs", run.id]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("[1] first cause: rank 1 failed with ValueError: planted at ")
    assert len(re.findall(r"^\[0-2 x3\] epoch 1 done$", printed, re.MULTILINE)) == 1
    assert app.main(["logs", run.id, "-f"]) == 1
    assert capsys.readouterr().out.splitlines() == [f"{label(line.ranks).decode()}{line.text}" for line in lines]


ENDLESS = """
import os
if os.environ["RANK"] == "0":
    print("head")
    for number in range(60000):
        print("line", number, "of a rank that prints without end")
    print("tail", flush=True)
"""


def test_a_rank_that_prints_without_end_keeps_head_and_tail(workspace: Workspace, tmp_path: Path) -> None:
    config = workspace.config.path
    config.write_text(config.read_text().replace("{", '{"log_limit_bytes": 100000,', 1))
    limited = Workspace.from_config(str(config))
    run = submit(limited, tmp_path / "source", ENDLESS, ranks=2)
    run.wait_for_completion()
    lines = [line.text for line in merged(run.directory)]
    assert (lines[0], lines[-1]) == ("head", "tail")
    assert sum("MB left out" in line for line in lines) == 1
    assert RunDir(run.directory).attempt(1).rank_log(0).stat().st_blocks * 512 < 1_000_000
