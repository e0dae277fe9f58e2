"""Places on a target: first come first served, never too many, and nobody's death loses or blocks one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainkit.boot.rundir import RunDir, publish
from trainkit.errors import UserErrorException, WorkspaceException
from trainkit.slots import Slots


def run(tmp_path: Path, name: str) -> Path:
    """A run's directory."""
    path = tmp_path / "runs" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def slots(tmp_path: Path, max_nodes: int | None = 4) -> Slots:
    return Slots(tmp_path / "targets" / "cluster", max_nodes)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has imported what it needs and waits for a line before it goes on."""
    code = "import sys, time, random; from trainkit.slots import Slots; sys.stdin.readline()\n" + code
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_first_come_first_served(tmp_path: Path) -> None:
    places = slots(tmp_path)
    for name, nodes in [("a", 3), ("b", 2), ("c", 1)]:
        places.request(name, run(tmp_path, name), nodes)
    assert places.acquire("c") == "waits for 1 of 4 nodes of cluster; 2 runs are before it"
    assert places.acquire("a") == ""
    assert places.acquire("a") == ""
    assert places.acquire("b") == "waits for 2 of 4 nodes of cluster; 3 are in use by a"
    assert places.acquire("c") == "waits for 1 of 4 nodes of cluster; 1 run is before it"  # though one node is free
    assert [(t.run_id, t.granted) for t in places.tickets()] == [("a", True), ("b", False), ("c", False)]
    places.release("a")
    places.release("a")
    assert places.acquire("c") != ""
    assert places.acquire("b") == ""
    assert places.acquire("c") == ""


def test_without_a_limit_nobody_waits(tmp_path: Path) -> None:
    places = slots(tmp_path, None)
    for name in "abc":
        places.request(name, run(tmp_path, name), 1000)
    assert places.acquire("c") == ""
    assert len(places.tickets()) == 3


def test_asking_twice_is_asking_once(tmp_path: Path) -> None:
    places = slots(tmp_path)
    first = places.request("a", run(tmp_path, "a"), 2)
    places.request("b", run(tmp_path, "b"), 2)
    assert places.request("a", run(tmp_path, "a"), 2) == first
    assert len(places.tickets()) == 2


def test_what_can_never_be_is_refused_at_once(tmp_path: Path) -> None:
    places = slots(tmp_path)
    with pytest.raises(UserErrorException, match=r"5 nodes are asked of cluster, which has 4.*update\(max_nodes=5\)"):
        places.request("a", run(tmp_path, "a"), 5)
    with pytest.raises(UserErrorException, match="0 nodes"):
        places.request("a", run(tmp_path, "a"), 0)
    with pytest.raises(UserErrorException, match="has no ticket"):
        places.acquire("a")
    assert places.tickets() == []


def test_a_run_that_ended_or_was_deleted_holds_nothing(tmp_path: Path) -> None:
    places = slots(tmp_path)
    for name in "abc":
        places.request(name, run(tmp_path, name), 4)
    assert places.acquire("a") == ""
    publish(RunDir(run(tmp_path, "a")).state, {"status": "Failed"})
    run(tmp_path, "b").rmdir()
    assert [t.run_id for t in places.tickets()] == ["c"]
    assert places.acquire("c") == ""


def test_a_new_limit_counts_for_everybody(tmp_path: Path) -> None:
    old, new = slots(tmp_path), slots(tmp_path)
    old.request("a", run(tmp_path, "a"), 2)
    old.request("b", run(tmp_path, "b"), 2)
    assert old.acquire("a") == ""
    with pytest.raises(UserErrorException, match="the run a, which has not ended, asked for 2"):
        new.set_limit(1)
    new.set_limit(2)
    assert old.acquire("b") == "waits for 2 of 2 nodes of cluster; 2 are in use by a"
    with pytest.raises(UserErrorException, match="a, b"):
        new.close()
    old.release("a")
    old.release("b")
    new.close()
    assert old.max_nodes == 4


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    places = slots(tmp_path)
    places.request("a", run(tmp_path, "a"), 1)
    for text in ("{", "[]", '{"next": 1, "tickets": [{}]}'):
        (places.directory / "tickets.json").write_text(text)
        with pytest.raises(WorkspaceException, match=r"tickets\.json is damaged"):
            places.acquire("a")


def test_files_are_private(tmp_path: Path) -> None:
    places = slots(tmp_path)
    places.request("a", run(tmp_path, "a"), 1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [places.directory, *places.directory.iterdir()]}
    assert modes == {"cluster": 0o700, "lock": 0o600, "tickets.json": 0o600}


WORK = """
places, name, run_dir = Slots(sys.argv[1], 4), sys.argv[2], sys.argv[3]
mine = places.request(name, run_dir, 1)
while places.acquire(name):
    time.sleep(0.002)
now = places.tickets()
overtaken = [t for t in now if not t.granted and t.sequence < mine.sequence]
print(mine.sequence, sum(t.nodes for t in now if t.granted), len(overtaken))
places.release(name)
"""


def test_twenty_processes_at_once(tmp_path: Path) -> None:
    places = slots(tmp_path)
    workers = [python(WORK, places.directory, f"r{i}", run(tmp_path, f"r{i}")) for i in range(20)]
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    results = [tuple(map(int, worker.communicate(timeout=60)[0].split())) for worker in workers]
    assert sorted(sequence for sequence, _, _ in results) == list(range(1, 21))
    assert max(used for _, used, _ in results) <= 4
    assert {overtaken for _, _, overtaken in results} == {0}
    assert places.tickets() == []


CHURN = """
places, name, run_dir = Slots(sys.argv[1], 100), sys.argv[2], sys.argv[3]
print("ready", flush=True)
while True:
    places.request(name, run_dir, 1)
    places.acquire(name)
    places.release(name)
"""


def test_tickets_survive_the_kill_of_anyone_at_any_instant(tmp_path: Path) -> None:
    places, chance = slots(tmp_path, 100), random.Random(1)
    kept = [places.request(f"kept-{i}", run(tmp_path, f"kept-{i}"), 1) for i in range(5)]
    assert [places.acquire(ticket.run_id) for ticket in kept] == [""] * 5
    seen = 0
    for round_ in range(6):
        name = f"worker-{round_}"
        workers = [python(CHURN, places.directory, f"{name}-{i}", run(tmp_path, f"{name}-{i}")) for i in range(4)]
        for worker in workers:
            assert worker.stdin and worker.stdout
            worker.stdin.write("go\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            time.sleep(chance.random() / 50)  # any instant
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
            tickets = places.tickets()
            assert [t.run_id for t in tickets[:5]] == [t.run_id for t in kept]
            assert all(t.granted for t in tickets[:5])
            assert len({t.sequence for t in tickets}) == len(tickets)
            left = [t for t in tickets if t.run_id.startswith(name)]
            seen += len(left)
            new = places.request(f"late-{worker.pid}", run(tmp_path, f"late-{worker.pid}"), 1)  # the lock is free
            assert new.sequence > max((t.sequence for t in tickets), default=0)
            places.release(new.run_id)
    assert seen > 0  # kills did hit processes that held a ticket: it stays, for whoever takes the run over
    assert sorted(os.listdir(places.directory))[-1] in ("tickets.json", "tickets.new")
    assert json.loads((places.directory / "tickets.json").read_text())["next"] > 5
