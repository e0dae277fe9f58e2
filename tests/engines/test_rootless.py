"""Jobs in containers of a user who is not root: the files are the user's, and what is killed leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest

from tests.engines.rootless import Rootless
from trainkit.boot import processes
from trainkit.boot.rundir import RunDir
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
PROGRAM = str(Path(sys.executable).parent / "trainkit")
SCRIPT = """
import os, sys, time
open("outputs/here.txt", "w").write(str(os.getuid()))
os.rename("outputs/here.txt", "outputs/here")
time.sleep(float(sys.argv[1]))
"""


class Client:
    """The user in a folder with a workspace."""

    def __init__(self, user: Rootless) -> None:
        self.user, self.folder = user, user.home / uuid.uuid4().hex[:8]
        user.run("mkdir", str(self.folder))
        (self.folder / "train.py").write_text(SCRIPT)
        self.call("init")

    def call(self, *words: str, code: int = 0) -> str:
        """What a command of trainkit prints; asserts its exit code."""
        hidden = {"DOCKER_HOST": f"unix://{self.folder}/no-docker"}
        return self.user.run(PROGRAM, *words, cwd=self.folder, env=hidden, code=code).stdout

    def submit(self, seconds: float) -> RunDir:
        """A run in a container of the small image, which has begun."""
        run_id = self.call("submit", "train.py", "--image", self.user.small, "--gpu", "no", "--", str(seconds)).strip()
        run = RunDir(next(self.folder.glob(f".trainkit/runs/*/{run_id}")))
        wait_until(lambda: (run.outputs / "here").exists() or run.state.exists(), 60, "the beginning of the rank")
        return run

    def nothing_stays(self, run: RunDir) -> None:
        """Neither a process nor a container, a few seconds after the end."""
        wait_until(lambda: not processes.with_environment("TRAINKIT_RUN_ID", run.path.name), 10, "the end of all")
        listed = ("podman", "ps", "--all", "--format", "{{.Names}}")
        wait_until(lambda: run.path.name not in self.user.run(*listed).stdout, 10, "the end of the container")


def test_a_job_of_a_user_who_is_not_root_makes_files_of_this_user(rootless: Rootless) -> None:
    client = Client(rootless)
    run = client.submit(0)
    client.call("wait", run.path.name)
    told = json.loads(client.call("show", run.path.name, "--json"))
    assert told["status"] == "Completed", told
    here = run.outputs / "here"
    assert here.read_text() == str(rootless.uid) == str(here.stat().st_uid)
    client.nothing_stays(run)


@pytest.mark.parametrize("killed", ["guard", "engine"])
def test_what_is_killed_takes_the_container_along(rootless: Rootless, killed: str) -> None:
    client = Client(rootless)
    run = client.submit(300)
    guard = int(json.loads(run.attempt(1).agent(0).read_text())["identity"].split(":")[1])
    os.kill(guard if killed == "guard" else processes.children_of(guard)[0], signal.SIGKILL)
    client.call("wait", run.path.name, code=1)
    client.nothing_stays(run)
