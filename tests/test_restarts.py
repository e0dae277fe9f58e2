"""Jobs that are started again: after failures, kills and requests to end, by any driver, within their limits."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from trainkit import Experiment, RunConfiguration, ScriptRunConfig
from trainkit.boot.rundir import RunDir, read_json
from trainkit.errors import UserErrorException
from trainkit.outcome import ends_of, records_of, stages_of
from trainkit.testing import runs, wait_until
from trainkit.testing.kills import driver_of, find, kill, processes_of

COUNTING = """
import os, sys, time
attempt, rank = int(os.environ["TRAINKIT_ATTEMPT"]), os.environ["RANK"]
print("attempt", attempt, flush=True)
open("../seen-%d-%s" % (attempt, rank), "w").close()
"""
SLEEPING = COUNTING + "time.sleep(600 if attempt < 2 else 0)\n"


def _submit(workspace: Any, folder: Path, script: str, **values: Any) -> Any:
    return runs.submit(workspace, folder / "source", script, **values)


def _ended(run: Any) -> dict[str, Any]:
    run.wait_for_completion(raise_on_error=False)
    return dict(read_json(RunDir(run.directory).state) or {})


@pytest.mark.parametrize(
    "failure",
    ["sys.exit(75)", "sys.exit(3)", "raise ValueError('bad')", "os.kill(os.getpid(), 9)"],
    ids=["asks for it", "exit code", "exception", "killed"],
)
def test_what_fails_once_is_run_again(workspace: Any, tmp_path: Path, failure: str) -> None:
    run = _submit(workspace, tmp_path, COUNTING + f"if attempt == 1: {failure}\n", max_restarts=2)
    state = _ended(run)
    assert (state["status"], state["attempt"], state["verdict"]) == ("Completed", 2, None)
    stages = stages_of(RunDir(run.directory))
    assert any(stage["details"].startswith("restart 1 of 2: rank 0 ") or "preempted" in stage["details"]
               for stage in stages)  # fmt: skip
    begun = [stage["status"] for stage in stages].index("Running")
    assert {stage["status"] for stage in stages[begun:-1]} == {"Running"}
    for number in (1, 2):
        attempt = RunDir(run.directory).attempt(number)
        assert attempt.rank_log(0).read_text().startswith(f"attempt {number}\n") and len(records_of(attempt)) == 1


def test_nobody_waits_for_the_end_of_a_rank_whose_shim_was_killed(workspace: Any, tmp_path: Path) -> None:
    run = _submit(workspace, tmp_path, SLEEPING, ranks=2, max_restarts=1)
    wait_until(lambda: all((run.directory / f"seen-1-{rank}").exists() for rank in range(2)), 60, "both ranks")
    kill(find("rank", run.directory, run.id))
    assert _ended(run)["status"] == "Completed"
    (end,) = ends_of(RunDir(run.directory).attempt(1))
    assert sorted(command["status"] for command in end["commands"]) == [-signal.SIGKILL, 128 + signal.SIGTERM]


def test_the_budget_is_kept_and_the_verdict_says_so(workspace: Any, tmp_path: Path) -> None:
    state = _ended(_submit(workspace, tmp_path, COUNTING + "raise KeyError(attempt)\n", max_restarts=2))
    assert state["status"] == "Failed" and state["attempt"] == 3
    assert state["verdict"]["kind"] == "exception" and state["verdict"]["message"] == "3"
    assert state["verdict"]["summary"].endswith("(after 2 of 2 restarts)")


def test_exit_code_75_without_restarts_says_how_to_go_on(workspace: Any, tmp_path: Path) -> None:
    verdict = _ended(_submit(workspace, tmp_path, COUNTING + "sys.exit(75)\n", ranks=2))["verdict"]
    assert verdict["kind"] == "preempted" and verdict["exit_code"] == 75 and verdict["victims"] == []
    assert "resume_from=" in verdict["summary"] and "max_restarts=" in verdict["summary"]


def test_a_canceled_run_is_not_started_again(workspace: Any, tmp_path: Path) -> None:
    run = _submit(workspace, tmp_path, SLEEPING, max_restarts=5)
    wait_until(lambda: (run.directory / "seen-1-0").exists(), 30, "the first attempt")
    run.cancel()
    assert _ended(run)["status"] == "Canceled" and len(RunDir(run.directory).attempts()) == 1


def test_the_time_limit_is_for_all_attempts_together(workspace: Any, tmp_path: Path) -> None:
    script = COUNTING + "time.sleep(0.4); sys.exit(1)\n"
    state = _ended(_submit(workspace, tmp_path, script, max_restarts=1000, max_run_duration_seconds=3))
    assert state["status"] == "Failed" and 1 <= state["attempt"] < 12
    assert "time limit" in state["verdict"]["summary"]


def test_the_time_limit_of_a_job_that_was_started_again_is_named_whole(workspace: Any, tmp_path: Path) -> None:
    script = COUNTING + "time.sleep(0.5 if attempt == 1 else 60); sys.exit(1)\n"
    state = _ended(_submit(workspace, tmp_path, script, max_restarts=1, max_run_duration_seconds=4))
    assert state["attempt"] == 2
    assert "ended by its time limit of 4 s." in state["verdict"]["summary"]


SAVING = """
import os, signal, sys, time
attempt, rank = os.environ["TRAINKIT_ATTEMPT"], os.environ["RANK"]
def save(*_):
    time.sleep(6 if rank == "0" else 0)  # longer than a script has that saves nothing
    open("../saved-%s-%s" % (attempt, rank), "w").close()
    os._exit(75)
