"""Run by test_slurm.py in its testbed's ctl, where Slurm's commands are: the laws of a launcher, and Slurm's own."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trainkit import outcome
from trainkit.boot.processes import with_environment
from trainkit.boot.rundir import AttemptDir, publish
from trainkit.errors import LaunchError, UnsupportedJob
from trainkit.job import Launcher
from trainkit.testing import SLEEPERS, LauncherLaws, daemons, launch, make_job, wait_until
from trainkit_launchers.slurm import Slurm

SLEEP = "import time; time.sleep(300)"
ASKED = """
import signal, sys, time
def asked(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm asks every process of the job, and so does the agent
    sys.exit(75)
signal.signal(signal.SIGTERM, asked)
print("ready", flush=True)
time.sleep(300)
"""


def slurm(*command: str) -> str:
    """What one of Slurm's commands prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def number(handle: str) -> str:
    return handle.split(" ")[0]


def ended(launcher: Launcher, handle: str, seconds: float = 60.0) -> str:
    """Wait for the job's end; the launcher's words."""
    wait_until(lambda: launcher.poll(handle).phase == "ended", seconds, "the job's end")
    return launcher.poll(handle).words


def running(attempt: AttemptDir, nodes: int) -> None:
    """Wait until all ranks run."""
    logs = lambda: [attempt.rank_log(rank).exists() for rank in range(nodes)]  # noqa: E731
    wait_until(lambda: all(logs()), 60, "the ranks' start")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class TestSlurm(LauncherLaws):
    """All laws, on two nodes."""

    def launcher(self) -> Launcher:
        return Slurm()


class TestInside(LauncherLaws):
    """All laws, in an allocation that the test holds."""

    @pytest.fixture(autouse=True)
    def _allocation(self):  # type: ignore[no-untyped-def]
        self.number = slurm("sbatch", "--parsable", "-N2", "--output=/dev/null", "--wrap", "sleep 300").strip()
        wait_until(lambda: slurm("squeue", "-h", "-j", self.number, "-o", "%T").strip() == "RUNNING", 30, "allocation")
        yield
        subprocess.run(["scancel", self.number], check=True)
        wait_until(lambda: not slurm("squeue", "-h", "-j", self.number, "-o", "%i").strip(), 30, "its end")

    def launcher(self) -> Launcher:
        return Slurm(allocation=self.number)

    def test_too_few_nodes_are_refused_and_counted(self, tmp_path: Path) -> None:
        job, _ = make_job(tmp_path, SLEEP, nodes=3)
        with pytest.raises(LaunchError, match=r"has 2 node\(s\) .*the job needs 3") as raised:
            self.launcher().start(job)
        assert raised.value.available == 2

    def test_a_client_in_the_allocation_is_found_by_its_environment(self, tmp_path: Path) -> None:
        job, attempt = make_job(tmp_path, "print('inside')", nodes=2)
        code = "import pickle, sys; l, job = pickle.loads(bytes.fromhex(sys.argv[1])); print(l.start(job))"
        packed = pickle.dumps((Slurm(inside=True), job)).hex()
        env = {**os.environ, "SLURM_JOB_ID": self.number}
        done = subprocess.run([sys.executable, "-c", code, packed], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        publish(attempt.handle, {"handle": done.stdout.strip()})
        ended(Slurm(inside=True), done.stdout.strip())
        assert [outcome.ok(record) for record in outcome.records_of(attempt)] == [True, True]


def test_more_nodes_than_there_are(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, SLEEP, nodes=5)
    with pytest.raises(LaunchError, match="needs 5 nodes, and the partition debug has, or allows, 2") as raised:
        Slurm().start(job)
    assert raised.value.available == 2


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        (Slurm(partition="nope"), "no partition nope; it has debug"),
        (Slurm(gres="fpga:1"), "Invalid generic resource .* Change the launcher's gpus_per_node or gres"),
        (Slurm(gpus_per_node=9), "Requested node configuration is not available.* Change the launcher's"),
        (Slurm(constraint="nope"), "Invalid feature specification.* Change the launcher's constraint"),
        (Slurm(memory="900G"), "Memory specification can not be satisfied.* Change the launcher's memory"),
        (Slurm(reservation="nope"), "reservation is invalid.* Change the launcher's reservation"),
        (Slurm(nodelist="node9"), "Invalid node name.* Change the launcher's nodelist or exclude"),
        (Slurm(extra=("--nope=1",)), "unrecognized option.* Change the launcher's extra"),
    ],
)
def test_what_slurm_refuses_names_the_field(tmp_path: Path, launcher: Slurm, words: str) -> None:
    job, attempt = make_job(tmp_path, SLEEP)
    with pytest.raises(LaunchError, match=words):
        launcher.start(job)
    assert job.run_id not in slurm("squeue", "-h", "-o", "%j")


