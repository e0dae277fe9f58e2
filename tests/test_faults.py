"""Faults of every kind, in whole runs: the verdict is right, and nothing is left. The soak repeats them many times."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trainkit import Workspace
from trainkit.boot.processes import identity, is_alive
from trainkit.testing import runs, wait_until
from trainkit.testing.kills import VICTIMS, find, kill
from trainkit.testing.planted import FAULTS, MemoryGroup, Planted

ANYWHERE = [fault for fault in FAULTS if not fault.needs]
ENGINES = {"mpirun", "torchrun"}


@pytest.mark.engine
@pytest.mark.parametrize("fault", ANYWHERE, ids=lambda fault: fault.name)
def test_a_planted_fault_gets_its_verdict(workspace: Any, tmp_path: Path, fault: Planted) -> None:
    assert runs.plant(workspace, tmp_path / "source", fault) == []


@pytest.mark.skipif(not MemoryGroup.possible(), reason="a memory cgroup (version 1) of one's own needs root")
def test_the_kernels_out_of_memory_killer_is_told_apart(workspace: Any, tmp_path: Path) -> None:
    (fault,) = (fault for fault in FAULTS if fault.needs == "memory cgroup")
    assert runs.plant(workspace, tmp_path / "source", fault) == []


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_hides_nothing(tmp_path: Path) -> None:
    (fault,) = (fault for fault in FAULTS if fault.needs == "small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        workspace = Workspace.create("full", path=str(disk))
        assert runs.plant(workspace, tmp_path / "source", fault) == []
    finally:
        wait_until(lambda: subprocess.run(["umount", str(disk)]).returncode == 0, 20, "the disk's last user to go")


@pytest.mark.engine
@pytest.mark.parametrize("victim", VICTIMS)
def test_killing_a_part_ends_the_whole(workspace: Any, tmp_path: Path, victim: str) -> None:
    seen = runs.kill_and_watch(workspace, tmp_path / "source", victim)
    assert seen.status == "Failed"
    assert "killed" in seen.summary, seen.summary


ESCAPING = """
import os, time
for number in range(8):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        with open("../escaped", "a") as file:
            file.write("%d\\n" % os.getpid())
        os.execve("/bin/sleep", ["sleep", "600"], {})
while len(open("../escaped").readlines()) < 8: time.sleep(0.01)
open("../started-0", "w").close()
time.sleep(600)
"""


def test_what_has_left_its_session_and_its_environment_ends_with_a_killed_agent(workspace: Any, tmp_path: Path) -> None:
    run = runs.submit(workspace, tmp_path / "source", "open('../escaped', 'w').close()\n" + ESCAPING)
    wait_until(lambda: (run.directory / "started-0").exists(), 30, "the script's start")
    escaped = [identity(int(pid)) for pid in (run.directory / "escaped").read_text().split()]
    assert len(escaped) == 8 and all(map(is_alive, escaped))
    kill(find("agent", run.directory, run.id))
    wait_until(lambda: run.get_status() == "Failed", 20, "a true state")
    wait_until(lambda: not any(map(is_alive, escaped)), 10, "the end of all processes")


def test_killing_the_driver_leaves_the_job_alive(workspace: Any, tmp_path: Path) -> None:
    seen = runs.kill_driver(workspace, tmp_path / "source")
    assert (seen.status, seen.wrong) == ("Completed", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_client_may_go(workspace: Any, tmp_path: Path, number: int) -> None:
    seen = runs.kill_client(workspace, tmp_path / "source", number)
    assert (seen.status, seen.wrong) == ("Completed", "")


@pytest.mark.engine
@pytest.mark.parametrize("spread", ["fork", "mpi"])
def test_cancel_ends_the_tree_and_keeps_what_was_written(workspace: Any, tmp_path: Path, spread: str) -> None:
    seen = runs.cancel_and_watch(workspace, tmp_path / "source", spread)
    assert (seen.status, seen.wrong) == ("Canceled", "")
