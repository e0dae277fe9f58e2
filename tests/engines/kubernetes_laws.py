"""Run by on_demand_kubernetes.py in its testbed's ctl, beside a real Kubernetes 1.20: jobs and runs of one node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainkit import ComputeTarget, Experiment, Run, ScriptRunConfig, Workspace, outcome
from trainkit.boot.processes import with_environment
from trainkit.distributed import SpreadConfiguration
from trainkit.errors import LaunchError, UnsupportedJob
from trainkit.testing import LauncherLaws, launch, make_job, wait_until
from trainkit_launchers.kubernetes import Kubernetes, Volume

SLEEP = "import time; time.sleep(300)"
LOGGING = "import os; from trainkit import Run; Run.get_context().log('rank', int(os.environ['RANK']))\n"
ROOT = str(Path(__file__).resolve().parents[2])


def kubernetes(**values: Any) -> Kubernetes:
    """The cluster: its one machine lends pods its programs and this checkout, and a folder that the tests see too."""
    lent = ["/usr", ROOT] + ([] if sys.base_prefix.startswith("/usr") else [sys.base_prefix])
    volumes = [Volume(path, host_path=path, read_only=True) for path in lent]
    volumes.append(Volume(os.environ["FOLDER_OF_THE_TEST"], host_path=os.environ["FOLDER_OF_THE_TEST"]))
    kubeconfig = os.environ["KUBECONFIG_OF_THE_TEST"]
    return Kubernetes(**{"image": "programs:here", "volumes": tuple(volumes), "kubeconfig": kubeconfig,
                         "host_network": True, "shared_memory": "64Mi", **values})  # fmt: skip


class TestKubernetes(LauncherLaws):
    """All laws, with jobs of one node: older API servers have no Indexed Jobs."""

    nodes = 1

    def launcher(self) -> Kubernetes:
        return kubernetes()


def test_a_failing_script_is_the_jobs_and_not_the_clusters(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "raise ValueError('no such bird')")
    launcher = kubernetes()
    handle = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(handle).phase == "ended", 60, "the job's end")
    (record,) = outcome.records_of(attempt)
    assert (record["exception"], record["message"]) == ("ValueError", "no such bird")


def test_two_nodes_are_refused_by_the_servers_version(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "", nodes=2)
    with pytest.raises(UnsupportedJob, match="2 nodes were asked of a Kubernetes API server of version 1.20"):
        kubernetes().start(job)


def test_what_the_server_finds_invalid_is_told_in_its_words(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, "")
    with pytest.raises(LaunchError, match="is invalid: ") as refused:
        kubernetes(labels={"no label": "x"}).start(job)
    assert not refused.value.transient


def test_a_job_without_room_waits_in_the_schedulers_words_and_is_cancelled(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEP)
    launcher = kubernetes(cpus="640")
    handle = launch(launcher, job, attempt)
    wait_until(lambda: "Insufficient cpu" in launcher.poll(handle).words, 30, "the scheduler's words")
    assert launcher.poll(handle).phase == "queued"
    launcher.cancel(handle)
    wait_until(lambda: launcher.poll(handle).phase == "ended", 30, "the job's end")


def test_an_image_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEP)
    launcher = kubernetes(image="no-such-image:1")
    handle = launch(launcher, job, attempt)
    wait_until(lambda: "ImagePull" in launcher.poll(handle).words, 60, "the kubelet's words")
    assert launcher.poll(handle).phase == "queued"
    launcher.cancel(handle)
    wait_until(lambda: launcher.poll(handle).phase == "ended", 60, "the job's end")


def test_a_python_that_the_pod_lacks_is_told_in_the_agents_log(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "", boot="/no/boot.zip")
    launcher = kubernetes()
    handle = launch(launcher, job, attempt)
    wait_until(lambda: launcher.poll(handle).phase in ("ended", "lost"), 60, "the job's end")
    assert launcher.poll(handle).phase == "lost"
    assert "/no/boot.zip" in Path(job.agent_log(0)).read_text()


def test_a_shell_opens_in_the_pod(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEP)
    launcher = kubernetes()
    handle = launch(launcher, job, attempt)
    wait_until(lambda: with_environment("TRAINKIT_RUN_ID", job.run_id), 60, "the rank's start")
    done = subprocess.run([*launcher.shell(handle, 0), "pwd"], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == job.run_dir, done.stderr
    launcher.cancel(handle)
    wait_until(lambda: launcher.poll(handle).phase == "ended", 60, "the job's end")


def test_a_job_that_the_cluster_has_forgotten_is_lost() -> None:
    assert kubernetes().poll("default/never-was").phase == "lost"


# --- whole runs: submitted, watched and judged by the driver ---


def submitted(folder: Path, script: str, **values: Any) -> Run:
    """A run of two ranks on one node of the cluster."""
    (folder / "source").mkdir()
    (folder / "source" / "train.py").write_text(LOGGING + script)
    workspace = Workspace.create("kubernetes", path=str(folder))
    ComputeTarget.attach(workspace, "cluster", kubernetes(**values))
    config = ScriptRunConfig(
        folder / "source", "train.py", compute_target="cluster", use_gpu=False,
        distributed_job_config=SpreadConfiguration("fork", 2, 1),
    )  # fmt: skip
    return Experiment(workspace, "work").submit(config)


def test_a_run_is_completed_with_what_its_ranks_logged(tmp_path: Path) -> None:
    run = submitted(tmp_path, "")
    run.wait_for_completion()
    assert run.get_status() == "Completed"
    assert run.get_metrics(rank="all") == {0: {"rank": 0}, 1: {"rank": 1}}


def test_a_run_whose_script_fails_is_failed_in_its_words(tmp_path: Path) -> None:
    run = submitted(tmp_path, "raise ValueError('no such bird')")
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    assert "no such bird" in str(run.get_details())


def test_a_running_run_is_cancelled(tmp_path: Path) -> None:
    run = submitted(tmp_path, SLEEP)
    wait_until(lambda: len(run.get_metrics(rank="all")) == 2, 60, "the ranks' start")
    run.cancel()
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Canceled"
    assert not with_environment("TRAINKIT_RUN_ID", run.id)


def test_a_run_that_the_server_refuses_is_failed_in_its_words(tmp_path: Path) -> None:
    run = submitted(tmp_path, "", labels={"no label": "x"})
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed"
    assert "is invalid: " in str(run.get_details())
