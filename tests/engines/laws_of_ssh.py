"""The laws of a launcher for ssh, run by test_ssh.py inside a testbed, where there are hosts to reach."""

from __future__ import annotations

import os

from trainkit.job import Launcher
from trainkit.testing import LauncherLaws
from trainkit_launchers.ssh import Ssh

SHARED = os.environ.get("LAWS_OF_SSH") != "staged"


class TestSsh(LauncherLaws):
    """On two nodes: with a shared disk, or with the files sent."""

    def launcher(self) -> Launcher:
        return Ssh(hosts=("node1", "node2"), shared_disk=SHARED)
