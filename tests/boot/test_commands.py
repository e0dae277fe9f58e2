"""What an agent says of its commands: how each ended, and whether that was the agent's own doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainkit.boot.commands import Commands

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def started(folder: Path, *commands: list[str]) -> Commands:
    made = Commands(str(folder))
    for argv in commands:
        made.run(argv, dict(os.environ), subprocess.DEVNULL)
    return made


def test_a_command_that_ended_by_itself_is_told_from_those_that_were_ended(tmp_path: Path) -> None:
    commands = started(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"], SLEEP)
    while not commands.failed():
        time.sleep(0.01)
    commands.ask_to_end("nobody's run", saving=False)
    commands._started[1].process.wait()
    commands.end()
    first, second = commands.told()
    assert (first["status"], first["asked"]) == (3, False)
    assert (second["argv"], second["status"], second["asked"]) == (SLEEP, -signal.SIGTERM, True)
    assert 0 < first["ended"] <= second["ended"]


def test_what_was_killed_before_the_end_was_wanted_was_not_asked(tmp_path: Path) -> None:
    commands = started(tmp_path, SLEEP)
    process = commands._started[0].process
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    commands.ask_to_end("nobody's run", saving=False)
    commands.end()
    assert [(told["status"], told["asked"]) for told in commands.told()] == [(-signal.SIGKILL, False)]
