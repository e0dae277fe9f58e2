"""Advances one run: prepare, queue, start, watch, finish. A detached process of its own; the client may die.

It holds a lock on its run that the kernel releases when it dies; whoever looks next (`ensure`) has another take over.
Every step is recorded and is done once, also by a second driver: what is recorded as done is not done again, and agents
run nothing before their launch is recorded. Imports only the standard library and what travels to nodes.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from trainkit import outcome
from trainkit.boot import processes
from trainkit.boot.rundir import TERMINAL, AttemptDir, Lines, Reserved, RunDir, make_private, publish, read_json
from trainkit.errors import EnvironmentBuildError, TrainkitError
from trainkit.job import Job, Launcher

_CANCEL_AGAIN_SECONDS = 6.0
_STARTING_SECONDS = 3.0


class _Canceled(Exception):
    """Somebody asked for the run's end before its job had started."""


class Driver:
    """The one process that advances a run while it holds the run's lock."""

    def __init__(self, run_dir: Path) -> None:
        self.run = RunDir(run_dir)
        self.plan: dict[str, Any] = read_json(self.run.job) or {}
        self.job = Job.from_json(self.plan["job"])
        self.target: dict[str, Any] = self.plan["target"]
        self.root = Path(self.plan["root"])
        self.stages = Lines(self.run.stages)
        self.stage = ("", "")
        self.state = Reserved(self.run.state)  # its space is taken now: a full disk cannot hide how a run ended

    def drive(self) -> None:
        """Bring the run from wherever it is to its end."""
        from trainkit.slots import Slots

        slots = Slots(self.root / "targets" / self.target["name"], self.target.get("max_nodes"))
        try:
            if self.run.state.exists():
                self.state.discard()
                return
            attempt = self._launched()
            if attempt is None:
                slots.request(self.job.run_id, self.run.path, self.job.nodes)
                interpreter, boot = self._prepare()
                self._queue(slots)
                attempt = self._start(interpreter, boot)
            self._finish(attempt, self._watch(attempt))
        except _Canceled:
            self._publish("Canceled", None, [], 0)
        except EnvironmentBuildError as error:
            self._fail("environment", error.message, output=error.output, log=str(self.run.prepare_log))
        except TrainkitError as error:
            self._fail("launch", error.message, log=str(self.run.driver_log))
        except Exception as error:
            import traceback

            traceback.print_exc()
            self._fail(
                "driver", f"trainkit's driver failed: {type(error).__name__}: {error}", log=str(self.run.driver_log)
            )
        finally:
            slots.release(self.job.run_id)

    def _say(self, status: str, details: str = "") -> None:
        """Record a step, unless it is the one recorded last."""
        if self.stage != (status, details):
            self.stage = (status, details)
            self.stages.append({"time": time.time(), "status": status, "details": details})

    def _check_cancel(self) -> None:
        if self.run.cancel.exists():
            raise _Canceled

    def _launched(self) -> AttemptDir | None:
        """The attempt that is known to have been launched, if any."""
        launched = [attempt for attempt in self.run.attempts() if attempt.handle.exists()]
        return launched[-1] if launched else None

    def _prepare(self) -> tuple[str, str]:
        """The interpreter that the job runs with, and the boot zip where it has no trainkit."""
        from trainkit.environment import EnvironmentSpec
        from trainkit.prepare import prepare

        self._check_cancel()
        self._say("Preparing")
        spec = EnvironmentSpec.from_json(self.plan["environment"])
        try:
            prepared = prepare(spec, self.root / "envs", self.run.prepare_log, self.run.cancel.exists)
        except EnvironmentBuildError:
            self._check_cancel()
            raise
        self._say("Preparing", prepared.words)
        if not prepared.needs_boot:
            return prepared.interpreter, ""
        from trainkit.bundle import bundle

        return prepared.interpreter, str(bundle(self.root / "boot"))

    def _queue(self, slots: Any) -> None:
        """Wait for the target to have room; first come, first served."""
        pause = 0.02
        while True:
            why = slots.acquire(self.job.run_id)
            self._check_cancel()
            if not why:
                self._say("Queued", f"{self.target['name']} has room" if self.stage[0] == "Queued" else "")
                return
            self._say("Queued", why)
            for ticket in slots.tickets():
                if ticket.run_id != self.job.run_id:
                    ensure(ticket.run_dir)
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)

    def _launcher(self) -> Launcher:
        from trainkit.boot.plugins import launcher

        return cast(Launcher, launcher(self.target["launcher"])(**self.target.get("options", {})))

    def _start(self, interpreter: str, boot: str) -> AttemptDir:
        """Launch the agents and record the handle; only then do they start ranks."""
        number = max((a.number for a in self.run.attempts()), default=0) + 1
        attempt = self.run.attempt(number)
        for directory in (attempt.path, attempt.logs, attempt.ranks, attempt.nodes):
            make_private(directory)
        job = dataclasses.replace(
            self.job, attempt=number, interpreter=interpreter, boot=boot, environment=self._environment()
        )
        _write_key(attempt.key)
        publish(attempt.job, job.to_json())
        self._folders()
        self._check_cancel()
        self._say("Running", f"{job.world_size} rank(s) on {job.nodes} node(s) of {self.target['name']}, {job.devices}")
        handle = self._launcher().start(job)
        publish(attempt.handle, {"handle": handle, "launcher": self.target["launcher"], "time": time.time()})
        return attempt

    def _environment(self) -> dict[str, str]:
        """What every rank is told about its run, beside the user's own variables."""
        record = read_json(self.run.run) or {}
        workspace = record.get("workspace") or {}
        return {
            **self.job.environment,
            "TRAINKIT_ROOT": str(self.root),
            "AZUREML_ARM_WORKSPACE_NAME": str(workspace.get("name", "")),
            "AZUREML_WORKSPACE_ID": str(workspace.get("name", "")),
            "AZUREML_ARM_SUBSCRIPTION": str(workspace.get("subscription_id", "")),
            "AZUREML_ARM_RESOURCEGROUP": str(workspace.get("resource_group", "")),
        }

    def _folders(self) -> None:
        """outputs/ and logs/ in the script's working directory are the run's own: nothing is copied at the end."""
        for folder in (self.run.outputs, self.run.logs):
            make_private(folder)
            link = self.run.code / folder.name
            if not link.is_symlink() and not link.exists():
                link.symlink_to(folder, target_is_directory=True)

    def _watch(self, attempt: AttemptDir) -> str:
        """Wait for the job's end; the launcher's words where it was lost, else nothing."""
        launcher, handle = self._launcher(), (read_json(attempt.handle) or {})["handle"]
        if self.stage[0] != "Running":
            self._say("Running")
        asked, begun, pause = 0.0, time.monotonic(), 0.01
        while True:
            status = launcher.poll(handle)
            if status.phase == "ended":
                return ""
            if status.phase == "lost":
                return status.words or "the cluster no longer knows the job"
            if self.run.cancel.exists() and time.monotonic() - asked > _CANCEL_AGAIN_SECONDS:
                asked = time.monotonic()
                launcher.cancel(handle)
            time.sleep(pause)
            pause = 0.01 if time.monotonic() - begun < _STARTING_SECONDS else min(0.25, pause * 1.2)

    def _finish(self, attempt: AttemptDir, lost: str) -> None:
        """Judge by the records, and publish the state."""
        self._say("Finalizing")
        ends = outcome.ends_of(attempt)
        if len(ends) < self.job.nodes and not lost:
            processes.sweep("TRAINKIT_RUN_ID", self.job.run_id)
        records = outcome.records_of(attempt)
        canceled = self.run.cancel.exists()
        status, verdict = outcome.judge(self.job.world_size, records, ends, lost, canceled, self.job.nodes)
        self._publish(status, verdict, records, attempt.number)

    def _fail(self, kind: str, message: str, **values: Any) -> None:
        """End a run that never got as far as ranks."""
        verdict = {
            "stage": self.stage[0] or "Preparing",
            "kind": kind,
            "rank": None,
            "message": message,
            "victims": [],
            **values,
        }
        self._publish("Failed", {**verdict, "summary": message}, [], 0)

    def _publish(
        self, status: str, verdict: dict[str, Any] | None, records: list[dict[str, Any]], attempt: int
    ) -> None:
        assert status in TERMINAL
        brief = [{key: r.get(key) for key in _KEPT} for r in records[:256]]
        self.state.publish(
            {"status": status, "time": time.time(), "verdict": verdict, "ranks": brief, "attempt": attempt}
        )


