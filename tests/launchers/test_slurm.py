"""What the Slurm launcher writes and reads, without a cluster: its answers are texts of Slurm 19.05 to 25.11."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot import processes
from trainkit.boot.rundir import RunDir, make_private, publish
from trainkit.errors import LaunchError, UnsupportedJob, UserErrorException
from trainkit.job import Job, Status
from trainkit.options import launcher_of, options_of
from trainkit.testing import wait_until
from trainkit_launchers import slurmcalls
from trainkit_launchers import slurmroom as room
from trainkit_launchers import slurmstates as states
from trainkit_launchers import slurmtext as text
from trainkit_launchers.slurm import Slurm

JOB = Job("birds_17", "birds", "/home/me/my runs/r", 3, "/opt/py/bin/python", "train.py", nodes=2, ranks_per_node=4)

PENDING = "PENDING|1795338597|1795334997|N/A||Resources"
RUNNING = "RUNNING|1795334997|1795334997|1795335597|node[1-2]|None"
ENDED_22 = (
    "JobId=3 JobName=test.jcf UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901757 Nice=0 Account=root "
    "QOS=normal JobState=TIMEOUT Reason=TimeLimit Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 "
    "ExitCode=0:15 RunTime=00:01:12 TimeLimit=00:01:00 TimeMin=N/A SubmitTime=1674340908 EligibleTime=1674340908 "
    "AccrueTime=1674340908 StartTime=1674340908 EndTime=1674340980 Deadline=N/A SuspendTime=None SecsPreSuspend=0 "
    "LastSchedEval=1674340908 Scheduler=Main Partition=all AllocNode:Sid=ac2c384f02af:204 ReqNodeList=(null) "
    "ExcNodeList=(null) NodeList=node01 BatchHost=node01 NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 "
    "ReqB:S:C:T=0:0:*:* TRES=cpu=1,node=1,billing=1 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=* MinCPUsNode=1 "
    "MinMemoryNode=0 MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 OverSubscribe=OK Contiguous=0 "
    "Licenses=(null) Network=(null) Command=/root/test.jcf WorkDir=/root StdErr=/root/slurm-3.out StdIn=/dev/null "
    "StdOut=/root/slurm-3.out Power= MailUser=root MailType=BEGIN,END,FAIL"
)
FAILED_22 = (
    "JobId=21 JobName=s.sh UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901741 Nice=0 Account=(null) "
    "QOS=(null) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 "
    "ExitCode=7:0 RunTime=00:00:02 TimeLimit=UNLIMITED TimeMin=N/A SubmitTime=1795334997 EligibleTime=1795334997 "
    "AccrueTime=1795334997 StartTime=1795334997 EndTime=1795334999 Deadline=N/A Partition=debug NodeList=node[1-2] "
    "BatchHost=node1 NumNodes=2 Command=/w/s.sh WorkDir=/w StdErr=/w/slurm-21.out StdOut=/w/slurm-21.out Power="
)
PREEMPTED_25 = (
    "JobId=121 JobName=p UserId=me(1000) GroupId=me(1000) MCS_label=N/A Priority=1 Nice=0 Account=a QOS=normal "
    "JobState=PREEMPTED Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 ExitCode=0:15 "
    "SubmitTime=1795334000 StartTime=1795334001 EndTime=1795334990 NodeList=n1 NumNodes=1 StdOut=/w/o"
)
PARTITIONS_19 = (
    "PartitionName=gputest AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A "
    "DefaultTime=00:05:00 DisableRootJobs=YES ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=2 MaxTime=00:15:00 "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=r01g01,r02g01 PriorityJobFactor=50 PriorityTier=1 RootOnly=NO "
    "ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=80 TotalNodes=2 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED\n"
    "PartitionName=gpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=gputres_accrue "
    "DefaultTime=00:10:00 DisableRootJobs=YES ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=20 MaxTime=3-00:00:00 "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=r01g[02-08],r02g[02-08] PriorityJobFactor=10 PriorityTier=1 "
    "RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=3120 TotalNodes=78 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED\n"
)
PARTITIONS_22 = (
    "PartitionName=debug AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A "
    "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=node[1-3] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO "
    "ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=6 TotalNodes=3 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED "
    "TRES=cpu=6,mem=12000M,node=3,billing=6\n"
    "PartitionName=shut AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A "
    "MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 Nodes=node1 State=DOWN TotalCPUs=2 TotalNodes=1\n"
)


def words_of(launcher: Slurm, job: Job = JOB) -> list[str]:
    """The words of the one srun in the batch script, as bash reads them."""
    line = launcher.script(job).split("\nsrun ")[1].split("\ncode=")[0].replace("\\\n", "")
    return shlex.split(line)


# --- what is written


def test_the_options_are_those_that_were_asked_for() -> None:
    launcher = Slurm(partition="gpu", account="p1", qos="long", time="1-12", gpus_per_node="a100:4", cpus_per_rank=8,
                     memory="64G", constraint="a100&nvme", exclude="n[1-2]", reservation="r", comment="a b",
                     signal_seconds=120, requeue=True, extra=("--exclusive", "--mail-type=END"))  # fmt: skip
    assert text.options(launcher, JOB) == [
        "--job-name=birds_17.3", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--partition=gpu",
        "--account=p1", "--qos=long", "--time=1-12", "--mem=64G", "--constraint=a100&nvme", "--comment=a b",
        "--exclude=n[1-2]", "--reservation=r", "--gpus-per-node=a100:4", "--signal=TERM@120", "--requeue",
        "--chdir=/home/me/my runs/r", "--output=/home/me/my runs/r/attempts/3/logs/slurm.log", "--open-mode=append",
        "--export=ALL", "--exclusive", "--mail-type=END",
    ]  # fmt: skip


def test_without_wishes_only_the_size_is_asked_for() -> None:
    assert text.options(Slurm(), JOB)[:5] == [
        "--job-name=birds_17.3", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4", "--no-requeue",
    ]  # fmt: skip


def test_a_job_of_gpu_ranks_asks_for_its_gpus() -> None:
    assert "--gpus-per-node=4" in text.options(Slurm(), dataclasses.replace(JOB, gpus_per_node=4))
    options = text.options(Slurm(gres="gpu:a100:4"), dataclasses.replace(JOB, gpus_per_node=4))
    assert "--gres=gpu:a100:4" in options and not [o for o in options if o.startswith("--gpus-per-node")]


def test_one_agent_a_node_in_the_foreground_with_an_absolute_interpreter() -> None:
    words = words_of(Slurm())
    assert words[:3] == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert "--kill-on-bad-exit=0" in words and "--mpi=none" in words
    assert words[-8:] == [
        "/opt/py/bin/python", "-m", "trainkit.boot.agent", "/home/me/my runs/r", "$attempt", "SLURM_NODEID", "network",
        "restarts",
    ]  # fmt: skip


def test_an_interpreter_without_trainkit_runs_the_boot_zip() -> None:
    words = words_of(Slurm(), dataclasses.replace(JOB, boot="/root of/boot.zip"))
    assert words[-8:-5] == ["/opt/py/bin/python", "/root of/boot.zip", "agent"]


def test_the_script_is_valid_shell_whatever_the_folder_is_called() -> None:
    for folder in ("/a b", "/it's", "/$HOME/`x`", "/%j/%%", "/ümläut", '/"'):
        script = Slurm(requeue=True).script(dataclasses.replace(JOB, run_dir=folder))
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
        assert folder in words_of(Slurm(), dataclasses.replace(JOB, run_dir=folder))
    assert "--output=/%%j/x/attempts" in text.options(Slurm(), dataclasses.replace(JOB, run_dir="/%j/x"))[-3][:25]


def test_the_setup_is_the_sites_own_shell_word_for_word() -> None:
    site = 'module purge\nmodule load "cuda/12" # it\'s\n'
    assert f"# --- setup_script\n{site}setup=$?" in Slurm(setup_script=site).script(JOB)
    assert ". '/site/it'\"'\"'s.sh'\n" in Slurm(setup_script="/site/it's.sh").script(JOB)
    assert "setup" not in Slurm().script(JOB)


def test_the_users_environment_is_in_no_word() -> None:
    job = dataclasses.replace(JOB, environment={"WANDB_NAME": "mine"})
    assert "mine" not in Slurm().dry_run(job)


def test_a_job_that_is_started_again_makes_another_attempt() -> None:
    script = Slurm(requeue=True).script(JOB)
    assert "attempt=3\nif [ ${SLURM_RESTART_COUNT:-0} -gt 0 ]" in script
    assert 'scontrol requeue "$SLURM_JOB_ID"' in script
    assert "scontrol requeue" not in Slurm().script(JOB)


def asks_again(tmp_path: Path, agents: str, number: int, folder: str = "run") -> str:
    """What a requeued job's script calls scontrol with, once its agents have done that and ended badly."""
    for program, does in (
        ("srun", f"{agents}; exit 7"),
        ("scontrol", f'echo "$@" >>"{tmp_path}/calls"'),
        ("sleep", ""),
    ):
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    script = Slurm(requeue=True).script(dataclasses.replace(JOB, run_dir=str(tmp_path / folder)))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(number - JOB.attempt)}
    assert subprocess.run(["bash", "-s"], input=script, text=True, env=env).returncode == 7
    return (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""


SAVED, ASKED = {"exit_code": 75}, {"reason": "canceled"}


@pytest.mark.parametrize(
    ("record", "end", "attempt", "again"),
    [
        (SAVED, ASKED, 4, True),
        (SAVED, {"reason": ""}, 4, False),  # it ended so by itself
        (SAVED, {"reason": "a rank failed"}, 4, False),  # another one, which is why this one was asked to end
        (SAVED, {"reason": "time limit of 1 s"}, 4, False),
        ({"exit_code": 0}, ASKED, 4, False),
        ({"exit_code": 1}, {"reason": "node 1 (n2) was lost", "lost": {"node": 1, "name": "n2"}}, 4, True),
        ({"exit_code": 1}, {"reason": "", "lost": {}}, 4, False),
        (SAVED, ASKED, 3, False),  # not what is left of the attempt before
    ],
)
@pytest.mark.parametrize("cancelled", [False, True])
def test_the_script_asks_to_be_started_again_only_where_that_can_help(
    tmp_path: Path, record: dict[str, Any], end: dict[str, Any], attempt: int, again: bool, cancelled: bool
) -> None:
    """Slurm's own time limit, and a preemption, reach the agents as a signal: they write "canceled"."""
    run = RunDir(tmp_path / "a $run")
    make_private(run.attempt(3).path)
    if cancelled:
        run.cancel.write_text("{}")
    publish(tmp_path / "record", {"rank": 0, **record, "signal": None})
    publish(tmp_path / "end", {"node": 1, "problem": "", **end, "hung": ""})
    of = run.attempt(attempt)
    agents = "".join(
        f"mkdir -p '{path.parent}'; cp '{tmp_path / source}' '{path}'; "
        for source, path in (("record", of.rank_record(0)), ("end", of.agent_end(1)))
    )
    assert asks_again(tmp_path, agents + "true", 4, "a $run") == ("requeue 12\n" if again and not cancelled else "")


@pytest.mark.parametrize(
    ("first", "restarts", "limit", "again"),
    [(1, 0, 0, True), (1, 9, 0, True), (1, 0, 2, True), (1, 1, 2, True), (1, 2, 2, False), (2, 1, 2, False)],
)
def test_a_job_that_loses_nodes_is_started_again_as_often_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, restarts: int, limit: int, again: bool
) -> None:
    job = dataclasses.replace(JOB, run_dir=str(tmp_path / "run"), attempt=first, max_restarts=limit)
    (tmp_path / f"run/attempts/{first + restarts - 1}").mkdir(parents=True)
    nodes = tmp_path / f"run/attempts/{first + restarts}/nodes"
    agents = f"""mkdir -p {nodes}; echo '{{"lost": {{"node": 1, "name": "n2"}}}}' >{nodes}/0.end.json; exit 7"""
    told = f'if [ $1 = show ]; then echo "JobId=12 Restarts={restarts} x=1"; else echo "$@" >>"{tmp_path}/calls"; fi'
    for program, does in (("srun", agents), ("scontrol", told), ("sleep", ":")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts)}
    launcher = Slurm(requeue=True)
    subprocess.run(["bash", "-s"], input=launcher.script(job), text=True, env=env, timeout=30)
    asked = (tmp_path / "calls").exists()
    monkeypatch.setenv("PATH", env["PATH"])
    assert (asked, launcher.again(str(text.submitted("12", job)))) == (again, again)


