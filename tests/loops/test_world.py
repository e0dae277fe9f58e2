"""How ranks find each other under every launcher, and how they part: also when one of them fails or is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.loops import worlds
from trainkit import RunEnvironmentException, UserErrorException
from trainkit.boot.contact import contact_from
from trainkit.loops.collectives import total
from trainkit.loops.world import alone, join

MEET = """
import os, sys
words = dict(word.split("=", 1) for word in sys.argv[2:])
os.environ.update(words)
import torch
from trainkit.loops.collectives import total
from trainkit.loops.world import join
world = join(sys.argv[1])
report(name=world.collective.name, rank=world.rank, sum=total(world.collective, torch.ones(2)).tolist(),
       place=[world.local_rank, world.local_size], device=str(world.device), cores=world.cores,
       threads=torch.get_num_threads())
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("by", "backend", "found"),
    [
        ("plain", "auto", "gloo"),
        ("torchrun", "auto", "gloo"),
        ("mpirun", "auto", "mpi"),
        ("mpirun", "gloo", "gloo"),
        ("horovodrun", "auto", "horovod"),
        ("horovodrun", "gloo", "gloo"),
    ],
)
def test_ranks_meet_under_every_launcher(tmp_path: Path, by: str, backend: str, found: str) -> None:
    outcome = worlds.run(tmp_path, MEET, 2, by, arguments=[backend])
    assert outcome.same("name") == found
    assert outcome.each("rank") == [0, 1] and outcome.same("sum") == [2.0, 2.0]
    assert sorted(outcome.each("place")) == [[0, 2], [1, 2]]
    assert list(tmp_path.glob("trainkit-*/*")) == []  # no meeting file is left


@pytest.mark.engine
def test_ranks_on_several_machines_meet_through_mpi(tmp_path: Path) -> None:
    machine_each = ["OMPI_COMM_WORLD_LOCAL_SIZE=1"]  # as if each rank had a machine of its own
    outcome = worlds.run(tmp_path, MEET, 2, "mpirun", arguments=["gloo", *machine_each])
    assert outcome.same("name") == "gloo" and outcome.same("sum") == [2.0, 2.0]
    assert not list(tmp_path.glob("trainkit-*"))


@pytest.mark.engine
def test_a_folder_that_others_can_write_to_is_no_meeting_place(tmp_path: Path) -> None:
    open_to_all = tmp_path / f"trainkit-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    outcome = worlds.start(tmp_path, MEET, 2, "mpirun", arguments=["gloo"]).wait()
    assert outcome.code != 0 and "but others can write there" in outcome.output


@pytest.mark.engine
@pytest.mark.parametrize(("backend", "words"), [("mpi", "mpi4py sees 1"), ("horovod", "Horovod sees rank 0 of 1")])
def test_a_world_of_another_size_is_refused(tmp_path: Path, backend: str, words: str) -> None:
    outcome = worlds.start(tmp_path, MEET, 2, "plain", arguments=[backend]).wait()
    assert outcome.code != 0 and words in outcome.output


