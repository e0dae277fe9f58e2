"""Scripts that were started by hand: one whole run each, or one for all ranks of a launch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainkit import Experiment, Run, Workspace

SCRIPT = """
import multiprocessing, os, signal, sys, threading, time
from trainkit import Run
def in_worker(n):
    Run.get_context().log("worker", n)
if __name__ == "__main__":
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    run = Run.get_context()
    assert run is Run.get_context() and run.type == "offline"
    run.log("x", 1)
    print(run.id, flush=True)
    os.makedirs("outputs", exist_ok=True)
    open("outputs/model.pt", "w").write("weights")
    if how == "raise": raise ValueError("planned")
    if how == "exit": sys.exit(3)
    if how == "text": sys.exit("gave up")
    if how == "zero": sys.exit(0)
    if how == "complete":
        run.complete()
        raise ValueError("too late")
    if how == "caught":
        try: sys.exit(3)
        except SystemExit: print("went on")
    if how == "thread":
        thread = threading.Thread(target=lambda: sys.exit(3)); thread.start(); thread.join()
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "model": print(run.register_model("by-hand", "outputs/").version, run.experiment.name)
    if how == "fork":
        child = os.fork()
        if child == 0: sys.exit(5)
        os.waitpid(child, 0)
    if how in ("spawn", "forkserver"):
        with multiprocessing.get_context(how).Pool(2) as pool: pool.map(in_worker, [1, 2])
    if how == "wait":
        while True: time.sleep(0.05)
"""
RANKS = """
import os, sys, time
from trainkit import Run
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["RANK"])
if "only-first" in sys.argv and rank: sys.exit(0)
run = Run.get_context()
run.log("loss", run.rank)
run.add_properties({"launch": "once"})
run.upload_file("own.py", sys.argv[0])
os.makedirs("outputs", exist_ok=True)
if rank == 0: open("outputs/model.pt", "w").write("weights")
model = run.register_model("ranks", "outputs/")
print(run.id, model.version)
if "raise" in sys.argv and rank == 1: raise ValueError("planned")
"""


@pytest.fixture
def here(workspace: Workspace, tmp_path: Path) -> Path:
    """The workspace's directory, with both scripts in it."""
    folder = workspace.root.parent
    (folder / "train.py").write_text(SCRIPT)
    (folder / "ranks.py").write_text(RANKS)
    return folder


def by_hand(folder: Path, *arguments: str, code: int | None = 0) -> list[str]:
    """What `python train.py ARGUMENTS` prints, as words."""
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert code in (None, done.returncode), done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("how", "code", "status", "details"),
    [
        ("", 0, "Completed", ""),
        ("zero", 0, "Completed", ""),
        ("caught", 0, "Completed", ""),
        ("thread", 0, "Completed", ""),
        ("complete", 1, "Completed", ""),
        ("fork", 0, "Completed", ""),
        ("exit", 3, "Failed", "rank 0 exited with code 3"),
        ("text", 1, "Failed", "rank 0 exited with code 1"),
        ("raise", 1, "Failed", "ValueError: planned at"),
        ("kill", -9, "Failed", "ended without a word: it was killed"),
    ],
)
def test_how_it_ended_is_recorded(
    here: Path, workspace: Workspace, how: str, code: int, status: str, details: str
) -> None:
    run = workspace.get_run(by_hand(here, how, code=code)[0])
    assert run.status == status
    assert details in run.get_detailed_status()["details"]
    assert run.get_metrics() == {"x": 1}
    assert (run.experiment, run.number) == (Experiment(workspace, "train"), 1)
    expected = [] if how == "kill" else ["outputs/model.pt"]
    assert run.get_file_names() == expected
    if how == "raise":
        verdict = run.get_details()["error"]
        assert (verdict["file"], verdict["line"]) == (str(here / "train.py"), 14)


def test_a_model_is_registered_from_a_script_run_by_hand(here: Path, workspace: Workspace) -> None:
    (here / "outputs").mkdir()
    (here / "outputs" / "old.pt").write_text("of an earlier program")
    os.utime(here / "outputs" / "old.pt", (1, 1))
    run_id, version, name = by_hand(here, "model")
    assert (version, name) == ("1", "train")
    model = workspace.models["by-hand"]
    assert (model.files, model.run_id) == (["outputs/model.pt"], run_id)


@pytest.mark.parametrize("how", ["spawn", "forkserver"])
def test_pythons_own_worker_processes_share_the_run(here: Path, workspace: Workspace, how: str) -> None:
    run = workspace.get_run(by_hand(here, how)[0])
    assert sorted(run.get_metrics()["worker"]) == [1, 2]
    assert list(run.experiment.get_runs()) == [run]
    assert run.status == "Completed"


def test_without_a_workspace_it_is_kept_beside_and_found_once_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "config.json").write_text('{"architectures": ["of some other program"]}')
    run_id = by_hand(tmp_path)[0]
    assert (tmp_path / ".trainkit" / ".gitignore").read_text() == "*\n"
    (tmp_path / "config.json").unlink()
    workspace = Workspace.create("later", path=tmp_path)
    assert workspace.get_run(run_id).get_metrics() == {"x": 1}
    assert workspace.get_run(run_id).workspace == workspace