@pytest.mark.parametrize(
    ("attempt", "shown", "cancelled"),
    [
        (1, "", []),
        (1, "12|PENDING", ["12"]),
        (3, "", []),
        (3, "11|COMPLETED\n12|FAILED", []),
        (3, "11|COMPLETED\n12|PENDING", ["12"]),
        (3, "11|NODE_FAIL\n12|RUNNING", ["11", "12"]),
        (3, "12|COMPLETING", ["12"]),
    ],
)
def test_no_earlier_job_of_a_run_is_left_beside_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: int, shown: str, cancelled: list[str]
) -> None:
    (tmp_path / "shown").write_text(shown)
    for program, does in (
        ("squeue", 'cat "$(dirname $0)/shown"; echo "$@" >>"$(dirname $0)/asked"'),
        ("scontrol", 'echo "$@" >>"$(dirname $0)/updated"'),
        ("scancel", 'cd "$(dirname $0)"; echo $1 >>cancelled; sed -i "s/^$1|[PR].*ING$/$1|CANCELLED/" shown'),
    ):
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    slurmcalls.end_earlier(dataclasses.replace(JOB, attempt=attempt), ["--exclusive", "--clusters=east"])

    def lines(name: str) -> list[str]:
        return (tmp_path / name).read_text().splitlines() if (tmp_path / name).exists() else []

    assert lines("cancelled") == cancelled
    assert lines("updated") == [f"update jobid={number} requeue=0 --clusters=east" for number in cancelled]
    names = ",".join(f"birds_17.{number}" for number in range(1, attempt + 1))  # its own too: an answer may be lost
    assert lines("asked") and all(f"--name={names} " in line for line in lines("asked"))


