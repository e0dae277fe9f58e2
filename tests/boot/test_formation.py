"""An attempt that the cluster begins again by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from trainkit.boot.formation import formation
from trainkit.boot.rundir import RunDir, make_private, publish, read_json


def test_the_time_limit_is_for_all_attempts_together(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first = run.attempt(1)
    make_private(first.nodes)
    publish(first.job, {"max_seconds": 3600.0, "attempt": 1})
    publish(first.handle, {"handle": "7", "time": time.time() - 9000})  # it waited for long
    publish(first.agent(0), {"identity": "a:1:1", "time": time.time() - 3000})
    again = formation(run, 2, 0)
    job = read_json(again.job)
    assert again.number == 2 and job is not None and job["attempt"] == 2
    assert 500 < job["max_seconds"] <= 600
    assert formation(run, 2, 1).path == again.path
    assert formation(run, 1, 0).path == first.path
    assert (read_json(again.handle) or {})["requeued"] is True


def test_an_agent_whose_head_never_forms_the_attempt_says_so(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    make_private(run.attempt(1).nodes)
    publish(run.attempt(1).job, {"attempt": 1})
    publish(run.attempt(1).handle, {"handle": "7"})
    program = (
        "import sys; from trainkit.boot import agent, formation; formation._PATIENCE_SECONDS = 0; "
        "sys.exit(agent.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "2", "1"], stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stderr == "The head's agent has not formed attempt 2.\n"
    end = read_json(run.attempt(2).agent_end(1)) or {}
    assert (end["node"], end["problem"], end["transient"]) == (1, done.stderr.strip(), True)
