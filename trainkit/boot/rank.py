"""One rank: finds out who it is, runs the user's script in a child process, and writes how that ended.

The parent does nothing but wait, so a record is written whatever kills the script: it ends with the exception, the exit
code or the signal. The parent dies with what started it (agent, mpirun, torchrun), the child with the parent, and the
parent inherits and ends what the script leaves behind. Files it may touch: its rank's log and record.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Collection, Dict, List, Mapping, Optional

from trainkit.boot import processes, pulse, script
from trainkit.boot.identity import rank_environment
from trainkit.boot.inside import seen_here
from trainkit.boot.ranks import Rank, rank_from
from trainkit.boot.reserved import Reserved
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, read_json
from trainkit.boot.scriptend import PLAIN_FAILURE, exit_code, finish, show
from trainkit.boot.shims import ALONE
from trainkit.errors import RunEnvironmentException
from trainkit.job import Job

_REQUESTS = (signal.SIGTERM, signal.SIGINT)  # to end
_PATIENCE_SECONDS = 4.0  # a job with more grace saves its state at the end: to be asked again does not hurry it


class _Shim:
    """The waiting parent of one rank's script."""

    def __init__(self, job: Job, attempt: AttemptDir, rank: Rank) -> None:
        self.job, self.attempt, self.rank = job, attempt, rank
        self.code = str(RunDir(job.run_dir).code)
        self.parent = os.getppid()
        self.child = 0
        self.asked: Optional[float] = None  # when this rank was asked to end
        self.alone = False  # nobody saves a state together with this rank
        self.started = time.time()
        self.record = Reserved(attempt.rank_record(rank.rank))
        make_private(attempt.logs)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log = os.open(attempt.rank_log(rank.rank), flags, 0o600)
        self.report = _memory_file("report")
        self.stacks = _memory_file("stacks")
        self.pulse = pulse.Page.make(rank.rank)

    def run(self) -> int:
        """Run the script; the exit status that the starter of this rank should see."""
        processes.become_subreaper()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)  # one that comes now waits until there is a child
        for number in _REQUESTS:
            signal.signal(number, self._end)
        signal.signal(ALONE, self._on_alone)
        kills = processes.oom_kills()
        parent = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            self._script(parent, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        processes.die_with_parent(signal.SIGTERM, self.parent)
        status = self._wait()
        self._end_group()
        processes.end_children()
        code = self._write(status, killed_for_memory=processes.oom_kills() > kills)
        if code:
            self._await_others()
        return code

    def _end(self, number: int, frame: object) -> None:
        """Pass a request to end on to the script; if this rank's starter is gone, end it at once."""
        orphaned = os.getppid() != self.parent
        again = self.asked is not None and time.time() - self.asked > 0.5
        self.asked = self.asked or time.time()
        if self.child:
            hurried = again and self.job.grace_seconds <= _PATIENCE_SECONDS
            if not again or hurried or orphaned:
                _signal(self.child, signal.SIGKILL if orphaned or hurried else signal.SIGTERM)
                signal.signal(signal.SIGALRM, lambda *_: _signal(self.child, signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, max(0.001, self.job.grace_seconds))

    def _on_alone(self, number: int, frame: object) -> None:
        self.alone = True

    def _wait(self) -> int:
        while True:
            pid, status = os.waitpid(-1, 0)  # an orphan of the script may end first
            if pid == self.child:
                return status

    def _await_others(self) -> None:
        """Where all ranks were asked to end and may save their state: mpirun and torchrun end the others at once when
        one ends badly, so none does before all have. After a failure there is nothing to save together, and of ranks
        whose shims were killed nobody would ever hear: then the agent says ALONE.
        """
        if self.asked is None or self.job.grace_seconds <= _PATIENCE_SECONDS:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        while not self.alone and time.time() - self.asked < self.job.grace_seconds and os.getppid() == self.parent:
            if all(self.attempt.rank_record(rank).exists() for rank in range(self.rank.world_size)):
                return
            time.sleep(0.05)

    def _end_group(self) -> None:
        try:
            os.killpg(self.child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def _script(self, parent: int, mask: Collection[int]) -> None:
        """The child: becomes the user's script, which blocks the signals in `mask`; never returns."""
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, ALONE):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        processes.die_with_parent(signal.SIGKILL, parent)
        sys.stdout.flush()
        os.dup2(self.log, 1)
        os.dup2(self.log, 2)
        faulthandler.enable(file=self.stacks, all_threads=False)
        pulse.adopt(self.pulse)
        script.watch_threads()
        code, me = 0, os.getpid()
        try:
            os.chdir(self.code)
            run(self.job, self.rank)
        except SystemExit as ended:
            code, message = exit_code(ended)
            self._tell(me, {"exit_message": message})
        except BaseException as error:
            code = PLAIN_FAILURE
            described = script.describe(error, self.code)
            self._tell(me, described)
            show(described["traceback"])
        else:
            self._tell(me, {})
        finish(code)

    def _tell(self, script_pid: int, report: Mapping[str, Any]) -> None:
        """Leave a report for the waiting parent; a child that the script has forked has none of its own."""
        if os.getpid() == script_pid:
            data = json.dumps({**report, "threads": script.threads[:4]}, default=repr).encode()
            with suppress(OSError):  # a script may have forbidden itself to write
                self.report.write(data)
                self.report.flush()

    def _write(self, status: int, killed_for_memory: bool) -> int:
        """Publish this rank's record; an exit code that says the same to mpirun or torchrun."""
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = None if signalled else os.WEXITSTATUS(status)
        record: Dict[str, Any] = {
            "rank": self.rank.rank, "node": self.rank.node_rank, "pid": self.child,
            "node_name": os.environ.get("TRAINKIT_NODE_NAME", ""), "started": self.started, "ended": time.time(),
            "exit_code": code, "signal": processes.signal_name(signalled) if signalled else None,
            "asked_to_end": self.asked is not None, "asked": self.asked, "devices": self.job.devices,
            "log": str(self.attempt.rank_log(self.rank.rank)),
        }  # fmt: skip
        record.update(self._told())
        if signalled:
            record["memory"] = signalled == signal.SIGKILL and killed_for_memory
            record.update(self._crash())
        self.record.publish(record)
        return 128 + signalled if signalled else (code or 0)

    def _told(self) -> Dict[str, Any]:
        self.report.seek(0)
        try:
            value = json.loads(self.report.read() or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def _crash(self) -> Dict[str, Any]:
        """Where Python was when a fatal signal ended it, by the stack that the fault handler left."""
        self.stacks.seek(0)
        text = script.without_own_frames(self.stacks.read().decode("utf-8", "replace"))
        if not text:
            return {}
        with suppress(OSError):  # a full disk
            os.write(self.log, text.encode())
        place = script.users_place(list(reversed(script.places_in(text))), self.code)
        return {"traceback": text[:8000], **(dict(zip(("file", "line", "function"), place)) if place else {})}


def run(job: Job, rank: Rank) -> None:
    """Become the job's script or command, `$NAME` in its arguments replaced from the rank's environment."""
    from trainkit.boot import oldnames
    from trainkit.boot.mpi import check_world

    oldnames.install(os.environ)
    if job.command:
        words = [expand(word, os.environ) for word in job.command]
        if words[0] in ("python", "python3"):
            words[0] = job.interpreter
        os.execvpe(words[0], words, os.environ)
    check_world(rank.world_size)
    if job.module:
        script.run_module(job.module, [expand(word, os.environ) for word in job.arguments])
        return
    script.run_script(os.path.join(os.getcwd(), job.script), [expand(word, os.environ) for word in job.arguments])


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced by the environment's values; unknown names stay as they are. No shell is asked."""
    import re

    return re.sub(r"\$(\w+|\{\w+\})", lambda m: env.get(m.group(1).strip("{}"), m.group(0)), text)


def _memory_file(name: str) -> Any:
    return open(os.memfd_create(name), "w+b")


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _strangers(env: Mapping[str, str], job: Job) -> Rank:
    """This rank by its starter's own words, refused where the world is not the one that was asked for."""
    rank = rank_from(env)
    if rank.world_size != job.world_size:
        raise RunEnvironmentException(
            "The job asked for a world of %d, but %s says that this is rank %d of %d. %s"
            % (job.world_size, rank.dialect or "nobody", rank.rank, rank.world_size, env.get("TRAINKIT_MPI", ""))
        )
    node, local = divmod(rank.rank, job.ranks_per_node)
    return Rank(rank.rank, job.world_size, local, job.ranks_per_node, node, rank.dialect, rank.world)


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point of `python -m trainkit.boot.rank`: everything it needs is in the environment."""
    attempt = RunDir(os.environ["TRAINKIT_RUN_DIR"]).attempt(int(os.environ["TRAINKIT_ATTEMPT"]))
    job = seen_here(Job.from_json(read_json(attempt.job) or {}), os.environ)
    try:
        rank = _strangers(os.environ, job)
    except RunEnvironmentException as error:
        record = {"rank": 0, "kind": "world", "exception": type(error).__name__, "message": error.message}
        Reserved(attempt.rank_record(rank_from(os.environ).rank)).publish(
            {**record, "exit_code": 1, "failed": time.time()}
        )
        sys.stderr.write(error.message + "\n")
        return PLAIN_FAILURE
    os.environ.update(rank_environment(job, rank, os.environ))
    return _Shim(job, attempt, rank).run()


if __name__ == "__main__":
    sys.exit(main())
