"""Faults that others can use: they hit whom they name, and are undone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.engines import testbed as beds
from trainkit.boot.rundir import RunDir, read_json
from trainkit.testing import runs, wait_until
from trainkit.testing.faults import Faults, faults  # noqa: F401  (the fixture)


def state(pid: int) -> str:
    """The letter that /proc gives: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def verdict(run: Any) -> dict[str, Any]:
    """What is said of a run that has ended."""
    run.wait_for_completion(raise_on_error=False)
    return dict((read_json(RunDir(run.directory).state) or {})["verdict"])


@pytest.mark.engine
@pytest.mark.parametrize("spread", ["fork", "mpi"])
def test_the_rank_that_is_named_is_killed(workspace: Any, tmp_path: Path, faults: Faults, spread: str) -> None:  # noqa: F811
    run = runs.start_sleeper(workspace, tmp_path / "source", spread)
    faults.job(run.directory).kill(rank=1)
    found = verdict(run)
    assert (found["rank"], found["signal"]) == (1, "SIGKILL")


def test_the_agent_that_is_named_is_killed(workspace: Any, tmp_path: Path, faults: Faults) -> None:  # noqa: F811
    run = runs.start_sleeper(workspace, tmp_path / "source", "fork", nodes=2)
    job = faults.job(run.directory)
    assert job.agent(0) != job.agent(1)
    job.kill(agent=1)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"


def test_a_stopped_rank_goes_on_when_the_test_has_ended(workspace: Any, tmp_path: Path) -> None:
    run = runs.start_sleeper(workspace, tmp_path / "source", "fork")
    with Faults() as mine:
        pid = mine.job(run.directory).stop(rank=0)
        wait_until(lambda: state(pid) == "T", 10, "its stop")
        assert state(mine.job(run.directory).rank(1)) == "S"
    wait_until(lambda: state(pid) == "S", 10, "its going on")
    run.cancel()
    run.wait_for_completion(raise_on_error=False)


def test_a_victim_is_one(tmp_path: Path, faults: Faults) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="name one victim"):
        faults.job(tmp_path).kill()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_small_disk_is_full_until_the_test_has_ended(disk: Path) -> None:
    with Faults() as mine:
        mine.disk(disk)
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(b"x" * 8192)
    assert (disk / "more").write_bytes(b"x" * 1_000_000) and sorted(p.name for p in disk.iterdir()) == ["more"]


def test_a_large_disk_is_not_filled(faults: Faults) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="mount -t tmpfs"):
        faults.disk("/")


class HalfWay:
    """A cluster of one node, whose faults hit it and then raise."""

    names: ClassVar[list[str]] = ["node1"]

    def __init__(self) -> None:
        self.hit: list[object] = []

    def _hit(self, *what: object) -> None:
        self.hit.append(what)
        raise OSError("half way")

    def kill(self, node: str) -> None:
        self._hit("power", node)

    def boot(self, node: str) -> None:
        self.hit.remove(("power", node))

    def freeze(self, node: str) -> None:
        self._hit("processes", node)

    def thaw(self, node: str) -> None:
        self.hit.remove(("processes", node))

    def cut(self, node: str) -> None:
        self._hit("link", node)

    def heal(self, node: str) -> None:
        self.hit.remove(("link", node))

    def fill(self, node: str, path: str | Path) -> None:
        self._hit("disk", node, path)

    def clear(self, node: str, path: str | Path) -> None:
        self.hit.remove(("disk", node, path))


def test_a_fault_that_fails_half_way_is_undone() -> None:
    cluster = HalfWay()
    with Faults() as mine:
        nodes = mine.nodes(cluster)
        for act in (nodes.kill, nodes.stop, nodes.cut, nodes.disk):
            with pytest.raises(OSError, match="half way"):
                act("node1")
        assert len(cluster.hit) == 4
    assert cluster.hit == []


@pytest.mark.engine
def test_faults_of_nodes_are_undone() -> None:
    if beds.missing():
        pytest.skip(beds.missing())
    with beds.Testbed(nodes=2) as bed:
        ping = ["ping", "-c", "1", "-W", "1", "node2"]
        write = ["bash", "-c", "head -c 100000 /dev/zero >/tmp/more"]
        with Faults() as mine:
            nodes = mine.nodes(bed)
            nodes.cut("node2")
            assert bed.run("ctl", ping).returncode
            nodes.disk("node1")
            assert bed.run("node1", write).returncode
            nodes.stop("node1")
            assert {state(pid) for pid in bed.processes("node1")} == {"T"}
            with pytest.raises(ValueError, match="there are node1, node2"):
                nodes.kill("node3")
        assert bed.run("node1", write).returncode == 0
        wait_until(lambda: bed.run("ctl", ping).returncode == 0, 10, "the link's return")
        with Faults() as mine:
            nodes = mine.nodes(bed)
            nodes.kill("node2")
            assert bed.run("ctl", ping).returncode
            for act in (nodes.cut, nodes.disk):  # of a node that is off: there is nothing to undo either
                with pytest.raises((subprocess.CalledProcessError, RuntimeError)):
                    act("node2")
            with pytest.raises(RuntimeError, match="mount point does not exist"):
                nodes.disk("node1", "/nowhere")
        assert bed.run("ctl", ["ssh", "node2", "hostname"], timeout=20).stdout == "node2\n"
