"""Advances one run: prepare, queue, start, watch, finish. A detached process of its own; the client may die.

It holds a lock on its run that the kernel releases when it dies; whoever looks next has another take over
(`trainkit.drivers`).
Every step is recorded and is done once, also by a second driver: what is recorded as done is not done again, and agents
run nothing before their launch is recorded. Imports only the standard library and what travels to nodes.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainkit import outcome, preparing, restarts
from trainkit.boot import attempts, processes
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.reserved import Reserved
from trainkit.boot.rundir import TERMINAL, AttemptDir, Lines, RunDir, make_private, publish, read_json
from trainkit.drivers import ensure
from trainkit.errors import EnvironmentBuildError, LaunchError, TrainkitError, WorkspaceException
from trainkit.job import Job, Launcher
from trainkit.judging import GRACE_SECONDS, brief, judged
from trainkit.options import several_machines
from trainkit.slots import Slots
from trainkit.starting import environment
from trainkit.watching import CANCEL_AGAIN_SECONDS, watch

_RETRY_SECONDS, _RETRY_PAUSE_SECONDS = 30.0, 3.0  # of a start that the cluster does not take now


class _Canceled(Exception):
    """Somebody asked for the run's end before its job had started, or had been started again."""


class Driver:
    """The one process that advances a run while it holds the run's lock."""

    plan: dict[str, Any]
    job: Job
    target: dict[str, Any]

    def __init__(self, run_dir: Path, password: str = "") -> None:
        self.run = RunDir(run_dir)
        self.password = password  # of the image's registry, where it was given by value: it is nowhere else
        self.root = self.run.path.parents[2]  # not what was recorded: a workspace may be moved while nothing runs
        self.slots: Slots | None = None
        self.stages: Lines | None = None
        self.stage = ("", "")
        self.before = ""  # why the last attempt ended, while the next is being started
        self.state = Reserved(self.run.state, sole=True)  # a full disk cannot hide how a run ended

    def drive(self) -> None:
        """Bring the run from wherever it is to its end."""
        if self.run.state.exists():
            self.state.discard()
            return
        try:
            self._read_plan()
            self._advance()
        except _Canceled:
            self._publish("Canceled", None, *self._so_far())
        except EnvironmentBuildError as error:
            self._fail("environment", error.message, output=error.output, log=str(self.run.prepare_log))
        except TrainkitError as error:
            self._end_job()
            self._fail("launch", error.message, log=str(self.run.driver_log))
        except Exception as error:
            self._end_job()
            self._fail(
                "driver", f"trainkit's driver failed: {type(error).__name__}: {error}", log=str(self.run.driver_log)
            )
            raise
        finally:
            if self.slots is not None:
                with suppress(OSError, TrainkitError):  # whoever looks next drops the ticket of a run that has ended
                    self.slots.release(self.job.run_id)

    def _read_plan(self) -> None:
        """What submitting decided. Raises WorkspaceException where that is damaged."""
        plan = read_json(self.run.job, "job", "environment", "target")
        try:
            self.plan = dict(plan or {})
            self.target = dict(self.plan["target"])
            self.job = dataclasses.replace(Job.from_json(self.plan["job"]), run_dir=str(self.run.path))
            directory, limit = self.root / "targets" / str(self.target["name"]), self.target.get("max_nodes")
        except (KeyError, TypeError, ValueError) as error:
            raise WorkspaceException(
                f"{self.run.job} is damaged or missing ({error!r}); submit the job again."
            ) from error
        self.slots = Slots(directory, limit)

    def _advance(self) -> None:
        """All steps that are not yet recorded as done."""
        assert self.slots is not None
        attempt = self._launched()
        if attempt is None:
            self.slots.request(self.job.run_id, self.run.path, self.job.nodes)
            job = self._prepare()
            self._queue(self.slots)
            attempt = self._launch(job)
        while True:
            lost, words = self._watch(attempt)
            attempt = self._launched() or attempt  # the cluster, or the agents, may have started the job again
            status, verdict, records = judged(self.run, attempt, lost, words)
            if not restarts.may_restart(self.run, self.job, verdict):
                break
            self.before = str((verdict or {})["summary"])
            attempt, self.before = self._restart(attempt, self.before), ""
        self._say("Finalizing")
        self._publish(status, verdict, records, attempt.number)

    def _end_job(self) -> None:
        """See to it that nothing runs on of a job whose run is about to fail for a reason of the driver's own."""
        attempt = self._launched()
        if attempt is None:
            return
        with suppress(Exception):
            launcher, handle = self._launcher(), str((read_json(attempt.handle, "handle") or {})["handle"])
            launcher.cancel(handle)
            deadline = time.monotonic() + CANCEL_AGAIN_SECONDS
            while launcher.poll(handle).phase in ("queued", "running") and time.monotonic() < deadline:
                time.sleep(0.05)
        processes.sweep("TRAINKIT_RUN_ID", self.run.path.name, grace=GRACE_SECONDS)

    def _say(self, status: str, details: str = "") -> None:
        """Record a step, unless it is the one recorded last."""
        if self.stage != (status, details):
            self.stage = (status, details)
            with suppress(OSError):  # of a full disk: the job goes on
                self.stages = self.stages or Lines(self.run.stages)
                self.stages.append({"time": time.time(), "status": status, "details": details})

    def _check_cancel(self) -> None:
        if self.run.cancel.exists():
            raise _Canceled

    def _launched(self) -> AttemptDir | None:
        """The attempt that is known to have been launched, if any."""
        return next(reversed(attempts.launched(self.run)), None)

    def _prepare(self) -> Job:
        """The job with the interpreter or image that it runs in, and the boot zip where that has no trainkit."""
        self._check_cancel()
        self._say("Preparing")
        travels = several_machines(self._launcher())
        try:
            prepared = preparing.prepare_run(self.run, self.root, self.plan, travels, self.password)
        except EnvironmentBuildError:
            self._check_cancel()
            raise
        self._say("Preparing", prepared.words)
        return preparing.told(self.job, prepared, self.root, travels)

    def _queue(self, slots: Slots) -> None:
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
        from trainkit.options import launcher_of

        return launcher_of(str(self.target["launcher"]), self.target.get("options") or {})

    def _start(self, job: Job, why: str = "", limit: float = 0.0, nodes: int = 0) -> AttemptDir:
        """Launch the agents and record the handle; only then do they start ranks."""
        number = max((a.number for a in self.run.attempts()), default=0) + 1
        attempt = self.run.attempt(number)
        prepare_attempt(attempt)
        job = dataclasses.replace(
            job, attempt=number, nodes=nodes or self.job.nodes,
            environment=environment(self.run, self.root, self.job), max_seconds=limit or self.job.max_seconds,
        )  # fmt: skip
        publish(attempt.job, job.to_json())
        self._folders()
        self._check_cancel()
        self._say(
            "Running", f"{why}{job.world_size} rank(s) on {job.nodes} node(s) of {self.target['name']}, {job.devices}"
        )
        handle = self._launcher().start(job)
        publish(attempt.handle, {"handle": handle, "launcher": self.target["launcher"], "time": time.time()})
        return attempt

    def _folders(self) -> None:
        """outputs/ and logs/ in the script's working directory are the run's own: nothing is copied at the end."""
        for folder in (self.run.outputs, self.run.logs):
            make_private(folder)
            link = self.run.code / folder.name
            if not link.is_symlink() and not link.exists():
                link.symlink_to(folder, target_is_directory=True)

    def _watch(self, attempt: AttemptDir) -> tuple[str, str]:
        """Wait for the job's end; why it is lost where it is, else nothing, and the cluster's words on its end."""
        if self.stage[0] != "Running":
            self._say("Running")
        return watch(self.run, attempt, self._launcher(), self._say)

    def _restart(self, attempt: AttemptDir, why: str) -> AttemptDir:
        """The next attempt, with the interpreter of the last one, on as many nodes as there are and the job needs.

        The run keeps its place at the target.
        """
        last = Job.from_json(read_json(attempt.job, "interpreter") or {})
        job = dataclasses.replace(self.job, interpreter=last.interpreter, boot=last.boot, container=last.container)
        return self._launch(job, restarts.restart_words(attempts.made(self.run) + 1, self.job, why))

    def _launch(self, job: Job, restart: str = "") -> AttemptDir:
        """Start the job, for the first time or as a `restart`, which may go on with fewer nodes.

        A cluster that does not answer is asked again for a while, each time for an attempt of another number: it may
        have started the last one, though nobody heard of that. Without a handle such an attempt counts for nothing,
        and its agents end.
        """
        nodes, deadline = self.job.nodes, time.monotonic() + _RETRY_SECONDS
        while True:
            left = attempts.seconds_left(self.run)
            try:
                return self._start(job, restart, max(1.0, left) if left else 0.0, nodes)
            except LaunchError as error:
                fewer = error.available or 0
                enough = bool(restart) and 0 < self.job.min_nodes <= fewer < nodes
                hopeful = error.transient and (restart or self._unanswered(error)) and time.monotonic() < deadline
                if not enough and not hopeful:
                    raise
                if not enough:
                    self._say("Queued", f"{error.message} It is asked again for up to {_RETRY_SECONDS:g} s.")
                nodes = fewer if enough else nodes
                time.sleep(0 if enough else _RETRY_PAUSE_SECONDS)

    def _unanswered(self, error: LaunchError) -> bool:
        """Whether it is the cluster itself that does not answer: nothing is known of its nodes."""
        return error.available is None and several_machines(self._launcher())

    def _so_far(self) -> tuple[list[dict[str, Any]], int]:
        """The ranks' records of the newest attempt that was launched, and its number; 0 where there is none."""
        attempt, records = self._launched(), []
        with suppress(OSError, TrainkitError):
            records = outcome.records_of(attempt) if attempt is not None else []
        return records, attempt.number if attempt is not None else 0

    def _fail(self, kind: str, message: str, **values: Any) -> None:
        """End a run whose job could not be started, or started again."""
        verdict = {
            "stage": self.stage[0] or "Preparing",
            "kind": kind,
            "rank": None,
            "message": message,
            "victims": [],
            **values,
        }
        summary = restarts.refusal_words(self.before, message)
        self._publish("Failed", {**verdict, "summary": summary}, *self._so_far())

    def _publish(
        self, status: str, verdict: dict[str, Any] | None, records: list[dict[str, Any]], attempt: int
    ) -> None:
        assert status in TERMINAL
        shutil.rmtree(self.run.home, ignore_errors=True)  # of a container: as passing as everything else in there
        self.state.publish(
            {"status": status, "time": time.time(), "verdict": verdict, "ranks": brief(records), "attempt": attempt}
        )


def main(argv: list[str]) -> int:
    """Entry point of `python -m trainkit.driver RUN_DIR`."""
    run = RunDir(argv[0])
    os.umask(0o077)
    if processes.hold_lock(run.driver_lock) is None:
        return 0
    piped = stat.S_ISFIFO(os.fstat(0).st_mode)
    Driver(run.path, sys.stdin.read() if piped else "").drive()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