def test_while_slurm_does_not_answer_no_next_job_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'squeue: error: Unable to contact slurm controller' >&2; exit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LaunchError, match="Unable to contact slurm controller") as raised:
        Slurm().start(JOB)
    assert raised.value.transient


@pytest.mark.parametrize("said", ["echo 'sbatch: error: Socket timed out' >&2; exit 1", "echo accepted"])
@pytest.mark.parametrize(("extra", "where"), [((), ""), (("--exclusive", "--clusters=east"), " --clusters=east")])
def test_a_job_that_may_have_been_accepted_is_ended_where_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, extra: tuple[str, ...], where: str
) -> None:
    for program, does in (("sbatch", said), ("scancel", f"echo \"$@\" >>'{tmp_path}/cancelled'")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LaunchError):
        slurmcalls.submit(Slurm(extra=extra)._command(JOB), JOB)
    assert (tmp_path / "cancelled").read_text() == f"--jobname=birds_17.3{where}\n"


def test_a_job_that_waits_in_an_allocation_leaves_no_srun_when_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = FAILED_22.replace("JobState=FAILED", "JobState=RUNNING")
    waits = f"sleep 300 & echo $! >'{tmp_path}/child'; wait"
    for program, does in (("scontrol", f"echo '{shown}'"), ("squeue", ":"), ("srun", waits)):
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("MARK_OF_THE_TEST", str(tmp_path))
    job = dataclasses.replace(JOB, run_dir=str(tmp_path / "run"))
    (tmp_path / "run/attempts/3/logs").mkdir(parents=True)
    launcher = Slurm(allocation="21")

    def left() -> int:
        pids = processes.with_environment("MARK_OF_THE_TEST", str(tmp_path))
        return len([pid for pid in pids if processes.state_of(pid) not in "ZX"])

    handle = launcher.start(job)
    try:
        wait_until(lambda: (tmp_path / "child").exists() and left() == 3, 20, "a shell, its srun and what that runs")
        boot, pid, birth = text.Handle.parse(handle).process.split(":")
        slurmcalls.end_shell(f"{boot}:{pid}:{int(birth) + 1}")
        assert launcher.poll(handle).phase == "queued" and left() == 3  # another process had this number
        launcher.cancel(handle)
        wait_until(lambda: left() == 0, 20, "the end of all three")
        assert launcher.poll(handle).phase == "ended"
    finally:
        processes.sweep("MARK_OF_THE_TEST", str(tmp_path))


