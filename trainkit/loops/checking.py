"""Runs a few steps of a script in worlds of several sizes, as plain processes here, with its loop writing traces."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit.boot import newrun, processes
from trainkit.boot.ports import reserve_port
from trainkit.boot.ranks import without_ranks
from trainkit.boot.rundir import RunDir, make_private, publish
from trainkit.boot.settings import TRACE, TRACE_STEPS
from trainkit.errors import UserErrorException
from trainkit.loops.divergence import Step, read
from trainkit.sentences import tail

_ADDRESS = "127.0.0.1"
_VICTIM_SECONDS = 2.0


def steps_of_world(
    argv: Sequence[str], environment: Mapping[str, str], root: Path, size: int, steps: int, seconds: float
) -> list[Step]:
    """The traced steps of `argv` as `size` ranks; `root` is a temporary folder, to which all that they record goes.

    Raises UserErrorException where a rank fails, where nothing was traced, or the time is up; no process is left.
    """
    run = RunDir(newrun.experiment_dir(root, "check") / f"check_{size}_0")
    trace = make_private(root / f"trace-{size}")
    for folder in (run.outputs, run.logs, run.events):
        make_private(folder)
    publish(run.run, newrun.record(root, "check", run.path.name, "check", "check", None))
    port, lock = reserve_port(_ADDRESS)
    shared = {
        **without_ranks(environment), "TRAINKIT_RUN_DIR": str(run.path), "TRAINKIT_RUN_ID": run.path.name,
        "TRAINKIT_EXPERIMENT": "check", "TRAINKIT_ROOT": str(root), "TRAINKIT_ATTEMPT": "1", "TRAINKIT_BACKEND": "gloo",
        "TRAINKIT_WORLD_SIZE": str(size), "TRAINKIT_LOCAL_WORLD_SIZE": str(size), "TRAINKIT_NODE_RANK": "0",
        "MASTER_ADDR": _ADDRESS, "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1",
        TRACE: str(trace), TRACE_STEPS: str(steps),
    }  # fmt: skip
    ranks: list[subprocess.Popen[bytes]] = []
    logs = [root / f"rank-{size}-{rank}.log" for rank in range(size)]
    processes.become_subreaper()
    try:
        for rank, log in enumerate(logs):
            place = {"TRAINKIT_RANK": str(rank), "TRAINKIT_LOCAL_RANK": str(rank), "RANK": str(rank)}
            place.update(WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))
            with log.open("wb") as file:
                own = {**shared, **place}
                ranks.append(processes.start(argv, own, str(Path.cwd()), file.fileno(), signal.SIGKILL))
        _wait(ranks, logs, size, seconds)
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
            process.wait()
        processes.end_children()
        del lock
    found = read(trace, size)
    if not found:
        raise UserErrorException(
            f"Nothing was traced: {argv[1] if len(argv) > 1 else argv[0]} trains by no loop of trainkit, or makes "
            "no step."
        )
    return found


def _wait(ranks: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path], size: int, seconds: float) -> None:
    """Until all ranks have ended well. Raises UserErrorException where one does not."""
    deadline, failed = time.monotonic() + seconds, 0.0
    while any(process.poll() is None for process in ranks):
        if time.monotonic() > deadline:
            raise UserErrorException(f"{size} ranks made no end of it within {seconds:g} s; --seconds gives them more.")
        if any(process.returncode for process in ranks):
            failed = failed or time.monotonic()
            if time.monotonic() - failed > _VICTIM_SECONDS:
                break
        time.sleep(0.02)
    for rank, process in enumerate(ranks):
        if process.returncode:
            lines = "\n".join("  " + line for line in tail(logs[rank]))
            raise UserErrorException(
                f"Rank {rank} of {size} failed with exit code {process.returncode}; the last lines that it printed:\n"
                f"{lines}"
            )


def command_of(script: str, arguments: Sequence[str]) -> list[str]:
    """The command line of one rank: a file, or a loop's "module:function"."""
    if Path(script).is_file():
        return [sys.executable, script, *arguments]
    if ":" not in script:
        raise UserErrorException(f"There is no script {script}; a loop is named as module:function.")
    from trainkit.loops.building import check_build

    check_build(script, Path.cwd(), arguments)
    return [sys.executable, "-m", "trainkit.loops.run", script, *arguments]
