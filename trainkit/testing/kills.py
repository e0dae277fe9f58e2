"""Who of a running job gets killed, found as a user would find it: by pid, from the run's own files and /proc."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from trainkit.boot.processes import parent_of, with_environment, words_of
from trainkit.boot.rundir import RunDir, read_json

SLEEPER = (
    "import os, subprocess, time\n"
    "child = subprocess.Popen(['sleep', '600'])\n"
    "print('started', flush=True)\n"
    "open('../started-' + os.environ['RANK'], 'w').close()\n"
    "time.sleep(600)\n"
)
# Who may be killed: the spread and the number of nodes of the job that it is found in.
VICTIMS = {
    "agent": ("fork", 1),
    "agent of a second node": ("fork", 2),
    "rank": ("fork", 1),
    "script": ("fork", 1),
    "mpirun": ("mpi", 1),
    "torchrun": ("torchrun", 1),
}


def processes_of(run_dir: Path, run_id: str) -> list[int]:
    """All living processes of the run's job: agents, launchers of others, ranks and what they started."""
    agents = [
        int(str((read_json(p) or {})["identity"]).split(":")[1]) for p in run_dir.glob("attempts/*/nodes/*.agent.json")
    ]
    alive = [pid for pid in agents if "trainkit.boot.agent" in words_of(pid) and str(run_dir) in words_of(pid)]
    return sorted(set(alive + with_environment("TRAINKIT_RUN_ID", run_id)))


def find(victim: str, run_dir: Path, run_id: str) -> int:
    """The pid of one of VICTIMS: "rank" is the waiting parent, "script" the process that runs the user's code."""
    pids = processes_of(run_dir, run_id)
    shims = [pid for pid in pids if words_of(pid)[1:3] == ["-m", "trainkit.boot.rank"]]
    if victim.startswith("agent"):
        node = "1" if "second" in victim else "0"
        return next(pid for pid in pids if "trainkit.boot.agent" in (a := words_of(pid)) and a[-1] == node)
    if victim == "rank":
        return next(pid for pid in shims if parent_of(pid) not in shims)
    if victim == "script":
        return next(pid for pid in shims if parent_of(pid) in shims)
    if victim == "torchrun":
        return next(pid for pid in pids if "torch.distributed.run" in words_of(pid))
    return next(pid for pid in pids if Path((words_of(pid) or [""])[0]).name in ("mpirun", "prterun", "mpiexec"))


def kill(pid: int) -> None:
    """SIGKILL, for one process alone."""
    os.kill(pid, signal.SIGKILL)


def driver_of(run_dir: Path) -> int | None:
    """The pid of the run's driver, if it lives."""
    run = str(RunDir(run_dir).path)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and "trainkit.driver" in (words := words_of(int(entry.name))) and run in words:
            return int(entry.name)
    return None