_KEPT = ("rank", "node", "node_name", "started", "ended", "exit_code", "signal", "exception", "asked_to_end")


def _write_key(path: Path) -> None:
    if path.exists():
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(32))


def spawn(run_dir: str | Path) -> None:
    """Start a detached driver for the run; it ends at once if another one has the run."""
    run = RunDir(run_dir)
    from trainkit.boot.ranks import without_ranks

    _spawned[:] = [driver for driver in _spawned if driver.poll() is None]
    with open(run.driver_log, "ab") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "trainkit.driver", str(run.path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, cwd=str(run.path), env=without_ranks(os.environ),
        )  # fmt: skip
    _spawned.append(driver)


_spawned: list[subprocess.Popen[bytes]] = []  # this process's drivers, kept to be reaped as they end


def ensure(run_dir: str | Path) -> None:
    """See to it that a run that has not ended has a driver: whoever looks has it taken over."""
    run = RunDir(run_dir)
    if run.state.exists() or not run.job.exists():
        return
    try:
        lock = processes.hold_lock(run.driver_lock)
    except FileNotFoundError:
        return
    if lock is not None:
        os.close(lock)
        spawn(run_dir)


def adopt(root: str | Path) -> None:
    """`ensure` for every run of a workspace that holds or waits for a place on a target."""
    from trainkit.slots import Slots

    for directory in Path(root).glob("targets/*"):
        for ticket in Slots(directory, None).tickets():
            ensure(ticket.run_dir)


def main(argv: list[str]) -> int:
    """Entry point of `python -m trainkit.driver RUN_DIR`."""
    run = RunDir(argv[0])
    os.umask(0o077)
    if processes.hold_lock(run.driver_lock) is None:
        return 0
    Driver(run.path).drive()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
