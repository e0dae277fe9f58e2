"""Real jobs from the command line alone: submitted, followed, failed, canceled, waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainkit.cli import codes
from trainkit.cli.checks import orphans
from trainkit.cli.find import run_dirs

PROGRAM = str(Path(sys.executable).parent / "trainkit")
TRAIN = """
import sys
from trainkit import Run

run = Run.get_context()
lr = float(sys.argv[sys.argv.index("--lr") + 1])
run.log("lr", lr)
for loss in (0.5, 0.25):
    run.log("loss", loss)
with open(f"outputs/note-{lr}.txt", "w") as file:
    file.write("trained")
print("trained with", sys.argv[1:], flush=True)
"""
ENDLESS = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.1)\n"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(workspace: Any, command_line: Run) -> Run:
    """The command line, in a workspace of its own."""
    Path("train.py").write_text(TRAIN)
    Path("endless.py").write_text(ENDLESS)
    return command_line


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return found


def test_a_script_needs_no_python_to_be_a_job(cli: Run) -> None:
    code, out, err = cli("submit", "train.py", "--follow", "--tag", "colour=red", "--", "--lr", "0.1", "--json")
    assert code == codes.DONE, err
    run_id, printed = out.splitlines()
    assert run_id.startswith("train_")
    assert printed == "trained with ['--lr', '0.1', '--json']"
    shown = json.loads(cli("show", run_id, "--json")[1])
    assert (shown["status"], shown["tags"], shown["arguments"]) == (
        "Completed",
        {"colour": "red"},
        ["--lr", "0.1", "--json"],
    )
    assert json.loads(cli("metrics", "last", "--json")[1]) == {"lr": 0.1, "loss": [0.5, 0.25]}
    assert cli("files", "last", "outputs/")[1] == "outputs/note-0.1.txt\n"
    assert cli("download", "last", "outputs/note-0.1.txt", "-o", "here/note.txt")[0] == codes.DONE
    assert Path("here/note.txt").read_text() == "trained"
    code, _, err = cli("download", "last", "outputs/note-0.1.txt", "-o", "here/note.txt")
    assert (code, "exists already" in err) == (codes.USAGE, True)
    assert cli("download", "last", "outputs/note-0.1.txt", "-o", "here/note.txt", "--force")[0] == codes.DONE
    assert cli("download", "last", "-o", "all")[0] == codes.DONE
    assert Path("all/outputs/note-0.1.txt").exists()
    assert cli("download", "last", "outputs/none")[0] == codes.NOT_FOUND


def test_a_model_goes_from_a_run_to_the_registry_and_back(cli: Run) -> None:
    assert cli("submit", "train.py", "--wait", "--", "--lr", "1")[0] == codes.DONE
    for version in (1, 2):
        code, out, err = cli("models", "register", "notes", "outputs/", "--run", "last", "--tag", "a=b", "--json")
        assert code == codes.DONE, err
        assert json.loads(out)["version"] == version
    assert [m["id"] for m in json.loads(cli("models", "--json")[1])] == ["notes:2"]
    assert len(json.loads(cli("models", "list", "notes", "--json")[1])) == 2
    shown = json.loads(cli("models", "show", "notes:1", "--json")[1])
    assert (shown["tags"], shown["experimentName"]) == ({"a": "b"}, "train")
    assert "sha256" in cli("models", "show", "notes:1")[1].lower()
    assert cli("models", "download", "notes:1", "-o", "fetched")[0] == codes.DONE
    assert [p.read_text() for p in Path("fetched").rglob("*.txt")] == ["trained"]
    assert cli("models", "delete", "notes")[0] == codes.USAGE
    assert cli("models", "delete", "notes:1")[0] == codes.DONE
    assert cli("models", "show", "notes:1")[0] == codes.NOT_FOUND
    assert cli("export", "notes")[0] != codes.DONE


@pytest.mark.engine
def test_ranks_under_mpirun(cli: Run) -> None:
    words = ("submit", "train.py", "--nodes", "1", "--ranks", "2", "--spread", "mpi", "--wait", "--json", "--", "--lr")
    code, out, err = cli(*words, "0.1")
    assert code == codes.DONE, out + err
    assert json.loads(out)["status"] == "Completed"
    assert sorted(json.loads(cli("metrics", "last", "--rank", "all", "--json")[1])) == ["0", "1"]
    lines = cli("logs", "last", "--no-fold")[1].splitlines()
    assert sorted(line[:4] for line in lines if "trained" in line) == ["[0] ", "[1] "]


def test_a_failing_script_is_named(cli: Run) -> None:
    Path("broken.py").write_text("def train():\n    raise ValueError('no such rate')\n\n\ntrain()\n")
    code, out, err = cli("submit", "broken.py", "--wait")
    assert code == codes.FAILED
    assert out.startswith("broken_")
    assert "ValueError: no such rate" in err
    assert "broken.py:2" in err
    code, out, _ = cli("show", "last")
    assert (code, "ValueError: no such rate" in out) == (codes.DONE, True)
    code, out, _ = cli("submit", "broken.py", "--wait", "--json")
    assert (code, json.loads(out)["verdict"]["exception"]) == (codes.FAILED, "ValueError")


def test_cancel_ends_a_run_from_another_process(cli: Run) -> None:
    _, out, _ = cli("submit", "endless.py")
    run_id = out.strip()
    until(lambda: "begun" in cli("logs", run_id)[1], "the job's start")
    done = subprocess.run([PROGRAM, "cancel", run_id, "--json"], capture_output=True, text=True)
    assert done.returncode == codes.DONE, done.stderr
    assert json.loads(done.stdout)[0]["status"] == "Canceled"
    assert cli("wait", run_id)[0] == codes.CANCELED
    assert cli("logs", run_id)[1] == "begun\n"


def test_interrupting_the_wait_leaves_the_run_alive(cli: Run) -> None:
    words = [PROGRAM, "submit", "endless.py", "--follow"]
    following = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert following.stdout is not None
    run_id = following.stdout.readline().strip()
    assert following.stdout.readline() == "begun\n"
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=30)
    assert following.returncode == codes.INTERRUPTED
    assert f"trainkit wait {run_id}" in err
    assert "Traceback" not in err
    assert json.loads(cli("show", run_id, "--json")[1])["status"] == "Running"
    assert cli("cancel", run_id)[0] == codes.DONE


def test_a_dry_run_starts_nothing(cli: Run) -> None:
    code, out, err = cli("submit", "train.py", "--nodes", "2", "--dry-run", "--json", "--", "--lr", "1")
    assert code == codes.DONE, err
    planned = json.loads(out)
    assert (planned["nodes"], planned["spread"], planned["arguments"]) == (2, "torchrun", ["--lr", "1"])
    assert "dry run" in cli("submit", "train.py", "--dry-run")[1]
    assert cli("runs", "--json")[1] == "[]\n"


def test_a_target_is_added_used_and_deleted(cli: Run) -> None:
    assert cli("compute", "add", "small", "--max-nodes", "1")[0] == codes.DONE
    assert cli("compute", "add", "small")[0] == codes.USAGE
    code, _, err = cli("submit", "train.py", "-t", "small", "--nodes", "2", "--", "--lr", "1")
    assert (code, "small" in err) == (codes.USAGE, True)
    assert cli("submit", "train.py", "-t", "small", "--wait", "--", "--lr", "1")[0] == codes.DONE
    assert [t["name"] for t in json.loads(cli("compute", "--json")[1])] == ["small"]
    assert json.loads(cli("compute", "show", "small", "--json")[1])["scaleSettings"]["maxNodeCount"] == 1
    assert cli("compute", "delete", "small")[0] == codes.DONE
    assert cli("compute", "show", "small")[0] == codes.NOT_FOUND


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train.py", "--spread", "nowhere"], "nowhere"),
        (["train.py", "-t", "nowhere"], "nowhere"),
        (["train.py", "-e", "a b"], "Experiment name"),
        (["train.py", "--tag", "x"], "KEY=VALUE"),
        (["train.py", "--set", "=x"], "KEY=VALUE"),
        (["train.py", "--backend", "gloo", "--spread", "mpi"], "--backend"),
        (["train.py", "--pip", "a", "--env-file", "train.py"], "exclude each other"),
        (["train.py", "--pip", "not a requirement!"], "not a requirement"),
        (["train.py", "--ranks", "100000", "--spread", "mpi"], "100,000"),
        (["train.py", "--source", "elsewhere"], "There is no script"),
        (["train.py", "--gpu", "required"], "GPU"),
    ],
)
def test_what_cannot_be_leaves_nothing(cli: Run, workspace: Any, words: list[str], part: str) -> None:
    Path("elsewhere").mkdir()
    if "required" in words and any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU, so requiring one is no error")
    code, out, err = cli("submit", *words)
    assert (code, out) == (codes.USAGE, "")
    assert part in err
    assert not list((workspace.root / "runs").glob("*/*"))


def test_a_script_elsewhere_brings_its_folder(cli: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "go.py").write_text("import beside; print(beside.word)\n")
    (other / "beside.py").write_text("word = 'found'\n")
    assert "found" in cli("submit", str(other / "go.py"), "--follow")[1]
    assert "found" in cli("submit", "go.py", "--source", str(other), "--follow")[1]


def test_doctor_checks_this_machine(cli: Run) -> None:
    code, out, err = cli("doctor", "--json")
    found = {check["check"]: check for check in json.loads(out)["checks"]}
    assert (code == codes.DONE) == json.loads(out)["healthy"]
    assert found["PyTorch"]["state"] == "ok", found
    assert found["MPI"]["state"] in ("ok", "warn"), found
    assert {"Python", "launchers", "spreads", "uv", "/dev/shm", "workspace", "disk", "orphans"} <= set(found)


def test_the_doctor_sees_what_an_ended_run_left_behind(cli: Run, workspace: Any) -> None:
    assert cli("submit", "train.py", "--wait", "--", "--lr", "1")[0] == codes.DONE
    run_id = json.loads(cli("runs", "--json")[1])[0]["id"]
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, "TRAINKIT_RUN_ID": run_id})
    try:
        until(lambda: Path(f"/proc/{left.pid}/environ").read_bytes(), "the environment that the kernel shows")
        found = orphans(list(run_dirs(workspace.root)))
        assert found.state == "bad"
        assert str(left.pid) in found.remedy
    finally:
        left.kill()
        left.wait()