PART = """
import atexit, os, signal, sys
import torch
from trainkit.loops.collectives import total
from trainkit.loops.world import join
backend, how = sys.argv[1:]
world = join(backend)
atexit.register(lambda: report(atexit=True))
for step in range(1_000_000):
    total(world.collective, torch.ones(1000))
    if step == 3:
        report(pid=os.getpid())
        if how == "agreed":
            sys.exit(75)
    if step == 5 and world.rank == 1:
        if how == "raise":
            raise ValueError("rank 1 has had enough")
        if how == "exit":
            sys.exit(3)
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("by", "backend"),
    [("plain", "gloo"), ("torchrun", "gloo"), ("mpirun", "mpi"), ("mpirun", "horovod"), ("horovodrun", "horovod")],
)
def test_a_rank_that_raises_ends_all_ranks(tmp_path: Path, by: str, backend: str) -> None:
    outcome = worlds.start(tmp_path, PART, 3, by, arguments=[backend, "raise"]).wait(60)
    assert outcome.code != 0 and "ValueError: rank 1 has had enough" in outcome.output
    assert outcome.ranks[1]["atexit"]  # what the script registered is done all the same


@pytest.mark.engine
@pytest.mark.parametrize(
    ("by", "backend"), [("plain", "gloo"), ("torchrun", "gloo"), ("mpirun", "mpi"), ("horovodrun", "horovod")]
)
def test_a_rank_that_is_killed_ends_all_ranks(tmp_path: Path, by: str, backend: str) -> None:
    running = worlds.start(tmp_path, PART, 3, by, arguments=[backend, "run"])
    pid = running.until(1, "pid")
    running.until(0, "pid")
    os.kill(pid, signal.SIGKILL)
    assert running.wait(60).code != 0


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_a_rank_that_leaves_by_itself_ends_all_ranks(tmp_path: Path, backend: str) -> None:
    assert worlds.start(tmp_path, PART, 2, "mpirun", arguments=[backend, "exit"]).wait(60).code != 0


@pytest.mark.engine
def test_ranks_that_leave_together_do_so_in_order(tmp_path: Path) -> None:
    outcome = worlds.start(tmp_path, PART, 2, "mpirun", arguments=["mpi", "agreed"]).wait(60)
    assert outcome.code == 75 and outcome.same("atexit") and "MPI_ABORT" not in outcome.output


def test_a_process_on_its_own_needs_nobody() -> None:
    world = join()
    assert (world.rank, world.size, world.local_size, world.collective.name) == (0, 1, 1, "alone")
    assert join() is world and world.cores >= 1
    values = torch.ones(2)
    assert total(world.collective, values) is values
    assert alone("cpu").device == torch.device("cpu")


@pytest.mark.parametrize("backend", ["torch", "gloo", "horovod", "mpi"])
def test_alone_no_backend_is_needed(backend: str) -> None:
    assert join(backend, "cpu").collective.name == "alone"


@pytest.mark.parametrize("backend", ["", "Gloo", "smoke signals", None])
def test_unknown_backends_are_refused(backend: str) -> None:
    with pytest.raises(UserErrorException, match="is one of auto, torch, gloo, nccl, horovod, mpi"):
        join(backend)


@pytest.mark.parametrize("device", ["gpu", "mps", ""])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(UserErrorException, match="it is 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        join("gloo", device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(RunEnvironmentException, match="shows this process 0"):
        join("auto", "cuda:1")


def test_a_contradiction_is_an_error() -> None:
    with pytest.raises(RunEnvironmentException, match="RANK=5 and WORLD_SIZE=2 contradict"):
        contact_from({"RANK": "5", "WORLD_SIZE": "2"})


def test_what_an_environment_says_about_ways_to_the_others() -> None:
    openmpi = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    assert contact_from(openmpi).mpi and not contact_from(openmpi).address
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}
    assert not contact_from(slurm).mpi  # srun without PMIx: an MPI library would find itself alone, or abort
    assert contact_from({**slurm, "PMIX_NAMESPACE": "1"}).mpi
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1", "PMIX_NAMESPACE": "1"}
    assert contact_from(torchrun).address and not contact_from(torchrun).mpi
    horovodrun = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "b",
                  "HOROVOD_GLOO_RENDEZVOUS_PORT": "2"}  # fmt: skip
    assert contact_from(horovodrun).rendezvous == ("b", 2)
    job = {"TRAINKIT_RANK": "0", "TRAINKIT_WORLD_SIZE": "2", "TRAINKIT_BACKEND": "gloo"}
    assert contact_from(job).in_job and contact_from(job).backend == "gloo" and not contact_from(job).mpi
    assert contact_from({**job, "TRAINKIT_MPI": "Open MPI"}).mpi
