"""Whole runs for tests and soaks: submitted as users submit, hurt in a known way, and judged by what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit import Experiment, ScriptRunConfig, Workspace
from trainkit.boot.rundir import RunDir, read_json
from trainkit.distributed import SpreadConfiguration
from trainkit.testing import wait_until
from trainkit.testing.kills import SLEEPER, VICTIMS, driver_of, find, kill, processes_of
from trainkit.testing.planted import MemoryGroup, Planted

_START_SECONDS = 60.0
_END_SECONDS = 60.0


def submit(
    workspace: Workspace, folder: Path, script: str, spread: str = "fork", ranks: int = 1, nodes: int = 1, **values: Any
) -> Any:
    """Submit a script of this text on `nodes` nodes of `ranks` ranks; `values` go to ScriptRunConfig."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(script)
    config = ScriptRunConfig(
        source_directory=str(folder), script="train.py",
        distributed_job_config=SpreadConfiguration(spread, ranks, nodes), **values,
    )  # fmt: skip
    return Experiment(workspace, "faults").submit(config)


def plant(workspace: Workspace, folder: Path, fault: Planted) -> list[str]:
    """Run a planted fault; what its verdict gets wrong."""
    environment = {}
    if fault.needs == "memory cgroup":
        with MemoryGroup() as group:
            environment["GROUP"] = group.path
            return _judged(workspace, folder, fault, environment)
    return _judged(workspace, folder, fault, environment)


def _judged(workspace: Workspace, folder: Path, fault: Planted, environment: dict[str, str]) -> list[str]:
    from trainkit import RunConfiguration

    run = submit(
        workspace, folder, fault.script, fault.spread, fault.ranks,
        run_config=RunConfiguration(environment_variables=environment),
    )  # fmt: skip
    run.wait_for_completion(raise_on_error=False)
    state = read_json(RunDir(run.directory).state) or {}
    return fault.wrong(str(state.get("status")), state.get("verdict"))


@dataclass(frozen=True)
class Killed:
    """What was seen after a kill: the run's final status, how soon no process was left, how soon a look said so."""

    status: str
    gone_seconds: float
    known_seconds: float
    summary: str = ""
    wrong: str = ""


def start_sleeper(workspace: Workspace, folder: Path, spread: str, nodes: int = 1, ranks: int = 2) -> Any:
    """A run of `ranks` sleeping ranks in all, each with a child process, once all of them are asleep."""
    run = submit(workspace, folder, SLEEPER, spread, ranks // nodes, nodes)
    wait_until(
        lambda: all((run.directory / f"started-{rank}").exists() for rank in range(ranks)),
        _START_SECONDS, f"the start of {ranks} ranks by {spread}",
    )  # fmt: skip
    return run


def kill_and_watch(workspace: Workspace, folder: Path, victim: str) -> Killed:
    """Kill one of VICTIMS of a running job; the job has to end as Failed, and to leave nothing."""
    run = start_sleeper(workspace, folder, *VICTIMS[victim])
    path = run.directory
    begun = time.monotonic()
    kill(find(victim, path, run.id))
    wait_until(lambda: not processes_of(path, run.id), _END_SECONDS, f"the end of all processes after killing {victim}")
    gone = time.monotonic() - begun
    status = wait_until(lambda: run.get_status() if run.get_status() == "Failed" else "", _END_SECONDS, "a true state")
    known = time.monotonic() - begun
    summary = str((read_json(RunDir(path).state) or {})["verdict"]["summary"])
    return Killed(status, gone, known, summary)


def kill_driver(workspace: Workspace, folder: Path) -> Killed:
    """Kill the driver of a running job: the job goes on, and the next look takes it over and sees its end."""
    script = "import os, time\nopen('../started-0', 'w').close()\nwhile not os.path.exists('../go'): time.sleep(0.02)\n"
    run = submit(workspace, folder, script)
    path = run.directory
    wait_until(lambda: (path / "started-0").exists(), _START_SECONDS, "the rank's start")
    kill(int(wait_until(lambda: driver_of(path), 10, "the driver")))
    wait_until(lambda: driver_of(path) is None, 10, "the driver's death")
    wrong = "" if processes_of(path, run.id) else "the job died with its driver"
    (path / "go").touch()
    wait_until(lambda: not processes_of(path, run.id), _END_SECONDS, "the job's end")
    begun = time.monotonic()
    status = wait_until(
        lambda: run.get_status() if run.get_status() == "Completed" else "", _END_SECONDS, "a true state"
    )
    return Killed(status, 0.0, time.monotonic() - begun, wrong=wrong)


_CLIENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background shell starts ignores Ctrl-C
from trainkit import Workspace
from trainkit.testing.runs import submit
from pathlib import Path
script = "import os, time\\nopen('../started-0', 'w').close()\\nwhile not os.path.exists('../go'): time.sleep(0.02)\\n"
run = submit(Workspace.from_config(sys.argv[1]), Path(sys.argv[2]), script)
print(run.id, flush=True)
run.wait_for_completion(show_output=True)
"""


def kill_client(workspace: Workspace, folder: Path, number: int = signal.SIGKILL) -> Killed:
    """Kill (or interrupt, as Ctrl-C does) a client that waits: the run goes on to its end."""
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(workspace.config.path), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert client.stdout is not None
    run = workspace.get_run(client.stdout.readline().strip())
    path = run.directory
    wait_until(lambda: (path / "started-0").exists(), _START_SECONDS, "the rank's start")
    os.kill(client.pid, number)
    errors = client.communicate(timeout=30)[1]
    wrong = "" if processes_of(path, run.id) else "the job died with its client"
    if number == signal.SIGINT and run.id not in errors:
        wrong = f"the interrupted client did not say how to find its run: {errors[-300:]}"
    (path / "go").touch()
    begun = time.monotonic()
    status = wait_until(
        lambda: run.get_status() if run.get_status() == "Completed" else "", _END_SECONDS, "a true state"
    )
    return Killed(status, 0.0, time.monotonic() - begun, wrong=wrong)


def cancel_and_watch(workspace: Workspace, folder: Path, spread: str) -> Killed:
    """Cancel a running job: everything ends, what it wrote stays."""
    run = start_sleeper(workspace, folder, spread)
    path = run.directory
    begun = time.monotonic()
    run.cancel()
    wait_until(lambda: not processes_of(path, run.id), _END_SECONDS, "the end of all processes after cancel")
    gone = time.monotonic() - begun
    wait_until(lambda: run.get_status() == "Canceled", _END_SECONDS, "Canceled")
    kept = "started" in RunDir(run.directory).attempt(1).rank_log(0).read_text()
    return Killed(run.get_status(), gone, time.monotonic() - begun, wrong="" if kept else "the log is lost")