def test_a_dry_run_shows_everything() -> None:
    shown = Slurm(partition="gpu", queue_timeout_seconds=600).dry_run(JOB)
    assert shown.startswith("sbatch --parsable --job-name=birds_17.3 --nodes=2")
    assert Slurm().script(JOB) in shown
    assert "2 free node(s) of the partition gpu for it; given up after 600 s in the queue." in shown
    assert "in the allocation 12" in Slurm(allocation="12").dry_run(JOB)


def test_a_shell_opens_on_the_nodes_own_place_in_the_allocation() -> None:
    words = Slurm().shell(str(text.Handle("12", "east", 4, "birds_17.3")), 1)
    assert words[:5] == ("srun", "--clusters=east", "--jobid=12", "--overlap", "--relative=1") and words[-1] == "--pty"


@pytest.mark.parametrize(
    "handle",
    [text.Handle("12", "", 0, "r.1"), text.Handle("12", "east", 60, "r.1"), text.Handle("1", "", 4, "r.1", "b:1:2"),
     text.Handle("1", "", 4, "r.1", "", 3)],
)  # fmt: skip
def test_a_handle_is_a_text_and_back(handle: text.Handle) -> None:
    assert text.Handle.parse(str(handle)) == handle
    assert text.Handle.parse("12 - 4 r.1 -") == text.Handle("12", "", 4, "r.1")