def test_a_live_one_is_seen_running_and_can_be_canceled(here: Path, workspace: Workspace) -> None:
    process = subprocess.Popen([sys.executable, "train.py", "wait"], cwd=here, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run = workspace.get_run(process.stdout.readline().strip())
    assert run.status == "Running"
    run.cancel()
    assert process.wait(timeout=30) == -signal.SIGTERM
    process.stdout.close()
    assert run.wait_for_completion()["status"] == "Canceled"


def launch(folder: Path, *command: str) -> tuple[list[list[str]], int]:
    """The words of each line that the ranks of a launch print, and the launcher's exit code."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return [line.split() for line in done.stdout.splitlines()], done.returncode


def mpirun(folder: Path, ranks: int, *arguments: str) -> tuple[list[list[str]], int]:
    program = shutil.which("mpirun", path=os.path.dirname(sys.executable)) or shutil.which("mpirun")
    if program is None:
        pytest.skip("mpirun is not installed")
    options = ["--oversubscribe", "-np", str(ranks)]
    return launch(folder, program, *options, "sh", "-c", 'exec "$0" ranks.py "$@"', sys.executable, *arguments)


@pytest.mark.engine
def test_all_ranks_of_an_mpirun_share_one_run(here: Path, workspace: Workspace) -> None:
    ids = []
    for version in ("1", "2"):
        lines, code = mpirun(here, 3)
        assert code == 0 and len({tuple(line) for line in lines}) == 1 and lines[0][1] == version
        ids.append(lines[0][0])
    assert ids[0] != ids[1]
    run = workspace.get_run(ids[1])
    assert run.status == "Completed"
    assert run.get_metrics(rank="all") == {rank: {"loss": rank} for rank in range(3)}
    assert run.get_file_names() == ["outputs/model.pt", "own.py"]
    assert run.get_properties() == {"launch": "once"}


@pytest.mark.engine
def test_a_failing_rank_of_an_mpirun_is_named(here: Path, workspace: Workspace) -> None:
    lines, code = mpirun(here, 2, "raise")
    assert code != 0
    run = workspace.get_run(lines[0][0])
    assert run.status == "Failed"
    verdict = run.get_details()["error"]
    assert (verdict["rank"], verdict["message"], verdict["line"]) == (1, "planned", 14)


@pytest.mark.engine
def test_a_run_that_only_one_rank_asked_for_ends_with_its_launch(here: Path, workspace: Workspace) -> None:
    lines, code = mpirun(here, 2, "only-first")
    assert code == 0 and len(lines) == 1
    assert workspace.get_run(lines[0][0]).status == "Completed"


@pytest.mark.engine
def test_two_launches_of_torchrun_are_two_runs(here: Path, workspace: Workspace) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "ranks.py"]
    first, code = launch(here, *torchrun)
    assert code == 0 and len({tuple(line) for line in first}) == 1 and len(first) == 2
    second, code = launch(here, *torchrun)
    assert code == 0 and len({tuple(line) for line in second}) == 1
    assert first[0] != second[0]
    assert {run.status for run in Experiment(workspace, "ranks").get_runs()} == {"Completed"}


def ranks_of(folder: Path, launch: int, rank: int, size: int, **more: Any) -> subprocess.Popen[str]:
    """One rank of a launch over several machines, which cannot see what started the others."""
    environment = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "h",
                   "MASTER_PORT": 1, "TORCHELASTIC_RUN_ID": f"launch-{launch}", **more}  # fmt: skip
    command = [sys.executable, "train.py", "wait" if more.pop("WAIT", False) else ""]
    values = {**os.environ, **{key: str(value) for key, value in environment.items()}}
    return subprocess.Popen(command, cwd=folder, env=values, stdout=subprocess.PIPE, text=True)


def test_the_same_words_of_a_launcher_twice_are_two_runs(here: Path, workspace: Workspace) -> None:
    ids = []
    for _ in range(2):
        pair = [ranks_of(here, 1, rank, 2) for rank in range(2)]
        outs = [process.communicate(timeout=60)[0].strip() for process in pair]
        assert outs[0] == outs[1]
        ids.append(outs[0])
    assert ids[0] != ids[1]
    assert {workspace.get_run(run_id).status for run_id in ids} == {"Completed"}


def test_a_killed_rank_fails_the_run_of_all(here: Path, workspace: Workspace) -> None:
    pair = [ranks_of(here, 2, rank, 2, WAIT=True) for rank in range(2)]
    ids = {process.stdout.readline().strip() for process in pair if process.stdout}
    assert len(ids) == 1
    run = Run.get(workspace, ids.pop())
    assert run.status == "Running"
    pair[1].kill()
    pair[1].wait(timeout=30)
    deadline = time.monotonic() + 10
    while run.status == "Running" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.get_detailed_status()["details"].startswith("rank 1 (process")
    pair[0].kill()
    for process in pair:
        process.communicate(timeout=30)


def test_where_nothing_can_be_written_one_error_says_so(tmp_path: Path) -> None:
    (tmp_path / ".trainkit").write_text("in the way")
    script = "from trainkit import Run; Run.get_context()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "WorkspaceException: This script was started by hand" in done.stderr


def test_allow_offline_false_refuses(here: Path) -> None:
    script = "from trainkit import Run; Run.get_context(allow_offline=False)"
    done = subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, text=True, timeout=60)
    assert "RunEnvironmentException" in done.stderr and "submit" in done.stderr
    assert not (here / ".trainkit" / "runs").exists()
