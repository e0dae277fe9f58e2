"""Every launcher's dialect is understood, and none leaks into a job."""

from __future__ import annotations

import pytest

from trainkit.boot.ranks import Rank, rank_from, without_ranks
from trainkit.errors import RunEnvironmentException

DIALECTS = {
    "torchrun": {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"},
    "openmpi": {
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    },
    "mpich": {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
    "horovod": {
        "HOROVOD_RANK": "3",
        "HOROVOD_SIZE": "4",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": "1",
    },
    "slurm": {
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
    },
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_is_read(dialect: str) -> None:
    rank = rank_from(DIALECTS[dialect])
    assert (rank.rank, rank.world_size, rank.local_rank, rank.local_size, rank.node_rank) == (3, 4, 1, 2, 1)
    assert rank.dialect == dialect


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_of_an_outer_launcher_stays(dialect: str) -> None:
    left = without_ranks({**DIALECTS[dialect], "PATH": "/bin", "OMPI_ALLOW_RUN_AS_ROOT": "1"})
    assert left == {"PATH": "/bin", "OMPI_ALLOW_RUN_AS_ROOT": "1"}


def test_a_process_on_its_own_is_rank_0_of_1() -> None:
    assert rank_from({"PATH": "/bin"}) == Rank()


def test_a_batch_script_outside_a_step_is_no_rank() -> None:
    env = {k: v for k, v in DIALECTS["slurm"].items() if k != "SLURM_STEP_ID"}
    assert rank_from(env).world_size == 1


def test_ranks_of_one_world_share_its_name_and_others_do_not() -> None:
    def rank(rank: str, port: str) -> Rank:
        return rank_from({"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})

    assert rank("0", "29500").world == rank("1", "29500").world != rank("0", "29501").world


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "contradict"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "contradict"),
        ({"RANK": "0", "WORLD_SIZE": "1e3"}, "WORLD_SIZE='1e3'"),
    ],
)
def test_nonsense_is_refused_by_name(env: dict[str, str], words: str) -> None:
    with pytest.raises(RunEnvironmentException, match=words):
        rank_from(env)
