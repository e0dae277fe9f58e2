"""Slurm: one job with an agent on each of its nodes, by sbatch, or inside an allocation that the user holds."""

from __future__ import annotations

import os
import shlex
import subprocess
import time as clock
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainkit.boot import processes
from trainkit.errors import LaunchError
from trainkit.job import Job, Status

from . import slurmcalls as calls
from . import slurmstates as states
from . import slurmtext as text
from .slurmcalls import Watched, call, watched

_MORE_SECONDS = 10.0  # beyond the ranks' grace, before Slurm kills what is left


@dataclass(frozen=True)
class Slurm:
    """Runs jobs on a Slurm cluster all of whose nodes see the workspace's folder under the same path.

    A value that is empty is not asked for: the cluster's own default holds. Raises UserErrorException for one that
    Slurm could misread.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str | int = ""  # minutes, or as Slurm writes it: "2-12:00:00"
    gpus_per_node: str | int = 0  # "a100:4" too; 0: as many as the job uses
    gres: str = ""  # instead of gpus_per_node: "gpu:a100:4"
    cpus_per_rank: int = 1  # 0: the cluster's default for one node
    memory: str = ""  # of each node: "64G"
    constraint: str = ""
    exclude: str = ""
    nodelist: str = ""
    reservation: str = ""
    comment: str = ""
    setup_script: str = ""  # shell text to run before the agents ("module load cuda"), or the path of a file with it
    requeue: bool = False  # Slurm starts the job again after a preemption or a node's failure
    signal_seconds: int = 0  # so long before the time limit ranks are asked to end; 0: they are not
    queue_timeout_seconds: int = 0  # a job that waits for longer is given up; 0: none is
    inside: bool = False  # run in the allocation around the client (SLURM_JOB_ID), not in a new one
    allocation: str = ""  # run in the allocation of this number
    extra: tuple[str, ...] = ()  # more of sbatch's options: "--name=value"
    several_machines: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "extra", tuple(self.extra))
        text.check(self)

    @property
    def held(self) -> bool:
        """Whether jobs run in an allocation that the user holds."""
        return self.inside or bool(self.allocation)

    def script(self, job: Job) -> str:
        """The batch script: the site's set-up, then one agent on each node, in the foreground."""
        return text.script(self, job)

    def dry_run(self, job: Job) -> str:
        """The command line and the script that `start` would send, and what the job would wait for."""
        return f"{shlex.join(self._command(job))}\n\n{self.script(job)}\n{text.waits_for(self, job)}\n"

    def start(self, job: Job) -> str:
        """Submit the job, or start it in the allocation. Raises LaunchError with Slurm's own words."""
        text.check_job(self, job)
        if not self.held:
            calls.end_earlier(job, self.extra)
            calls.check_room(self.partition, str(self.time), job, self.extra)
        path = Path(text.script_of(job))
        try:
            os.stat(path.parent / "logs")  # without it Slurm would accept the job, and not run it
            path.touch(mode=0o600)
            path.write_text(self.script(job))
        except OSError as error:
            raise LaunchError(f"The batch script cannot be written: {error}") from error
        return str(self._start_inside(job) if self.held else calls.submit(self._command(job), job))

    def _command(self, job: Job) -> tuple[str, ...]:
        script = text.script_of(job)
        return ("/bin/bash", script) if self.held else ("sbatch", "--parsable", *text.options(self, job), script)

    def _start_inside(self, job: Job) -> text.Handle:
        """Start the batch script here, detached: its srun makes a step of the allocation."""
        number = self.allocation or os.environ.get("SLURM_JOB_ID", "")
        if not number:
            raise LaunchError("inside=True needs an allocation: call `salloc -N NODES`, and submit from its shell.")
        calls.check_allocation(number, job)
        with open(text.output_of(job), "ab") as log:
            shell = subprocess.Popen(
                self._command(job), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job.run_dir,
                start_new_session=True, env={**text.environment(os.environ), "SLURM_JOB_ID": number},
            )  # fmt: skip
        return text.Handle(number, "", int(job.grace_seconds), text.name_of(job), processes.identity(shell.pid))

    def poll(self, handle: str) -> Status:
        """Where the job is. Slurm is asked at most once a second; while it does not answer, what was known last."""
        known, job = watched.setdefault(handle, Watched()), text.Handle.parse(handle)
        if known.due():
            known.status = (self._look_inside if job.process else self._look)(job, known.status)
        return known.status

    def _look(self, job: text.Handle, last: Status) -> Status:
        found, silence = calls.find(job)
        if found is None:
            return states.unreachable(last, silence)
        late = states.waited_too_long(job.id, found, clock.time(), self.queue_timeout_seconds)
        told = late or states.status(job.id, found, clock.time(), self.requeue)
        if told.phase == "ended" and found.may_return:
            calls.forget(job.id, job.where)
        return told

    def _look_inside(self, job: text.Handle, last: Status) -> Status:
        step, silence = calls.step_of(job)
        starting = not processes.rebooted(job.process) and processes.is_alive(job.process)
        return states.unreachable(last, silence) if silence else states.inside(job.id, step, starting)

    def cancel(self, handle: str) -> None:
        """Ask the agents to end their ranks; what has not begun, or is left after their grace, Slurm kills."""
        job = text.Handle.parse(handle)
        late = watched.setdefault(handle, Watched()).cancelled_for() > job.grace + _MORE_SECONDS
        if self.requeue:
            call("scontrol", "update", f"jobid={job.id}", "requeue=0", *job.where)  # else its script asks for it
        step, _ = calls.step_of(job)
        if step:
            call("scancel", step, *([] if late else ["--signal=TERM"]), *job.where)
        elif job.process:
            calls.end_shell(job.process)
        if not job.process and (late or not step):
            call("scancel", job.id, *job.where)

    def again(self, handle: str) -> bool:
        """Have Slurm start the job again, whose head fell silent; False where it may not be, or Slurm refuses."""
        job = text.Handle.parse(handle)
        return self.requeue and calls.may_again(job) and call("scontrol", "requeue", job.id, *job.where).returncode == 0

    def shell(self, handle: str, node: int) -> tuple[str, ...]:
        """The words that run what is appended to them on that node of the running job, at a terminal."""
        job = text.Handle.parse(handle)
        place = ("--overlap", f"--relative={node}", "--nodes=1", "--ntasks=1")
        return ("srun", *job.where, f"--jobid={job.id}", *place, "--mpi=none", "--pty")