def test_what_sbatch_answers() -> None:
    assert text.submitted("4711\n", JOB) == text.Handle("4711", "", 4, "birds_17.3")
    assert text.submitted("A message of the day\n4711;east\n", JOB).cluster == "east"
    with pytest.raises(LaunchError, match="did not say the job's number"):
        text.submitted("Submitted!\n", JOB)


def test_an_outer_jobs_variables_are_kept_from_slurm() -> None:
    outer = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "9", "SBATCH_ARRAY_INX": "1-9", "SQUEUE_PARTITION": "x",
             "SLURM_CONF": "/etc/x", "SBATCH_ACCOUNT": "p1", "PATH": "/bin"}  # fmt: skip
    assert text.environment(outer) == {"SLURM_CONF": "/etc/x", "SBATCH_ACCOUNT": "p1", "PATH": "/bin"}


# --- what is refused


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"partition": "a\n#SBATCH --uid=0"}, "partition"),
        ({"partition": "--uid=0"}, "partition"),
        ({"account": "a b"}, "account"),
        ({"nodelist": "$(reboot)"}, "nodelist"),
        ({"time": "soon"}, "time is 'soon'"),
        ({"time": "1:2:3:4"}, "time"),
        ({"gpus_per_node": "many"}, "gpus_per_node"),
        ({"gpus_per_node": -1}, "gpus_per_node"),
        ({"gpus_per_node": 2, "gres": "gpu:2"}, "give one of them"),
        ({"cpus_per_rank": -1}, "cpus_per_rank"),
        ({"signal_seconds": 70000}, "at most 65535"),
        ({"queue_timeout_seconds": -5}, "queue_timeout_seconds"),
        ({"comment": "a\nb"}, "comment"),
        ({"allocation": "x"}, "allocation"),
        ({"inside": True, "requeue": True}, "requeue asks for a new allocation"),
        ({"extra": ("-p", "gpu")}, "has not the form"),
        ({"extra": ("--mail-user=a\nb",)}, "has not the form"),
        ({"extra": ("--nodes=9",)}, "--nodes is set by the launcher"),
        ({"extra": ("--wrap=reboot",)}, "--wrap is set by the launcher"),
    ],
)
def test_values_that_slurm_could_misread_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        Slurm(**values)


def test_a_launcher_survives_its_record() -> None:
    launcher = Slurm(partition="gpu", time=90, gpus_per_node="a100:4", extra=("--exclusive",), setup_script="x\ny\n")
    assert launcher_of("slurm", options_of(launcher)) == launcher


def test_jobs_that_contradict_the_launcher_are_refused() -> None:
    with pytest.raises(UnsupportedJob, match="uses 4 GPUs on each node, and the launcher asks Slurm for 2"):
        text.check_job(Slurm(gpus_per_node="a100:2"), dataclasses.replace(JOB, gpus_per_node=4))
    with pytest.raises(UnsupportedJob, match="give at least 65"):
        text.check_job(Slurm(signal_seconds=60), dataclasses.replace(JOB, grace_seconds=60))
    with pytest.raises(UnsupportedJob, match="shared=True"):
        text.check_job(Slurm(), dataclasses.replace(JOB, shared=False))


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:30", 90.5), ("1:30:00", 90), ("2-0", 2880), ("1-12:30", 2190), ("3-00:00:00", 4320),
     ("UNLIMITED", float("inf"))],
)  # fmt: skip
def test_times_as_slurm_writes_them(time: str, minutes: float) -> None:
    assert text.minutes(time) == minutes