def test_contradictions_are_refused(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path, SLEEP, gpus_per_node=2, grace_seconds=60.0)
    for launcher, words in [
        (Slurm(gpus_per_node=1), "uses 2 GPUs"),
        (Slurm(signal_seconds=30), "at least 65"),
        (Slurm(setup_script="/nowhere/setup.sh"), "no such file"),
    ]:
        with pytest.raises(UnsupportedJob, match=words):
            launcher.start(job)


def test_a_waiting_job_says_why_and_when_and_can_be_cancelled(tmp_path: Path) -> None:
    first, attempt = make_job(tmp_path / "1", SLEEP, nodes=2)
    launcher = Slurm(time=5, cpus_per_rank=2)
    holder = launch(launcher, first, attempt)
    wait_until(lambda: launcher.poll(holder).phase == "running", 30, "the first job's start")
    second, attempt = make_job(tmp_path / "2", SLEEP, nodes=2)
    waiter = launch(launcher, second, attempt)
    wait_until(lambda: "expected to start at 20" in launcher.poll(waiter).words, 60, "the expected start")
    why = "waits for nodes to become free (Resources)"  # the scheduler says so at its next look
    wait_until(lambda: why in launcher.poll(waiter).words, 60, "the reason")
    assert launcher.poll(waiter).phase == "queued"
    late = Slurm(time=5, cpus_per_rank=2, queue_timeout_seconds=1)
    third, attempt = make_job(tmp_path / "3", SLEEP, nodes=2)
    assert "queue_timeout_seconds=1 and was cancelled: it waits" in ended(late, launch(late, third, attempt))
    for handle in (waiter, holder):
        launcher.cancel(handle)
    assert "CANCELLED" in ended(launcher, waiter)
    ended(launcher, holder)
    assert not with_environment("TRAINKIT_RUN_ID", second.run_id)


def test_a_job_that_can_never_start_says_so(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEP)
    launcher = Slurm(cpus_per_rank=64)
    handle = launch(launcher, job, attempt)
    wait_until(lambda: "can never start" in launcher.poll(handle).words, 30, "the words")
    launcher.cancel(handle)
    ended(launcher, handle)


def test_the_ranks_own_environment_is_in_no_command_line_and_no_script(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "import os; print(os.environ['MINE'])", environment={"MINE": "a b'c\"$HOME\nd"})
    handle = launch(Slurm(setup_script="export SITE='from the site'\n"), job, attempt)
    ended(Slurm(), handle)
    assert attempt.rank_log(0).read_text() == "a b'c\"$HOME\nd\n"
    assert "MINE" not in (attempt.path / "slurm.sh").read_text()


def test_a_folder_with_any_name(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path / "a %j 'b' $HOME", "print('here')", nodes=2)
    handle = launch(Slurm(), job, attempt)
    ended(Slurm(), handle)
    assert [outcome.ok(record) for record in outcome.records_of(attempt)] == [True, True]
    assert attempt.agent_log(1).exists()


