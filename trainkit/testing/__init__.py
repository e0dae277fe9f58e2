"""For those who write launchers, and for trainkit's own tests: the laws of a launcher as tests to subclass.

class TestMine(LauncherLaws):
    def launcher(self):
        return Mine(...)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainkit import outcome
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.processes import with_environment, words_of
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish
from trainkit.job import Job, Launcher

_WHO = """
import json, os, sys
names = ("RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "TRAINKIT_NODES", "TRAINKIT_NODE_NAME")
with open(os.path.join("..", "who-" + os.environ["RANK"]), "w") as file:
    json.dump({name: os.environ[name] for name in names}, file)
"""
# Sleeps beside a child, and beside a daemon: in another session, no child of the script, deaf to SIGTERM, without the
# job's environment. Only its argument names it.
SLEEPERS = """
import os, signal, subprocess, time
subprocess.Popen(["sleep", "300"])
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.execvpe("sleep", ["sleep", "300." + os.environ["TRAINKIT_RUN_ID"].rpartition("_")[2]], {})
    os._exit(0)
time.sleep(300)
"""


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's first true value. Raises AssertionError, saying what did not happen, at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def make_job(directory: Path, script: str, **values: Any) -> tuple[Job, AttemptDir]:
    """A job on a new run directory, as the driver hands it to a launcher."""
    run = RunDir(directory)
    make_private(run.code)
    (run.code / "train.py").write_text(script)
    attempt = run.attempt(1)
    prepare_attempt(attempt)
    job = Job(
        run_id=f"laws_{time.time_ns()}", experiment="laws", run_dir=str(run.path), attempt=1,
        interpreter=sys.executable, script="train.py", **values,
    )  # fmt: skip
    publish(attempt.job, job.to_json())
    return job, attempt


def launch(launcher: Launcher, job: Job, attempt: AttemptDir) -> str:
    """Start the job as the driver does: the agents begin once the handle is recorded."""
    handle = launcher.start(job)
    publish(attempt.handle, {"handle": handle})
    return handle


def daemons(job: Job) -> list[int]:
    """Pids of the daemons that the script `SLEEPERS` has left on this machine's nodes, one for each rank."""
    words = ["sleep", "300." + job.run_id.rpartition("_")[2]]
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and words_of(int(entry)) == words]


class LauncherLaws:
    """What every launcher promises; subclass it, give it `launcher`, and run it with pytest."""

    nodes = 2
    end_seconds = 60.0

    def launcher(self) -> Launcher:
        """The launcher under test, made anew for each law."""
        raise NotImplementedError("subclasses say which launcher they test")

    def ended(self, launcher: Launcher, handle: str) -> None:
        """Wait for the job's end."""
        wait_until(lambda: launcher.poll(handle).phase == "ended", self.end_seconds, "the job's end")

    def test_start_raises_and_leaves_nothing_where_it_cannot_start(self, tmp_path: Path) -> None:
        """Law 1: everything or nothing."""
        job, attempt = make_job(tmp_path, SLEEPERS, nodes=self.nodes)
        attempt.logs.rmdir()
        try:
            self.launcher().start(job)
        except Exception:
            assert not with_environment("TRAINKIT_RUN_ID", job.run_id)
            assert not list(attempt.nodes.glob("*.agent.json"))
        else:
            raise AssertionError("a job whose directory is damaged was started")

    def test_every_node_knows_its_place_and_the_head(self, tmp_path: Path) -> None:
        """Law 2: node ranks 0..n-1, one head address and port, one node list; law 5: what ranks wrote is here."""
        job, attempt = make_job(tmp_path, _WHO, nodes=self.nodes)
        launcher = self.launcher()
        self.ended(launcher, launch(launcher, job, attempt))
        told = [json.loads((tmp_path / f"who-{rank}").read_text()) for rank in range(self.nodes)]
        assert [t["NODE_RANK"] for t in told] == [str(n) for n in range(self.nodes)]
        assert len({(t["MASTER_ADDR"], t["MASTER_PORT"], t["TRAINKIT_NODES"]) for t in told}) == 1
        assert [t["TRAINKIT_NODE_NAME"] for t in told] == told[0]["TRAINKIT_NODES"].split(",")
        assert [outcome.ok(record) for record in outcome.records_of(attempt)] == [True] * self.nodes

    def test_the_handle_works_in_another_process(self, tmp_path: Path) -> None:
        """Law 3: the process that started the job may die."""
        job, attempt = make_job(tmp_path, "import time; time.sleep(1)")
        code = (
            "import pickle, sys; launcher, job = pickle.loads(bytes.fromhex(sys.argv[1])); print(launcher.start(job))"
        )
        import pickle

        packed = pickle.dumps((self.launcher(), job)).hex()
        done = subprocess.run([sys.executable, "-c", code, packed], capture_output=True, text=True, check=True)
        handle = done.stdout.strip()
        publish(attempt.handle, {"handle": handle})
        launcher = self.launcher()
        assert launcher.poll(handle).phase in ("queued", "running")
        self.ended(launcher, handle)
        assert [outcome.ok(record) for record in outcome.records_of(attempt)] == [True]

    def test_poll_never_raises_for_what_has_ended(self, tmp_path: Path) -> None:
        """Law 4, and law 7: a failing script is no failure of the launcher."""
        job, attempt = make_job(tmp_path, "raise SystemExit(3)")
        launcher = self.launcher()
        handle = launch(launcher, job, attempt)
        self.ended(launcher, handle)
        assert self.launcher().poll(handle).phase in ("ended", "lost")
        assert outcome.records_of(attempt)[0]["exit_code"] == 3

    def test_cancel_ends_everything_and_may_be_called_again(self, tmp_path: Path) -> None:
        """Law 6: also what a script has made a daemon."""
        job, attempt = make_job(tmp_path, SLEEPERS, nodes=self.nodes)
        launcher = self.launcher()
        handle = launch(launcher, job, attempt)
        wait_until(lambda: len(daemons(job)) == self.nodes, self.end_seconds, "the ranks' daemons")
        launcher.cancel(handle)
        launcher.cancel(handle)
        self.ended(launcher, handle)
        wait_until(
            lambda: not (with_environment("TRAINKIT_RUN_ID", job.run_id) + daemons(job)), 10, "the end of all processes"
        )
        launcher.cancel(handle)
