"""The local launcher keeps the laws."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from trainkit import outcome
from trainkit.boot.rundir import publish
from trainkit.job import Launcher
from trainkit.testing import LauncherLaws, make_job, wait_until
from trainkit_launchers.local import Local


class TestLocal(LauncherLaws):
    """All laws, on two logical nodes of this machine."""

    def launcher(self) -> Launcher:
        return Local()


def test_a_restarted_machine_has_lost_its_jobs() -> None:
    status = Local().poll("00000000-0000-0000-0000-000000000000:1:1")
    assert (status.phase, status.words) == ("lost", "machine restarted")


@pytest.mark.parametrize("victim", [0, 1])
def test_nobody_waits_for_an_agent_that_was_killed_before_they_met(tmp_path: Path, victim: int) -> None:
    job, attempt = make_job(tmp_path, "", nodes=2)
    handle = Local().start(job)
    wait_until(lambda: all(attempt.agent(node).exists() for node in range(2)), 30, "both agents")
    os.kill(int(handle.split(",")[victim].split(":")[1]), signal.SIGKILL)
    publish(attempt.handle, {"handle": handle})
    wait_until(lambda: Local().poll(handle).phase == "ended", 10, "the end of the other one")
    (end,) = outcome.ends_of(attempt)
    assert end["problem"] == f"The agent of node {victim} was killed before the job began."
