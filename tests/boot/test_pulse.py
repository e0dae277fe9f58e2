"""Pages that ranks write and agents read: between real processes, whatever those are in the middle of."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot import pulse
from trainkit.boot.hangs import ASK, STACKS, Hangs
from trainkit.boot.pulse import DUMP_SIGNAL, Page, Pulse, Reader
from trainkit.boot.rundir import RunDir, make_private, read_lines
from trainkit.job import Job

# What a shim and its script are to the agent: a process that makes the page, and a child of it that writes.
SHIM = """
import os, signal, sys, threading, time
from trainkit.boot import pulse
page = pulse.Page.make(int(sys.argv[1]))
child = os.fork()
if child:
    os.waitpid(child, 0)
    sys.exit(0)
pulse.adopt(page)
page = pulse.current()
"""
HERE = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


@contextlib.contextmanager
def rank(number: int, script: str) -> Iterator[tuple[Reader, subprocess.Popen[bytes]]]:
    """A rank that runs this script, once it has said that it is ready."""
    words = [sys.executable, "-c", SHIM + textwrap.dedent(script), str(number)]
    process = subprocess.Popen(words, cwd=HERE, stdin=subprocess.PIPE, start_new_session=True)
    try:
        reader = until(lambda: Reader.of(process.pid))
        try:
            until(lambda: reader.read().phase != pulse.STARTING)
            yield reader, process
        finally:
            reader.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def test_a_step_is_timed_without_what_is_no_part_of_it() -> None:
    page = pulse.Page()
    page.fit(0)
    for step in range(1, 6):
        page.phase(pulse.COMPUTING)
        with page.during(pulse.SAVING):  # in each
            time.sleep(0.2)
        page.step(step)
        page.phase(pulse.RESTING)
        time.sleep(0.2)
        page.phase(pulse.DATA)
    cells = page._cells
    assert cells[pulse._TIMED] == 4
    assert 0 <= cells[pulse._FIRST] < 100_000_000 and 0 <= cells[pulse._TOOK] < 100_000_000


def test_what_a_rank_says_is_read_by_another_process() -> None:
    script = """
        page.fit(100)
        page.step(101); page.step(102)
        page.phase(pulse.EVALUATING)
        time.sleep(0.5)
        page.phase(pulse.DATA); page.step(103)
        with page.during(pulse.SAVING): time.sleep(0.5)
        page.step(104); page.step(105)
        page.phase(pulse.COMPUTING)
        page.wait()
        time.sleep(300)
    """
    with rank(3, script) as (reader, process):
        until(lambda: reader.read().phase == pulse.WAITING)
        said = reader.read()
        assert said[:6] == (3, pulse.WAITING, 105, 5, 1, 0)
        assert said.timed == 4 and 0 < said.took < 0.5 and said.first > 0  # what is no part of a step is not counted
        assert said.words == "waiting for the other ranks" and said.state in "SR"
        assert reader.script != process.pid  # the script's own, which has the stacks


def test_phases_of_a_scripts_own() -> None:
    with rank(0, "page.declare('preparing \u00fcber ' + 'x' * 100); time.sleep(300)") as (reader, _):
        said = until(lambda: (lambda p: p if p.phase == pulse.OWN else None)(reader.read()))
        assert said.name.startswith("preparing \u00fcber xxx") and len(said.name.encode()) <= 64


def test_what_was_before_a_wait_is_again_after_it() -> None:
    page = Page()
    page.phase(pulse.EVALUATING)
    seen = []
    with page.waiting():
        seen.append(page._cells[0])
        other = threading.Thread(target=lambda: page.waiting().__enter__())
        other.start()
        other.join()
        with page.waiting():
            pass
        seen.append(page._cells[0])
    seen.append(page._cells[0])
    assert seen == [pulse.WAITING, pulse.WAITING, pulse.EVALUATING] and page._cells[3] == 2


def test_no_page_where_there_is_none() -> None:
    assert Reader.of(os.getpid()) is None and Reader.of(2**22 - 1) is None


def test_a_page_in_the_making_leaves_nothing_open() -> None:
    descriptor = os.memfd_create("trainkit-pulse")
    with pytest.raises(ValueError):
        Reader(os.getpid(), descriptor)
    with pytest.raises(OSError):
        os.fstat(descriptor)


def stacks(reader: Reader) -> str:
    reader.ask()
    return str(until(reader.answer))


def test_the_stacks_of_all_threads_of_a_rank_that_cannot_run_python() -> None:
    """A lock that never comes, in another thread; a long computation that holds the interpreter, in the first."""
    script = """
        def deadlocked(): threading.Lock().__enter__(); lock = threading.Lock(); lock.acquire(); lock.acquire()
        threading.Thread(target=deadlocked, daemon=True).start()
        page.phase(pulse.COMPUTING)
        def endless(): return sum(1 for _ in iter(int, 1))
        endless()
    """
    with rank(0, script) as (reader, _):
        text = until(lambda: (lambda t: t if "endless" in t and "deadlocked" in t else "")(stacks(reader)))
        assert 'File "<string>"' in text
        reader.ask()
        assert until(lambda: "endless" in reader.answer())  # again, and nothing of the first time


def test_a_rank_that_has_the_signal_for_itself_is_not_ended_by_it() -> None:
    with rank(0, "signal.signal(pulse.DUMP_SIGNAL, signal.SIG_DFL); page.tick(); page.phase(1); time.sleep(300)") as (
        reader,
        _,
    ):
        reader.ask()
        assert reader.read().state == "S" and reader.answer() == ""


def test_a_rank_that_is_stopped_or_has_ended() -> None:
    with rank(0, "page.phase(1); time.sleep(300)") as (reader, process):
        os.kill(reader.script, signal.SIGSTOP)
        assert until(lambda: reader.read().state == "T")
        reader.ask()
        assert reader.answer() == ""
        os.kill(reader.script, signal.SIGKILL)
        assert until(lambda: reader.read().state in "ZX")
        process.wait()
        assert reader.read().state == "X"


def test_the_signal_is_one_that_nobody_else_uses() -> None:
    assert DUMP_SIGNAL > signal.SIGRTMIN and signal.getsignal(DUMP_SIGNAL) == signal.SIG_DFL


# Two nodes' watches, with messages by hand.

HEALTHY = """
page.fit(0)
for step in range(1, 10**6):
    page.phase(pulse.COMPUTING); time.sleep(0.01)
    if {stops} and step == 20: time.sleep(300)
    page.wait()
    if {waits} and step == 20: time.sleep(300)
    page.phase(pulse.UPDATING)
    page.step(step)