def test_more_nodes_than_a_partition_has_or_allows() -> None:
    known = room.partitions(PARTITIONS_19)
    with pytest.raises(LaunchError, match=r"gpu has, or allows, 20;.* gputest \(2 nodes, 15 min\)") as raised:
        room.check_partition("gpu", "", dataclasses.replace(JOB, nodes=21), known)
    assert raised.value.available == 20
    room.check_partition("gputest,gpu", "", dataclasses.replace(JOB, nodes=20), known)
    room.check_partition("", "", dataclasses.replace(JOB, nodes=3), room.partitions(PARTITIONS_22))
    with pytest.raises(LaunchError, match="the partition debug has, or allows, 3"):
        room.check_partition("", "", dataclasses.replace(JOB, nodes=4), room.partitions(PARTITIONS_22))


@pytest.mark.parametrize(
    ("partition", "time", "words"),
    [
        ("nope", "", r"no partition nope; it has gputest \(2 nodes, 15 min\), gpu \(20 nodes, 4320 min\)"),
        ("gputest", "20", "time=20 is above the limit of the partition gputest, 15 minutes"),
        ("", "", "no default partition"),
    ],
)
def test_partitions_that_cannot_take_the_job(partition: str, time: str, words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        room.check_partition(partition, time, JOB, room.partitions(PARTITIONS_19))


def test_a_partition_that_is_down_may_come_back() -> None:
    with pytest.raises(LaunchError, match="shut is DOWN") as raised:
        room.check_partition("shut", "", JOB, room.partitions(PARTITIONS_22))
    assert raised.value.transient


def test_a_job_that_may_shrink_is_told_how_many_nodes_are_in_order() -> None:
    listed = "n1|idle\nn2|mixed\nn3|down*\nn4|drained\nn5|idle*\nn6|allocated\nn1|idle\n"
    assert room.usable(listed) == 3
    with pytest.raises(LaunchError) as raised:
        room.check_usable(dataclasses.replace(JOB, nodes=4, min_nodes=2), 3)
    assert (raised.value.available, raised.value.transient) == (3, True)
    room.check_usable(dataclasses.replace(JOB, nodes=4), 3)


@pytest.mark.parametrize(
    ("output", "words", "transient"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n",
            "Invalid account .* Change the launcher's account: `sacctmgr show assoc", False,
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification\n", "launcher's qos", False),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not available\n",
            "can not be satisfied; Batch job .* launcher's memory", False,
        ),
        ("sbatch: error: Invalid generic resource (gres) specification\n", "launcher's gpus_per_node or gres", False),
        ("sbatch: unrecognized option '--foo=bar'\nTry \"sbatch --help\" for more information\n",
         "unrecognized option '--foo=bar'. Change the launcher's extra", False),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n",
            "Unable to contact slurm controller .* Try again later", True,
        ),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, "
         "user's size and/or time limits)\n", "a limit of the account or QoS is reached", False),
    ],
)  # fmt: skip
def test_a_refusal_has_slurms_words_and_the_remedy(output: str, words: str, transient: bool) -> None:
    error = room.refused(("sbatch", "x"), output)
    assert error.transient is transient
    with pytest.raises(LaunchError, match=words):
        raise error
    assert "sbatch: error" not in error.message and error.output == output


def test_an_allocation_that_is_too_small_or_gone() -> None:
    shown = FAILED_22.replace("JobState=FAILED", "JobState=RUNNING")
    room.check_allocation(JOB, "21", states.details(shown), shown)
    with pytest.raises(LaunchError, match=r"The allocation 21 has 2 node\(s\) .*needs 3") as raised:
        room.check_allocation(dataclasses.replace(JOB, nodes=3), "21", states.details(shown), shown)
    assert raised.value.available == 2
    with pytest.raises(LaunchError, match="is failed; hold one with `salloc -N 2`"):
        room.check_allocation(JOB, "21", states.details(FAILED_22), FAILED_22)
    with pytest.raises(LaunchError, match="unknown to Slurm"):
        room.check_allocation(JOB, "9", None, "slurm_load_jobs error: Invalid job id specified")


# --- what is read


def status(line: str, now: float = 1795335000.0, requeue: bool = False) -> Status:
    found = states.entry(line)
    assert found is not None
    return states.status("12", found, now, requeue)


