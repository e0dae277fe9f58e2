"""A command in the place of a running rank: its environment, its directory, on its node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot import enter
from trainkit.boot.processes import with_environment
from trainkit.boot.rundir import AttemptDir
from trainkit.bundle import bundle
from trainkit.job import Job
from trainkit.testing import launch, make_job, wait_until
from trainkit_launchers.local import Local

SCRIPT = """
import os, time
os.makedirs("inner", exist_ok=True)
os.chdir("inner")
open(os.path.join("..", "..", "up-" + os.environ["RANK"]), "w").close()
if os.environ["RANK"] != "2":
    time.sleep(300)
"""
PRINT = "import json, os; print(json.dumps({**os.environ, 'CWD': os.getcwd()}))"


def started(tmp_path: Path, **values: Any) -> tuple[Local, str, Job, AttemptDir]:
    job, attempt = make_job(tmp_path, SCRIPT, **values)
    launcher = Local()
    handle = launch(launcher, job, attempt)
    return launcher, handle, job, attempt


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Job, AttemptDir]]:
    """Two nodes of two ranks; rank 2 ends at once, without a fault."""
    folder = tmp_path_factory.mktemp("run")
    launcher, handle, job, attempt = started(folder, nodes=2, ranks_per_node=2, environment={"COLOUR": "red=blue"})
    wait_until(lambda: all((folder / f"up-{rank}").exists() for rank in range(4)), 60, "the ranks' start")
    wait_until(lambda: attempt.rank_record(2).exists(), 30, "the end of rank 2")
    yield job, attempt
    launcher.cancel(handle)
    wait_until(lambda: not with_environment("TRAINKIT_RUN_ID", job.run_id), 30, "the job's end")


def entered(job: Job, rank: object, *words: str, attempt: object = 1, how: tuple[str, ...] = (), **env: str) -> Any:
    """What the program does, started as `trainkit shell` starts it."""
    argv = [sys.executable, *(how or ("-m", "trainkit.boot.enter")), job.run_dir, str(attempt), str(rank), *words]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, env={**os.environ, **env}, input="echo $RANK in $PWD\n"
    )


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_the_ranks_own_environment_and_directory(running: tuple[Job, AttemptDir], rank: int) -> None:
    job, _ = running
    done = entered(job, rank, sys.executable, "-c", PRINT, TERM="xterm-of-the-visitor")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["RANK"], told["TRAINKIT_RANK"], told["NODE_RANK"]) == (str(rank), str(rank), str(rank // 2))
    assert (told["WORLD_SIZE"], told["LOCAL_RANK"], told["COLOUR"]) == ("4", str(rank % 2), "red=blue")
    assert (told["TRAINKIT_RUN_ID"], told["TERM"]) == (job.run_id, "xterm-of-the-visitor")
    assert told["CWD"] == str(Path(job.run_dir, "code", "inner"))


def test_without_a_command_it_is_a_shell(running: tuple[Job, AttemptDir]) -> None:
    done = entered(running[0], 3, SHELL="/bin/sh")
    assert done.stdout == f"3 in {running[0].run_dir}/code/inner\n", done.stderr


def test_the_exit_code_is_the_commands(running: tuple[Job, AttemptDir]) -> None:
    assert entered(running[0], 0, "sh", "-c", "exit 7").returncode == 7


@pytest.mark.parametrize(
    ("rank", "words", "attempt", "code", "part"),
    [
        (2, ["true"], 1, 3, "rank 2 of {run} has ended"),
        (4, ["true"], 1, 3, "rank 4 of {run} does not run on"),
        (0, ["true"], 2, 3, "rank 0 of {run} does not run on"),
        (0, ["no-such-command"], 1, 127, "no-such-command cannot be run in"),
        ("x", [], 1, 2, "usage: enter RUN_DIR ATTEMPT RANK"),
    ],
)
def test_what_cannot_be_entered(
    running: tuple[Job, AttemptDir], rank: object, words: list[str], attempt: int, code: int, part: str
) -> None:
    job, _ = running
    done = entered(job, rank, *words, attempt=attempt)
    assert (done.returncode, done.stdout) == (code, "")
    assert part.format(run=Path(job.run_dir).name) in done.stderr


def test_a_job_of_another_run_is_not_taken_for_it(running: tuple[Job, AttemptDir]) -> None:
    assert enter.find("another_run", 1, 0) is None


def test_from_the_boot_zip(running: tuple[Job, AttemptDir], tmp_path: Path) -> None:
    path = bundle(tmp_path / "boot")
    argv = [sys.executable, "-I", str(path), "enter", running[0].run_dir, "1", "1", "sh", "-c", "echo $RANK"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_command_in_place_of_a_script_is_entered_too(tmp_path: Path) -> None:
    launcher, handle, job, attempt = started(tmp_path, nodes=2, command=("sh", "-c", "touch ../up-$RANK; sleep 300"))
    try:
        wait_until(lambda: all((tmp_path / f"up-{rank}").exists() for rank in range(2)), 60, "the ranks' start")
        done = entered(job, 1, "sh", "-c", "echo $RANK $PWD")
        assert done.stdout == f"1 {job.run_dir}/code\n", done.stderr
    finally:
        launcher.cancel(handle)
        wait_until(lambda: not with_environment("TRAINKIT_RUN_ID", job.run_id), 30, "the job's end")
