"""The local launcher keeps the laws."""

from __future__ import annotations

from trainkit.job import Launcher
from trainkit.testing import LauncherLaws
from trainkit_launchers.local import Local


class TestLocal(LauncherLaws):
    """All laws, on two logical nodes of this machine."""

    def launcher(self) -> Launcher:
        return Local()


def test_a_restarted_machine_has_lost_its_jobs() -> None:
    status = Local().poll("00000000-0000-0000-0000-000000000000:1:1")
    assert (status.phase, status.words) == ("lost", "machine restarted")
