"""Slurm's commands, called: short acts between `slurmtext`, which writes, and `slurmstates`, which reads.

Starts squeue, scontrol, sinfo, sacct and scancel, each with a time limit, and never raises for one that fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from trainkit.boot import processes
from trainkit.errors import LaunchError
from trainkit.job import Job, Status

from . import slurmroom as room
from . import slurmstates as states
from .slurmtext import Handle, environment, name_of, submitted

_CALL_SECONDS = 30.0
_ASK_SECONDS = 8.0  # for what is asked again and again: whoever watches the job has more to look at
_GONE_SECONDS = 10.0  # for an earlier job's nodes to clean up
_PAUSE_SECONDS = 0.2
_PRINTED_BYTES = 1 << 16
_EVERY_SECONDS = 1.0, 5.0  # between two questions about a job: soon, and when it has been watched for minutes


@dataclass
class Watched:
    """What this process knows of a job that it watches: Slurm is not asked each time that somebody polls."""

    status: Status = Status("running", "Slurm has not been asked yet")
    since: float = field(default_factory=time.monotonic)
    asked: float = float("-inf")
    cancelled: float = float("inf")

    def due(self) -> bool:
        """Whether it is time to ask Slurm again; if so, this is taken for the time at which it was asked."""
        now = time.monotonic()
        pause = min(_EVERY_SECONDS[1], max(_EVERY_SECONDS[0], (now - self.since) / 60))
        if self.status.phase == "ended" or now - self.asked < pause:
            return False
        self.asked = now
        return True

    def cancelled_for(self) -> float:
        """For how many seconds it has been asked to end; the first call begins that."""
        now = time.monotonic()
        self.asked, self.cancelled = float("-inf"), min(self.cancelled, now)
        return now - self.cancelled


watched: dict[str, Watched] = {}


def call(*command: str, times: bool = True, seconds: float = _CALL_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; one that is missing, or does not answer, has the code 255 and says so."""
    env = environment(os.environ)
    if times:
        env["SLURM_TIME_FORMAT"] = "%s"
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, env=env,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        words = f"{command[0]} is not on PATH here: submit from a machine of the cluster, or add Slurm's folder to PATH"
    except OSError as error:
        words = f"{command[0]}: {error}"
    except subprocess.TimeoutExpired:
        words = f"{command[0]} has not answered within {seconds:g} s (timed out)"
    return subprocess.CompletedProcess(command, 255, "", words)


def _clusters(extra: Sequence[str]) -> list[str]:
    """Of sbatch's options those that other commands need to find its job."""
    return [option for option in extra if option.startswith("--clusters")]


def check_room(partition: str, limit: str, job: Job, extra: Sequence[str]) -> None:
    """Refuse what sbatch would accept and Slurm never start, unless another cluster has it. Raises LaunchError."""
    if _clusters(extra):
        return
    command = ("scontrol", "show", "partition", "-o")
    known = call(*command)
    if known.returncode:
        raise room.refused(command, known.stderr)
    room.check_partition(partition, limit, job, room.partitions(known.stdout))
    if job.min_nodes:
        chosen = [f"--partition={partition}"] if partition else []
        room.check_usable(job, room.usable(call("sinfo", "-h", "-N", "-o", "%N|%T", *chosen).stdout))


def check_allocation(number: str, job: Job) -> None:
    """Refuse to run in an allocation that has ended or is too small. Raises LaunchError."""
    shown = call("scontrol", "show", "job", "-o", number)
    room.check_allocation(job, number, states.details(shown.stdout), shown.stdout + shown.stderr)


def find(job: Handle) -> tuple[states.Entry | None, str]:
    """The job as Slurm tells of it, or None and the words with which it did not answer."""
    seen = call("squeue", "-h", "-t", "all", "-j", job.id, "-o", states.SQUEUE, *job.where, seconds=_ASK_SECONDS)
    found = states.entry(seen.stdout)
    if found is None and seen.returncode and not states.forgotten(seen.stderr):
        return None, seen.stderr
    if found is None or found.ended:
        shown = call("scontrol", "show", "job", "-o", job.id, *job.where, seconds=_ASK_SECONDS)
        found = states.details(shown.stdout) or found
    if found is None:
        kept = call("sacct", "-X", "-n", "-P", "-j", job.id, "-o", states.SACCT, *job.where, seconds=_ASK_SECONDS)
        found = states.account(kept.stdout)
    found = found or states.Entry("FORGOTTEN")
    return states.explained(found, _end_of(found.output)), ""


