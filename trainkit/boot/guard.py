"""Runs one node's agent in a container: starts it, passes the request to end on, and sees that nothing of it stays.

    python -m trainkit.boot.guard RUN_DIR ATTEMPT NODE [network]

The guard holds the container's standard input: what is in there (`trainkit.boot.inside`) ends when that closes, so the
death of anything between the launcher and the ranks is theirs too. It writes only to the attempt's nodes/ and to what
the engine calls its own.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any, List, Optional, Tuple

from trainkit.boot import processes
from trainkit.boot.attempts import launched
from trainkit.boot.formation import formation
from trainkit.boot.inside import IN_CONTAINER, LOAD_SECONDS
from trainkit.boot.plugins import engine
from trainkit.boot.reports import not_begun
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.errors import LaunchError, TrainkitError
from trainkit.job import Container, Engine, Inside, Job, boot_command

TAKEN_OVER = ("SLURM_JOB_ID", "SLURM_STEP_ID", "CUDA_VISIBLE_DEVICES")  # from the node's environment
_ASK_SECONDS, _REMOVE_SECONDS, _TICK_SECONDS = 60.0, 30.0, 0.01
_ABSENT = re.compile("no such image|not known|not found|does not exist|no such file", re.IGNORECASE)
_LAST_LINES = 12  # of what the engine printed, for the verdict


def name_of(job: Job, node: int) -> str:
    """The container's name: letters and digits that every engine takes."""
    return "trainkit-%s-%d-%d" % (re.sub(r"[^a-zA-Z0-9_.-]", "-", job.run_id), job.attempt, node)