"""


class Nodes:
    """The watches of nodes with a rank each."""

    def __init__(self, folder: Path, processes: list[int], end: bool = False) -> None:
        attempt = RunDir(folder).attempt(1)
        make_private(attempt.path)
        job = Job("r", "e", str(folder), 1, sys.executable, nodes=len(processes))
        names = [f"node{n + 1}" for n in range(len(processes))]
        self.record = attempt.hangs
        self.sent: list[str] = []
        self.watches = [
            Hangs(job, attempt, n, names, self.sender(n), lambda pid=pid: [pid], end)  # type: ignore[misc]
            for n, pid in enumerate(processes)
        ]

    def sender(self, node: int) -> Callable[[dict[str, Any], int | None], None]:
        def send(message: dict[str, Any], to: int | None) -> None:
            self.sent.append(message["type"])
            for other in range(len(self.watches)) if to is None else [to]:
                if other != node:
                    assert self.watches[other].take(node, message)

        return send

    def tick(self) -> list[dict[str, Any]]:
        for watch in self.watches:
            watch.step()
        return list(read_lines(self.record))

    def close(self) -> None:
        for watch in self.watches:
            watch.close()


def test_a_rank_that_hangs_is_named_with_all_stacks(tmp_path: Path) -> None:
    with (
        rank(0, HEALTHY.format(stops=0, waits=1)) as (_, first),
        rank(1, HEALTHY.format(stops=1, waits=0)) as (_, second),
    ):
        nodes = Nodes(tmp_path, [first.pid, second.pid], end=True)
        found = until(nodes.tick, 60)
        assert [line["ranks"] for line in found] == [[1]] and found[0]["held_up"] == [0]
        assert found[0]["words"].startswith("Rank 1 on node2 has not moved for ")
        assert "after step 19; it was computing. Rank 0 waits for it." in found[0]["words"]
        assert set(found[0]["stacks"]) == {"0", "1"} and all("<string>" in s for s in found[0]["stacks"].values())
        assert nodes.watches[0].ended_by == found[0]["words"] and not nodes.watches[1].ended_by
        assert nodes.sent.count(ASK) == 1 and nodes.sent.count(STACKS) == 1
        for _ in range(5):
            nodes.watches[0]._looked = 0.0  # the same again is not told again
            assert len(nodes.tick()) == 1
        nodes.close()


def test_messages_of_others_are_not_taken(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, [1])
    assert not nodes.watches[0].take(1, {"type": "done"})
    assert nodes.watches[0].take(1, {"type": "pulse", "ranks": [list(Pulse(0, 1, 2, 2, 2, 0))]})


@pytest.mark.parametrize("made", ["no page", "another process's"])
def test_ranks_without_a_page_are_left_alone(tmp_path: Path, made: str) -> None:
    """Commands that make ranks of their own write nothing."""
    nodes = Nodes(tmp_path, [os.getpid() if made == "no page" else 1])
    assert nodes.tick() == [] and nodes.watches[0].readers == {}
