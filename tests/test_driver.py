"""What a driver makes of a cluster that refuses to start a job again, or whose answer to that is lost."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainkit import ComputeTarget
from trainkit.boot.rundir import RunDir, read_json
from trainkit.console import Console
from trainkit.merged import merged
from trainkit.outcome import records_of, stages_of
from trainkit.runfiles import DRIVER_LOG
from trainkit.testing import runs, wait_until
from trainkit_launchers.ssh import Ssh

# An ssh whose hosts are this machine. A file beside it says what becomes of calls that start an agent: `lost`: the next
# is started, but nobody hears of that; `refused`: nobody is let in; `silent`: no host answers.
SSH = f"""#!{sys.executable}
import os, subprocess, sys
here = os.path.dirname(os.path.abspath(__file__))
says = lambda word: os.path.exists(os.path.join(here, word))
def end(words):
    sys.stderr.write(words + "\\n")
    sys.exit(255)
given = sys.stdin.buffer.read()
act = given.rpartition(b"\\n{{")[2]
start = act.startswith(b'"act": "start"')
if start and says("refused"):
    end("me@a: Permission denied (publickey).")
if start and says("silent"):
    end("ssh: connect to host a port 22: Connection timed out")
if start and says("lost"):
    os.rename(os.path.join(here, "lost"), os.path.join(here, "gone"))
    subprocess.run(["sh", "-c", sys.argv[-1]], input=given, capture_output=True)
    end("Connection to a closed by remote host.")
if says("gone") and act.startswith(b'"act": "end"'):
    os.unlink(os.path.join(here, "gone"))
    end("ssh: connect to host a port 22: Connection timed out")
sys.exit(subprocess.run(["sh", "-c", sys.argv[-1]], input=given).returncode)
"""
SCRIPT = """
import os, sys
attempt = os.environ["TRAINKIT_ATTEMPT"]
print("attempt", attempt, flush=True)
if attempt == "1":
    open(os.environ["BECOMES"], "w").close()
    sys.exit("it went wrong")
"""


@pytest.fixture
def restarted(workspace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Submits a job whose first attempt fails, after which the cluster `becomes` so, for one restart at most."""
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    ComputeTarget.attach(workspace, "lab", Ssh(hosts=("a",)), max_nodes=1)

    def submitted(becomes: str) -> Any:
        script = SCRIPT.replace('os.environ["BECOMES"]', repr(str(ssh.parent / becomes)))
        return runs.submit(workspace, tmp_path / "source", script, max_restarts=1, compute_target="lab")

    return submitted


def _ended(run: Any) -> dict[str, Any]:
    run.wait_for_completion(raise_on_error=False)
    return dict(read_json(RunDir(run.directory).state) or {})


def test_a_try_that_may_have_started_something_keeps_its_number(
    restarted: Callable[[str], Any], command_line: Callable[..., tuple[int, str, str]]
) -> None:
    """Else its agent would take the next one's records for its own, and two jobs would run under one name."""
    run = restarted("lost")
    state, files = _ended(run), RunDir(run.directory)
    assert (state["status"], state["attempt"], state["verdict"]) == ("Completed", 3, None)
    assert [attempt.handle.exists() for attempt in files.attempts()] == [True, False, True]
    restarts = {stage["details"].partition(":")[0] for stage in stages_of(files)}
    assert {words for words in restarts if "restart" in words} == {"restart 1 of 1"}
    assert files.attempt(3).rank_log(0).read_text() == "attempt 3\n"
    given_up = files.attempt(2)
    wait_until(given_up.agent_end(0).exists, 40, "the end of the agent that nobody knew of")
    assert not records_of(given_up) and not list(given_up.logs.glob("rank-*"))
    _, out, err = command_line("logs", run.id)
    assert out == "attempt 3\n" and "this is attempt 3;" in err


def _told_of_attempt_1(state: dict[str, Any], run: Any) -> None:
    assert state["attempt"] == 1
    assert [(rank["rank"], rank["exit_code"]) for rank in state["ranks"]] == [(0, 1)]
    assert [line.text for line in merged(run.directory)] == ["attempt 1", "it went wrong"]
    assert (Path(run.directory) / "attempts/2").exists()
    driver_log = run.get_details()["logFiles"][DRIVER_LOG]
    assert driver_log.endswith("/attempts/1/logs/rank-0.log") and DRIVER_LOG in run.get_file_names()


def test_a_restart_that_is_refused_hides_nothing_of_what_has_run(
    restarted: Callable[[str], Any], command_line: Callable[..., tuple[int, str, str]]
) -> None:
    run = restarted("refused")
    state = _ended(run)
    _told_of_attempt_1(state, run)
    assert (state["status"], state["verdict"]["kind"]) == ("Failed", "launch")
    summary = state["verdict"]["summary"]
    assert summary.startswith("rank 0 exited with code 1; it could not be started again: 0 of 1 node(s) could be")
    assert "Permission denied" in state["verdict"]["message"] and "Permission denied" in summary
    _, out, err = command_line("logs", run.id)
    assert (out, err) == ("attempt 1\nit went wrong\n", "")
    shown = io.StringIO()
    console = Console(RunDir(run.directory), shown)
    console.step()
    assert "attempt 1\nit went wrong\n" in shown.getvalue()


def test_a_run_that_is_canceled_while_it_is_started_again_keeps_what_has_run(restarted: Callable[[str], Any]) -> None:
    run = restarted("silent")
    wait_until((Path(run.directory) / "attempts/2/job.json").exists, 60, "the first try")
    run.cancel()
    state = _ended(run)
    assert (state["status"], state["verdict"]) == ("Canceled", None)
    _told_of_attempt_1(state, run)