def test_a_running_job() -> None:
    assert status(RUNNING) == Status("running", "Slurm job 12 is running on node[1-2]")


def test_a_waiting_job_says_why_and_when() -> None:
    told = status(PENDING)
    assert told.phase == "queued"
    assert told.words.startswith("Slurm job 12 waits for nodes to become free (Resources); expected to start at 2026-")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "waits behind jobs of higher priority (Priority)"),
        ("None", "has not been looked at yet"),
        ("JobHeldUser", "is held: `scontrol release` lets it go (JobHeldUser)"),
        ("BeginTime", "may not start yet (BeginTime)"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]",
         "waits for nodes that are down, drained or reserved (ReqNodeNotAvail, UnavailableNodes:n[1-2])"),
        ("SomethingOf2031", "waits (SomethingOf2031)"),
        ("PartitionNodeLimit", "can never start: its partition does not have, or allow, so many nodes "
                               "(PartitionNodeLimit). Cancel it"),
        ("PartitionTimeLimit", "can never start: its time is above the partition's limit (PartitionTimeLimit)"),
        ("PartitionConfig", "can never start: no node of its partition is as large as asked"),
        ("QOSMaxWallDurationPerJobLimit", "can never start: a limit of its account or QoS"),
        ("AssocMaxNodePerJobLimit", "can never start: a limit of its account or QoS"),
        ("DependencyNeverSatisfied", "can never start: the job that it waits for has failed"),
    ],
)  # fmt: skip
def test_every_reason_is_told(reason: str, words: str) -> None:
    told = status(f"PENDING|N/A|1795334997|N/A||{reason}")
    assert told.phase == "queued" and told.words.startswith(f"Slurm job 12 {words}")


@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "SPECIAL_EXIT"])
def test_what_is_to_be_started_is_queued(state: str) -> None:
    assert status(f"{state}|N/A|1795334997|N/A||None").phase == "queued"


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STATE_OF_2031"])
def test_what_lives_is_running(state: str) -> None:
    assert status(f"{state}|1795334997|1795334997|N/A|node1|None").phase == "running"


@pytest.mark.parametrize(
    ("state", "words"),
    [("COMPLETED", "ended"), ("FAILED", "ended"), ("TIMEOUT", "was ended at its time limit"),
     ("OUT_OF_MEMORY", "used more memory"), ("CANCELLED", "was cancelled"), ("NODE_FAIL", "lost a node"),
     ("PREEMPTED", "was preempted"), ("DEADLINE", "deadline"), ("BOOT_FAIL", "did not start up")],
)  # fmt: skip
def test_what_has_ended_says_how(state: str, words: str) -> None:
    told = status(f"{state}|1795334997|1795334997|1795334999|node1|None")
    assert told.phase == "ended" and words in told.words and f"({state})" in told.words


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_a_job_that_asked_for_requeue_has_not_ended_when_it_loses_its_nodes(state: str) -> None:
    line = f"{state}|1795334997|1795334997|1795334999|node1|None"
    assert status(line, requeue=True).phase == "queued"
    assert status(line, requeue=True, now=1795335999.0).phase == "ended"  # Slurm has not done so
    assert status(line).phase == "ended"
    found = states.entry(line)
    assert found is not None and found.may_return


def test_a_node_that_does_not_answer_keeps_no_job_alive_for_ever() -> None:
    line = "COMPLETING|1795334997|1795334997|1795334999|node[1-2]|None"
    assert status(line).phase == "running"
    assert status(line, now=1795335099.0) == Status(
        "ended", "Slurm job 12 ended, but a node of node[1-2] does not answer (COMPLETING)"
    )
    assert status(line, now=1795335099.0, requeue=True).phase == "running"


def test_a_job_whose_nodes_clean_up_before_it_starts_again_waits() -> None:
    line = "COMPLETING|1795334997|1795334997|NONE|node[1-2]|None"
    assert status(line, now=1795339999.0, requeue=True).phase == "queued"


def test_squeue_that_shows_nothing() -> None:
    assert states.entry("") is None
    assert states.entry("slurm_load_jobs error: Invalid job id specified\n") is None
    assert states.forgotten("slurm_load_jobs error: Invalid job id specified\n")
    assert not states.forgotten("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")