class Guard:
    """The container of one node in one attempt."""

    def __init__(self, job: Job, container: Container, attempt: AttemptDir, node: int, words: Tuple[str, ...]) -> None:
        self.job = job
        self.container = container
        self.attempt = attempt
        self.node = node
        self.words = words  # of the agent's command line, beside the place
        self.engine: Engine = engine(container.engine)
        self.name = name_of(job, node)
        self.asked = False
        self.printed: List[str] = []  # the last of what the engine said
        self.client: Optional["subprocess.Popen[bytes]"] = None

    def run(self) -> int:
        """Live as long as the container; the exit status of what ran in it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        self._fetch()
        status = 0
        try:
            if not self.asked:
                status = self._note_stop(self._run())
        finally:
            self._call(self.engine.remove(self.name), _REMOVE_SECONDS)
        if status and not newest(self.attempt).agent_end(self.node).exists() and not self.asked:
            raise LaunchError(self._why(status))
        return status

    def _note_stop(self, status: int) -> int:
        """Record that somebody stopped the container, where its agent has obeyed that; the agent's own exit status.

        An engine's client passes signals on, so one that this process has got as well is no stop from outside.
        """
        attempt = newest(self.attempt)
        if status not in (128 + signal.SIGTERM, 128 + signal.SIGINT) or not attempt.agent_end(self.node).exists():
            return status
        if not self.asked:
            where = (self.container.name, os.uname().nodename, processes.signal_name(status - 128))
            words = "The container of %s on %s was stopped from outside, by %s" % where
            publish(attempt.stopped(self.node), {"stopped": words, "time": time.time()})
        return 0

    def _why(self, status: int) -> str:
        """What became of the container, whose agent did not live to say so itself."""
        where = (self.container.name, os.uname().nodename)
        number = -status if status < 0 else status - 128
        if 0 < number < signal.NSIG:
            return "The container of %s on %s was ended by %s." % (*where, processes.signal_name(number))
        said = " ".join(self.printed) or "it said nothing"
        return "The container of %s on %s did not run (%s ended with %d): %s" % (
            *where, self.container.engine, status, said,
        )  # fmt: skip

    def _stop(self) -> None:
        """Ask what is inside to end."""
        self.asked = True
        if self.client is not None and self.client.stdin is not None:
            try:
                os.write(self.client.stdin.fileno(), b"stop\n")
            except OSError:  # it has ended
                pass

    def _run(self) -> int:
        run = RunDir(self.job.run_dir)
        root = run.path.parents[2] if self.job.shared else run.path  # the workspace, or all there is of it here
        place = (self.job.run_dir, str(self.attempt.number), str(self.node), *self.words)
        inside = Inside(
            name=self.name,
            argv=boot_command(self.job, "inside", self.container.interpreter) + place,
            directory=str(run.path),
            home=str(make_private(run.home)),
            uid=os.getuid(),
            gid=os.getgid(),
            variables=(IN_CONTAINER, *(name for name in TAKEN_OVER if name in os.environ)),
            labels={"trainkit.run": self.job.run_id, "trainkit.attempt": str(self.attempt.number)},
            gpus=self.job.gpus_per_node,
        )
        mounts = (*self.container.mounts, str(root))
        argv = self.engine.run(dataclasses.replace(self.container, mounts=mounts), inside)
        try:
            self.client = _started(argv, subprocess.PIPE, None, subprocess.PIPE)
        except OSError as error:
            raise LaunchError("%s cannot be run on this node: %s." % (argv[0], error.strerror)) from error
        if self.asked:
            self._stop()
        reader = threading.Thread(target=self._pass_on, daemon=True)
        reader.start()
        status = self.client.wait()
        reader.join(1.0)
        return status

    def _pass_on(self) -> None:
        """What the engine and the agent print goes where this process's own errors go; the last of it is kept."""
        assert self.client is not None and self.client.stderr is not None
        for line in self.client.stderr:
            self.printed = [*self.printed, line.decode("utf-8", "replace").strip()][-_LAST_LINES:]
            with suppress(OSError):  # of a full disk: what is inside goes on
                os.write(2, line)

    def _fetch(self) -> None:
        """See to it that the engine of this node has the image. Raises LaunchError."""
        where = "%s on %s" % (self.container.engine, os.uname().nodename)
        status, said = self._call(self.engine.inspect(self.container.image), _ASK_SECONDS, until_asked=True)
        if status == 0 or self.asked:
            return
        if not _ABSENT.search(said):
            raise LaunchError("%s does not answer: %s" % (where, said or "it was silent for too long"))
        if not self.container.archive:
            raise LaunchError(
                "%s has no image %s (%s). Pull it there, or name it with its registry."
                % (where, self.container.name, self.container.image)
            )
        status, said = self._call(self.engine.load(self.container.archive), LOAD_SECONDS, until_asked=True)
        if status and not self.asked:
            raise LaunchError("%s could not load %s: %s" % (where, self.container.archive, said))

    def _call(self, argv: List[str], seconds: float, until_asked: bool = False) -> Tuple[Optional[int], str]:
        """How a command of the engine ended, and the last that it said; None where it was killed for its time.

        It dies with this process. Where `until_asked`, it is killed as soon as the container is not wanted any more.
        """
        if not argv:
            return 0, ""
        with tempfile.TemporaryFile() as errors:
            try:
                process = _started(argv, subprocess.DEVNULL, subprocess.DEVNULL, errors)
            except OSError as error:
                raise LaunchError(
                    "The job runs in the image %s, but %s cannot be run on %s (%s). Install it there."
                    % (self.container.name, self.container.engine, os.uname().nodename, error.strerror)
                ) from error
            deadline = time.monotonic() + seconds
            while process.poll() is None:
                if time.monotonic() > deadline or (until_asked and self.asked):
                    processes.end(process)
                    return None, ""
                time.sleep(_TICK_SECONDS)
            errors.seek(0)
            lines = [line.strip() for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return process.returncode, lines[-1] if lines else ""


def _started(argv: List[str], given: Any, output: Any, errors: Any) -> "subprocess.Popen[bytes]":
    """A command of the engine that dies with this process; in its environment it is said that there is a container."""
    parent = os.getpid()
    return subprocess.Popen(
        argv, stdin=given, stdout=output, stderr=errors, env={**os.environ, IN_CONTAINER: "1"}, cwd="/",
        preexec_fn=lambda: processes.die_with_parent(signal.SIGKILL, parent),
    )  # fmt: skip


def newest(attempt: AttemptDir) -> AttemptDir:
    """The attempt that the agents in a container have come to: those of an allocation start their job again in it."""
    later = [one for one in launched(RunDir(attempt.path.parents[1])) if one.number > attempt.number]
    return later[-1] if later else attempt


def enter(job: Job, attempt: int, node: int, words: List[str]) -> List[str]:
    """The command line that runs one of trainkit's programs, or anything, in the container of a job on this node."""
    assert job.container is not None
    run = RunDir(job.run_dir)
    begun = [number for number in range(1, attempt + 1) if run.attempt(number).guard_lock(node).exists()]
    here = dataclasses.replace(job, attempt=max(begun, default=attempt))  # a container may live for several attempts
    return engine(job.container.engine).enter(name_of(here, node), words, os.isatty(0))


def main(argv: List[str]) -> int:
    """Entry point of `python -m trainkit.boot.guard RUN_DIR ATTEMPT NODE [network]`."""
    run, number, place = RunDir(argv[0]), int(argv[1]), argv[2]
    node = int(place if place.isdigit() else os.environ[place])
    try:
        attempt = formation(run, number, node)
    except TrainkitError as error:
        return not_begun(run.attempt(number), node, error)
    values = read_json(attempt.job)
    if values is None:
        sys.stderr.write("There is no %s here: is the run directory not shared?\n" % attempt.job)
        return 1
    job = Job.from_json(values)
    assert job.container is not None
    make_private(attempt.nodes)
    if processes.hold_lock(attempt.guard_lock(node)) is None:
        return 0
    # what others know as the node's agent is the process that a signal reaches: this one
    here = {"identity": processes.identity(os.getpid()), "time": time.time(), "name": os.uname().nodename}
    publish(attempt.agent(node), here)
    try:
        return Guard(job, job.container, attempt, node, tuple(argv[3:])).run()
    except TrainkitError as error:
        return not_begun(newest(attempt), node, error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
