"""What a driver makes of a cluster that refuses to start a job again, or whose answer to that is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainkit import ComputeTarget
from trainkit.boot.rundir import RunDir, read_json
from trainkit.outcome import records_of, stages_of
from trainkit.testing import runs, wait_until
from trainkit_launchers.ssh import Ssh

# An ssh whose hosts are this machine. A file beside it says what becomes of its calls from now on: `lost`: the next
# agent is started, but nobody hears of that; `refused`: no host lets anybody in; `silent`: none answers.
SSH = f"""#!{sys.executable}
import os, subprocess, sys
here = os.path.dirname(os.path.abspath(__file__))
says = lambda word: os.path.exists(os.path.join(here, word))
def end(words):
    sys.stderr.write(words + "\\n")
    sys.exit(255)
if says("refused"):
    end("me@a: Permission denied (publickey).")
if says("silent"):
    end("ssh: connect to host a port 22: Connection timed out")
given = sys.stdin.buffer.read()
act = given.rpartition(b"\\n{{")[2]
if says("lost") and act.startswith(b'"act": "start"'):
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