@pytest.mark.parametrize(
    ("shown", "state", "words"),
    [
        (ENDED_22, "TIMEOUT", "TimeLimit=00:01:00"),
        (FAILED_22, "FAILED", "exit code 7, its script's output is in /w/slurm-21.out"),
        (PREEMPTED_25, "PREEMPTED", ""),
        (FAILED_22.replace("7:0", "0:9"), "FAILED", "signal 9, its script's output is in /w/slurm-21.out"),
        (FAILED_22.replace("NonZeroExitCode", "RaisedSignal:53(Real-time_signal_19)").replace("7:0", "0:53"), "FAILED",
         "signal 53, RaisedSignal:53(Real-time_signal_19), its script's output is in /w/slurm-21.out"),
    ],
)  # fmt: skip
def test_scontrol_says_how_a_job_ended(shown: str, state: str, words: str) -> None:
    found = states.details(shown)
    assert found is not None and (found.state, found.words) == (state, words)
    assert states.details("slurm_load_jobs error: Invalid job id specified") is None


NO_LAUNCH_22 = (
    "module loaded\n"
    "srun: error: Task launch for StepId=12.0 failed on node node2: Communication connection failure\n"
    "srun: error: Application launch failed: Communication connection failure\nsrun: Job step aborted\n"
)
REQUEUED_22 = "slurmstepd-node1: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-22T10:00:00 DUE TO JOB REQUEUE ***\n"


def test_why_srun_could_not_launch_is_told_first() -> None:
    found = states.details(FAILED_22.replace("7:0", "233:0"))
    assert found is not None and found.output == "/w/slurm-21.out"
    told = states.status("12", states.explained(found, NO_LAUNCH_22), now=1795334999.0, requeue=False)
    assert told.words.startswith(
        "Slurm job 12 ended (FAILED): srun: Task launch for StepId=12.0 failed on node node2: Communication connection "
        "failure; exit code 233, its script's output is in "
    )
    assert states.explained(found, NO_LAUNCH_22 + REQUEUED_22) == found  # an earlier start's affair
    assert states.explained(found, "no words of srun's") == found


@pytest.mark.parametrize(
    ("output", "state", "words"),
    [
        ("COMPLETED|0:0|1795334999|node[1-2]\n", "COMPLETED", ""),
        ("CANCELLED by 1000|0:15|1795334999|node1\n", "CANCELLED", "by uid 1000"),
        ("NODE_FAIL|0:0|1795330000|n1\nFAILED|7:0|1795334999|n2\n", "FAILED", "exit code 7"),
        ("OUT_OF_MEMORY|0:125|1795334999|n1\n", "OUT_OF_MEMORY", ""),
    ],
)
def test_sacct_knows_what_the_controller_has_forgotten(output: str, state: str, words: str) -> None:
    found = states.account(output)
    assert found is not None and (found.state, found.words, found.end) == (state, words, 1795334999.0)


def test_sacct_that_keeps_no_accounts() -> None:
    assert states.account("") is None
    assert states.account("Slurm accounting storage is disabled\n") is None


def test_a_job_that_waits_too_long_is_given_up_with_the_reason() -> None:
    found = states.entry(PENDING)
    assert found is not None
    assert states.waited_too_long("12", found, 1795334997 + 600, 600) is None
    assert states.waited_too_long("12", found, 1795334997 + 6000, 0) is None
    late = states.waited_too_long("12", found, 1795334997 + 601, 600)
    assert late is not None and late.phase == "ended"
    assert "longer than queue_timeout_seconds=600 and was cancelled: it waits for nodes to become free" in late.words
    running = states.entry(RUNNING)
    assert running is not None and states.waited_too_long("12", running, 1795339999, 600) is None


def test_a_controller_that_does_not_answer_changes_nothing() -> None:
    words = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    last = Status("queued", "Slurm job 12 waits")
    once = states.unreachable(last, words)
    assert once.phase == "queued" and once.words.startswith("Slurm job 12 waits (Slurm does not answer: slurm_load")
    assert states.unreachable(once, words) == once


def test_the_steps_of_an_allocation() -> None:
    listed = "18.0|abc.1\n18.1|birds_17.3\n18.batch|batch\n18.interactive|interactive\n"
    assert states.step(listed, "birds_17.3") == "18.1"
    assert states.step("", "birds_17.3") == ""
    assert states.inside("18", "18.1", True).phase == "running"
    assert states.inside("18", "", True).phase == "queued"
    assert states.inside("18", "", False).phase == "ended"