if attempt == "1":
    signal.signal(signal.SIGTERM, save)
    open("../seen-1-%s" % rank, "w").close()
    time.sleep(600)
"""


@pytest.mark.engine
@pytest.mark.parametrize("spread", ["fork", "torchrun", "mpi"])
def test_all_ranks_have_their_time_to_save_when_the_agent_is_asked_to_end(
    workspace: Any, tmp_path: Path, spread: str
) -> None:
    run = _submit(workspace, tmp_path, SAVING, spread=spread, ranks=2, max_restarts=1)
    wait_until(lambda: all((run.directory / f"seen-1-{rank}").exists() for rank in range(2)), 60, "both ranks")
    os.kill(find("agent", run.directory, run.id), signal.SIGTERM)
    assert _ended(run)["status"] == "Completed"
    assert sorted(path.name for path in run.directory.glob("saved-*")) == ["saved-1-0", "saved-1-1"]
    assert [record["exit_code"] for record in records_of(RunDir(run.directory).attempt(1))] == [75, 75]


STEADY = """
import os, time
with open("../steps-" + os.environ["RANK"], "a+") as file:
    file.seek(0)
    for step in range(len(file.readlines()), 40):
        time.sleep(0.05)
        file.write("%d\\n" % step)
        file.flush()
"""


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_instants(workspace: Any, tmp_path: Path, seed: int) -> None:
    """A driver, an agent or a rank is killed again and again; the run ends well, each of its steps made once."""
    chance = random.Random(seed)
    run = _submit(workspace, tmp_path, STEADY, ranks=2, max_restarts=100)
    for _ in range(5):
        steps = chance.randrange(3, 8)
        before = _steps(run)
        wait_until(lambda: _steps(run) >= before + steps or run.get_status() == "Completed", 60, "progress")  # noqa: B023
        victim = chance.choice(["driver", "agent", "rank", "script"])
        try:
            pid = driver_of(run.directory) if victim == "driver" else find(victim, run.directory, run.id)
        except StopIteration:
            continue  # between two attempts
        if pid is not None:
            kill(pid)
    assert _ended(run)["status"] == "Completed"
    for rank in range(2):
        assert (run.directory / f"steps-{rank}").read_text().split() == [str(step) for step in range(40)]
    wait_until(lambda: not processes_of(run.directory, run.id), 10, "the end of all processes")


def _steps(run: Any) -> int:
    return sum(len(path.read_text().splitlines()) for path in run.directory.glob("steps-*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_restarts": -1}, "max_restarts is a whole number from 0"),
        ({"max_restarts": True}, "max_restarts is a whole number from 0"),
        ({"grace_seconds": 0}, "grace_seconds is a number above 0"),
        ({"resume_from": "nowhere"}, "resume_from: there is no run or folder"),
        ({"resume_from": 7}, "resume_from is a run, a run's directory"),
        ({"resume_from": "."}, "has no checkpoint"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    workspace: Any, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserErrorException) as caught:
        _submit(workspace, tmp_path, "", **values)
    assert message in caught.value.message and not list(workspace.root.glob("runs/*/*"))


def test_what_a_run_goes_on_from_reaches_its_ranks_and_its_record(workspace: Any, tmp_path: Path) -> None:
    saving = "import os\nos.makedirs('../checkpoints/step-00000001')\n"
    first = _submit(workspace, tmp_path, saving + "open('../checkpoints/step-00000001/manifest.json', 'w').close()\n")
    first.wait_for_completion()
    for value in (first, first.id, first.directory, first.directory / "checkpoints"):
        script = "import os\nprint(os.environ['TRAINKIT_RESUME_FROM'])\n"
        run = _submit(workspace, tmp_path, script, resume_from=value)
        run.wait_for_completion()
        assert Path(RunDir(run.directory).attempt(1).rank_log(0).read_text().strip()).is_relative_to(first.directory)
        assert (read_json(RunDir(run.directory).run) or {})["resume_from"]["run"] == first.id


LOOP = """
from trainkit import Run
class Loop:
    def __init__(self, lr): self.lr = lr
    def fit(self):
        Run.get_context().log("lr", self.lr)
        if self.lr > 1:
            raise ValueError("too fast")
        return self.lr
def build(lr: float = 0.1):
    return Loop(lr)
"""


def test_a_loop_is_submitted_by_its_name(workspace: Any, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "train.py").write_text(LOOP)

    def submit(*words: Any) -> Any:
        config = ScriptRunConfig(folder, loop="mine.train:build", arguments=words, run_config=RunConfiguration())
        return Experiment(workspace, "loops").submit(config)

    run = submit("--lr", 0.25)
    run.wait_for_completion()
    assert run.get_metrics() == {"lr": 0.25} and read_json(RunDir(run.directory).run)["loop"] == "mine.train:build"  # type: ignore[index]
    verdict = _ended(submit("--lr", 2))["verdict"]
    assert verdict["exception"] == "ValueError" and verdict["file"].endswith("mine/train.py") and verdict["line"] == 8
    with pytest.raises(UserErrorException, match="--rate is no argument of it"):
        submit("--rate", 2)
