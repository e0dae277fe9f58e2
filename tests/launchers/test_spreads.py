"""Spreads are pure: a job and a node in, command lines out; and each makes the world that was asked for, for real."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trainkit import outcome
from trainkit.boot import plugins
from trainkit.errors import LaunchError
from trainkit.job import Job, Node
from trainkit.testing import launch, make_job, wait_until
from trainkit_launchers import mpirun
from trainkit_launchers.local import Local
from trainkit_launchers.mpirun import Mpi, find_mpi
from trainkit_launchers.spreads.fork import fork
from trainkit_launchers.spreads.torchrun import torchrun

JOB = Job("r", "e", "/r", 1, "/bin/python", script="train.py", nodes=2, ranks_per_node=2)
NODE = Node(1, ("a", "b"), "10.0.0.1", 29500)

TELL = """
import json, os
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "TRAINKIT_NODE_NAME",
         "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
with open("../told-" + os.environ["RANK"], "w") as file:
    json.dump([os.environ[name] for name in names] + [os.getppid()], file)
"""


def test_fork_numbers_ranks_node_by_node() -> None:
    commands = fork(JOB, NODE)
    assert [c.environment["RANK"] for c in commands] == ["2", "3"]
    assert [c.environment["LOCAL_RANK"] for c in commands] == ["0", "1"]
    assert {c.environment["WORLD_SIZE"] for c in commands} == {"4"}
    assert commands[0].argv == ("/bin/python", "-m", "trainkit.boot.rank")


def test_torchrun_is_static_and_starts_shims() -> None:
    (command,) = torchrun(JOB, NODE)
    for word in ("--nnodes=2", "--node_rank=1", "--nproc_per_node=2", "--master_addr=10.0.0.1", "--master_port=29500"):
        assert word in command.argv
    assert "--max_restarts=0" in command.argv
    assert command.argv[-4:] == ("--no_python", "/bin/python", "-m", "trainkit.boot.rank")


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("spread", ["fork", pytest.param("mpi", marks=pytest.mark.engine)])
def test_the_world_is_the_one_asked_for(tmp_path: Path, spread: str, nodes: int, ranks: int) -> None:
    job, attempt = make_job(tmp_path, TELL, nodes=nodes, ranks_per_node=ranks, spread=spread)
    launcher = Local()
    handle = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(handle).phase == "ended", 60, "the job's end")
    ends = outcome.ends_of(attempt)
    assert outcome.judge(job.world_size, outcome.records_of(attempt), ends) == ("Completed", None)
    assert [end["lost"] for end in ends] == [{}] * nodes
    told = [json.loads((tmp_path / f"told-{rank}").read_text()) for rank in range(nodes * ranks)]
    for rank, (own, world, local, size, node, name, mpi_rank, mpi_size, _) in enumerate(told):
        assert (int(own), int(world), int(local), int(size)) == (rank, nodes * ranks, rank % ranks, ranks)
        assert int(node) == rank // ranks
        assert (mpi_rank, mpi_size) == (own, world)
        assert name.endswith(f"-{node}") or nodes == 1


@pytest.mark.engine
def test_the_mpirun_belongs_to_the_library_that_ranks_load() -> None:
    found = find_mpi(sys.executable)
    assert found.kind in ("openmpi", "mpich")
    assert Path(found.mpirun).is_file() and Path(found.library).is_file()
    assert Path(found.mpirun).parent.parent in Path(found.library).parents


@pytest.mark.engine
def test_an_mpirun_that_does_not_work_says_why(tmp_path: Path) -> None:
    for name, words in (("python", "no"), ("mpirun", "no home directory")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {words} >&2\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(LaunchError, match="mpirun does not work here: no home directory"):
        find_mpi(str(tmp_path / "python"))


def test_an_interpreter_that_cannot_be_started_may_be_asked_again(tmp_path: Path) -> None:
    (tmp_path / "python").write_bytes(b"\x7fELF, half written")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(LaunchError, match="python cannot be started: Exec format error.$") as raised:
        find_mpi(str(tmp_path / "python"))
    assert raised.value.transient


def test_a_program_that_does_not_answer_may_be_asked_again() -> None:
    with pytest.raises(LaunchError, match=r"^sleep has not said within 0.1 s which MPI it has.$") as raised:
        mpirun._run(["sleep", "60"], 0.1)
    assert raised.value.transient


def test_two_silent_worlds_of_one_are_an_error_that_names_both_libraries(tmp_path: Path) -> None:
    """Ranks whose MPI library was not started by their mpirun: here by fork, which is none."""
    job, attempt = make_job(
        tmp_path, "from mpi4py import MPI\nprint(MPI.COMM_WORLD.size)", ranks_per_node=2, spread="fork",
        environment={"TRAINKIT_MPI": Mpi("mpich", "MPICH 4.0", "/x/libmpi.so", "/x/bin/mpirun").words},
    )  # fmt: skip
    launcher = Local()
    handle = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(handle).phase == "ended", 60, "the job's end")
    status, verdict = outcome.judge(2, outcome.records_of(attempt), outcome.ends_of(attempt))
    assert status == "Failed" and verdict is not None
    for words in ("a world of 1 where the job has 2 ranks", "Open MPI", "MPICH 4.0", "/x/bin/mpirun"):
        assert words in verdict["message"]


def test_unknown_plugins_name_the_known_ones() -> None:
    with pytest.raises(Exception, match="no spread named 'forc'; installed are .*fork"):
        plugins.spread("forc")
    with pytest.raises(Exception, match="no launcher named 'moon'; installed are .*local"):
        plugins.launcher("moon")