def test_gpus_are_asked_for(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", gpus_per_node=2)
    handle = launch(Slurm(), job, attempt)
    ended(Slurm(), handle)
    assert "gres/gpu=2" in slurm("scontrol", "show", "job", number(handle)) or "gpu:2" in slurm(
        "scontrol", "show", "job", "-d", number(handle)
    )
    assert attempt.rank_log(0).read_text() == "0,1\n"


def test_jobs_on_one_node_see_the_gpus_that_slurm_gave_them(tmp_path: Path) -> None:
    script = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(300)"
    launcher, handles, seen = Slurm(nodelist="node1"), [], []
    for folder in ("1", "2"):
        job, attempt = make_job(tmp_path / folder, script, gpus_per_node=1)
        handles.append(launch(launcher, job, attempt))
        log = attempt.rank_log(0)
        wait_until(lambda log=log: log.exists() and log.read_text(), 60, "the rank's line")  # type: ignore[misc]
        seen.append(log.read_text())
    for handle in handles:
        launcher.cancel(handle)
        ended(launcher, handle)
    assert sorted(seen) == ["0\n", "1\n"]


def test_a_setup_script_that_fails_starts_no_agent_and_says_where_to_look(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEP)
    handle = launch(Slurm(setup_script="echo no such module >&2; false"), job, attempt)
    words = ended(Slurm(), handle)
    assert f"exit code 1, its script's output is in {attempt.logs}/slurm.log" in words
    assert "no such module\nsetup_script ended with code 1" in (attempt.logs / "slurm.log").read_text()
    assert not list(attempt.nodes.glob("*.agent.json"))


def test_somebody_elses_scancel_ends_all_ranks(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEPERS, nodes=2)
    handle = launch(Slurm(), job, attempt)
    wait_until(lambda: len(daemons(job)) == 2, 60, "the ranks' daemons")
    slurm("scancel", number(handle))
    assert "was cancelled (CANCELLED)" in ended(Slurm(), handle)
    left = lambda: with_environment("TRAINKIT_RUN_ID", job.run_id) + daemons(job)  # noqa: E731
    wait_until(lambda: not left(), 15, "the end of all processes")  # linuxproc follows parents: daemons need more


def test_ranks_are_asked_before_they_are_killed(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, ASKED, nodes=2)
    launcher = Slurm()
    handle = launch(launcher, job, attempt)
    for rank in range(2):
        wait_until(lambda rank=rank: _text(attempt.rank_log(rank)) == "ready\n", 60, "ranks that listen")  # type: ignore[misc]
    launcher.cancel(handle)
    ended(launcher, handle)
    assert [record["exit_code"] for record in outcome.records_of(attempt)] == [75, 75]


def test_a_time_limit_asks_ranks_to_save_before_it_kills(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, ASKED, nodes=2)
    launcher = Slurm(time=1, signal_seconds=30)
    handle = launch(launcher, job, attempt)
    ended(launcher, handle, 120)
    assert [record["exit_code"] for record in outcome.records_of(attempt)] == [75, 75]


def test_a_job_that_ends_well_is_not_started_again(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, "print('well')", nodes=2)
    launcher = Slurm(requeue=True)
    handle = launch(launcher, job, attempt)
    assert "(COMPLETED)" in ended(launcher, handle)
    assert " Restarts=0 " in slurm("scontrol", "show", "job", "-o", number(handle))


@pytest.mark.parametrize("held", [False, True])
def test_no_earlier_job_of_a_run_is_left_beside_the_next(tmp_path: Path, held: bool) -> None:
    job, attempt = make_job(tmp_path, SLEEP, nodes=2)
    launcher = Slurm(requeue=True)
    earlier = launch(launcher, job, attempt)
    running(attempt, 2)
    if held:
        slurm("scontrol", "requeuehold", number(earlier))
        state = lambda: slurm("squeue", "-h", "-j", number(earlier), "-o", "%T").strip()  # noqa: E731
        wait_until(lambda: state() == "PENDING", 60, "a job that waits to be started again")
    following = AttemptDir(attempt.path.parent / "2")
    for folder in (following.logs, following.ranks, following.nodes):
        folder.mkdir(parents=True)
    following.key.write_bytes(attempt.key.read_bytes())
    again = replace(job, attempt=2)
    publish(following.job, again.to_json())
    handle = launch(launcher, again, following)
    assert "JobState=CANCELLED" in slurm("scontrol", "show", "job", "-o", number(earlier))
    running(following, 2)
    launcher.cancel(handle)
    ended(launcher, handle)


def test_a_forgotten_job_has_ended() -> None:
    words = ended(Slurm(), f"{10**6} - 4 name -")
    assert words == "Slurm job 1000000 is not known to Slurm: it ended long ago, or Slurm has lost it (FORGOTTEN)"


def test_a_command_on_a_node_of_a_running_job(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path, SLEEP, nodes=2)
    launcher = Slurm()
    handle = launch(launcher, job, attempt)
    running(attempt, 2)
    told = [
        slurm("script", "-qec", " ".join((*launcher.shell(handle, node), "hostname")), "/dev/null") for node in (0, 1)
    ]
    names = [re.findall(r"node\d", text) for text in told]  # a terminal may echo more, such as ^@ right before
    assert names == [["node1"], ["node2"]]
    launcher.cancel(handle)
    ended(launcher, handle)


def test_slurm_is_asked_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, stub = tmp_path / "calls", tmp_path / "bin" / "squeue"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho >>{calls}\nexec /usr/bin/squeue "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    job, attempt = make_job(tmp_path / "run", SLEEP)
    launcher = Slurm()
    handle = launch(launcher, job, attempt)
    calls.write_text("")  # starting a job asks too
    begun = time.monotonic()
    for _ in range(2000):
        launcher.poll(handle)
    assert 1 <= calls.read_text().count("\n") <= 1 + time.monotonic() - begun
    launcher.cancel(handle)
    ended(launcher, handle)


@pytest.mark.skipif(os.getuid() != 0, reason="stops and starts the controller")
def test_while_the_controller_is_down_nothing_is_known_to_change(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path / "run", SLEEP)
    launcher = Slurm()
    handle = launch(launcher, job, attempt)
    wait_until(
        lambda: launcher.poll(handle).phase == "running" and "on node" in launcher.poll(handle).words, 30, "start"
    )
    subprocess.run(["scontrol", "shutdown", "slurmctld"], check=True)
    try:
        wait_until(lambda: "(Slurm does not answer: " in launcher.poll(handle).words, 120, "silence")
        assert launcher.poll(handle).phase == "running"
        other, _ = make_job(tmp_path / "other", SLEEP)
        with pytest.raises(LaunchError, match="Unable to contact slurm controller.*Try again later") as raised:
            launcher.start(other)
        assert raised.value.transient
    finally:
        subprocess.run(
            ["/usr/sbin/slurmctld"], check=True, env={"PATH": "/usr/bin:/usr/sbin"}
        )  # no process of the test
    wait_until(lambda: "does not answer" not in launcher.poll(handle).words, 60, "an answer")
    launcher.cancel(handle)
    ended(launcher, handle)
