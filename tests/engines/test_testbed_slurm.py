"""Slurm on the testbed is the real one: jobs of two users, partitions that give way, daemons that die and return."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines import slurmd
from tests.engines.testbed import USER, Testbed, missing
from trainkit.testing import wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[Testbed]:
    """Slurm on two nodes, for this module."""
    if missing() or slurmd.missing():
        pytest.skip(missing() or slurmd.missing())
    with Testbed(nodes=2) as made:
        made.slurm()
        yield made


@pytest.mark.engine
def test_slurm_runs_jobs_of_root_and_of_a_user(cluster: Testbed) -> None:
    for user in ("root", USER):
        ask = ["srun", "-N2", "-l", "--gpus-per-node=1", "bash", "-c", "hostname; id -un; echo $CUDA_VISIBLE_DEVICES"]
        done = cluster.run("ctl", ask, timeout=30, user=user, cwd=cluster.shared)
        assert sorted(done.stdout.splitlines()) == sorted(
            ["0: node1", "1: node2", f"0: {user}", f"1: {user}", "0: 0", "1: 0"]
        ), done.stderr


def state(bed: Testbed, job: str) -> str:
    """What squeue calls a job's state; "" once it has left the queue."""
    return bed.run("ctl", ["squeue", "-h", "-t", "all", "-o", "%T", "-j", job], timeout=20).stdout.strip()


def submitted(bed: Testbed, partition: str, nodes: int) -> str:
    """A job that sleeps; its number."""
    ask = ["sbatch", "--parsable", "-p", partition, "-N", str(nodes), "--exclusive", "-o", "/dev/null"]
    return bed.run("ctl", [*ask, "--wrap", "sleep 600"], check=True, timeout=20).stdout.strip()


@pytest.mark.engine
def test_a_job_of_the_low_partition_gives_way_and_is_queued_again(cluster: Testbed) -> None:
    low = submitted(cluster, "low", 2)
    wait_until(lambda: state(cluster, low) == "RUNNING", 30, "its start")
    high = submitted(cluster, "high", 2)
    wait_until(lambda: state(cluster, high) == "RUNNING", 30, "the other's start")
    assert state(cluster, low) == "PENDING"
    cluster.run("ctl", ["scancel", low, high], check=True)
    assert cluster._slurm is not None
    cluster._slurm.wait_idle("node1", "node2")


@pytest.mark.engine
def test_the_controller_is_restarted_and_the_job_goes_on(cluster: Testbed) -> None:
    job = submitted(cluster, "debug", 1)
    wait_until(lambda: state(cluster, job) == "RUNNING", 30, "its start")
    cluster.slurm_down("ctl")
    assert "DOWN" in cluster.run("ctl", ["scontrol", "ping"], timeout=30).stdout
    cluster.slurm_up("ctl")
    wait_until(lambda: state(cluster, job) == "RUNNING", 30, "the controller's return")
    cluster.run("ctl", ["scancel", job], check=True)
    assert cluster._slurm is not None
    cluster._slurm.wait_idle("node1", "node2")


@pytest.mark.engine
def test_a_node_booted_again_is_one_of_slurm_again(cluster: Testbed) -> None:
    assert cluster._slurm is not None
    cluster.kill("node2")
    cluster.boot("node2")
    cluster._slurm.wait_idle("node1", "node2")
    done = cluster.run("ctl", ["srun", "-N2", "hostname"], timeout=60)
    assert sorted(done.stdout.split()) == ["node1", "node2"], done.stderr


def test_accounts_are_kept_in_a_database() -> None:
    if missing() or slurmd.missing(sacct=True):
        pytest.skip(missing() or f"{slurmd.missing(sacct=True)} when it is asked for accounts")
    with Testbed(nodes=1) as bed:
        bed.slurm(sacct=True)
        assert bed.run("ctl", ["srun", "-N1", "bash", "-c", "exit 7"], timeout=30).returncode == 7
        ask = ["sacct", "-n", "-P", "-X", "-o", "State,ExitCode"]
        wait_until(lambda: bed.run("ctl", ask, timeout=20).stdout == "FAILED|7:0\n", 30, "the job's account")