def _end_of(path: str) -> str:
    """The last of what a batch script has printed, as far as this machine sees it."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _PRINTED_BYTES))
            return file.read().decode(errors="replace")
    except OSError:  # there is none, or it is another machine's
        return ""


def step_of(job: Handle) -> tuple[str, str]:
    """The number of the agents' step ("12.0"), empty where there is none, and what Slurm said if it did not answer."""
    seen = call("squeue", "-h", "-s", "-j", job.id, "-o", "%i|%j", *job.where, seconds=_ASK_SECONDS)
    silent = seen.returncode != 0 and not states.forgotten(seen.stderr)
    return states.step(seen.stdout, job.name), seen.stderr if silent else ""


def may_again(job: Handle) -> bool:
    """Whether the job's max_restarts, where it has one, lets it be started again after the loss of a node."""
    if not job.restarts:
        return True
    shown = call("scontrol", "show", "job", "-o", job.id, *job.where, seconds=_ASK_SECONDS)
    attempt = int(job.name.rpartition(".")[2]) + states.restarts(shown.stdout)
    return shown.returncode == 0 and attempt <= job.restarts


def forget(number: str, where: Sequence[str]) -> None:
    """End a job for good: Slurm is not to queue it again either."""
    call("scontrol", "update", f"jobid={number}", "requeue=0", *where)
    call("scancel", number, *where)


def end_shell(process: str) -> None:
    """Ask the shell that runs the script in an allocation to end, with its whole process group: the srun in it would
    otherwise wait on for its nodes, and start the agents when they are free."""
    if processes.is_alive(process):
        with suppress(ProcessLookupError):
            os.killpg(int(process.split(":")[1]), signal.SIGTERM)


def end_earlier(job: Job, extra: Sequence[str]) -> None:
    """See to it that no Slurm job of an earlier attempt runs, or is started again, beside the next one.

    Nor one of this attempt's own name, which Slurm accepted without our hearing of it. Raises LaunchError where Slurm
    does not say so. A node of it that does not answer is not waited for.
    """
    names = ",".join(name_of(replace(job, attempt=number)) for number in range(1, job.attempt + 1))
    where = _clusters(extra)
    command = ("squeue", "-h", "-t", "all", f"--name={names}", "-o", states.LISTED, *where)
    begun, wanted = time.monotonic(), set[str]()
    while True:
        seen = call(*command)
        if seen.returncode:
            raise room.refused(command, seen.stderr)
        if not wanted:
            for number in states.unended(seen.stdout, returning=True):
                forget(number, where)
        live = states.unended(seen.stdout)
        wanted = wanted or {number for number, state in live.items() if state != "COMPLETING"}
        left = {number: state for number, state in live.items() if number in wanted}
        late = time.monotonic() - begun > _GONE_SECONDS
        if not left or (late and set(left.values()) == {"COMPLETING"}):
            return
        if late:
            known = " ".join(left)
            words = (
                f"Slurm has not ended the run's earlier job {known}, beside which the next would run: scancel {known}"
            )
            raise LaunchError(words, transient=True)
        time.sleep(_PAUSE_SECONDS)


def submit(command: Sequence[str], job: Job) -> Handle:
    """Submit; where Slurm refuses, or does not say whether it has accepted, nothing is left. Raises LaunchError."""
    undo = ("scancel", f"--jobname={name_of(job)}", *_clusters(command))
    done = call(*command, times=False)
    if done.returncode:
        call(*undo)
        raise room.refused(command, done.stderr)
    try:
        return submitted(done.stdout, job)
    except LaunchError:
        call(*undo)
        raise
