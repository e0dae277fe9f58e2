"""Runs that no driver advances: offline ones (a script started by hand) and interactive ones (`start_logging`).

The process that runs them records how it ended: well, by an exception, by an exit code. Each holds a lock that the
kernel releases when it dies, so whoever looks next sees that a process was killed. All ranks of one mpirun, torchrun or
srun share one run; it has ended when they have.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit import outcome
from trainkit.boot import files, newrun
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import Lines, RunDir, make_private, publish, read_json
from trainkit.boot.worlds import World
from trainkit.errors import ExperimentExecutionException, TrainkitError
from trainkit.runfiles import below

INTERACTIVE = "azureml.interactive"
OFFLINE = "offline"
_LATE_SECONDS = 10.0  # how long a launch that cannot be seen is given to bring more ranks


class Session:
    """This process's part in a run that it keeps alive; `end` records how it ended."""

    def __init__(self, run_dir: RunDir, rank: Rank, lock: int) -> None:
        self.run_dir, self.rank = run_dir, rank
        self.pid = os.getpid()
        self.started = time.time()
        self.ended = False
        self._lock = lock
        self._collected: dict[str, tuple[int, int]] = {}  # names of files to their time and size when they were copied

    def collect(self) -> None:
        """Copy what the program has written into its `outputs` folder since it began, where it has changed.

        In a job that folder is the run's own; here it is the program's, and may hold files of earlier programs.
        """
        record = read_json(self.run_dir.run) or {}
        folder = record.get("outputs")
        if not folder or self.rank.rank != 0 or self.pid != os.getpid() or self.ended:
            return
        begun = 0.0 if record.get("all_outputs", record["type"] != OFFLINE) else float(record["created"]) - 1.0
        for name, path in below(Path(folder)):
            facts = path.stat()
            now = (facts.st_mtime_ns, facts.st_size)
            if facts.st_mtime >= begun and self._collected.get(name) != now:
                files.put(self.run_dir, files.checked_name("outputs/" + name), path, replace=True)
                self._collected[name] = now

    def end(self, exit_code: int = 0, **facts: Any) -> None:
        """Record how this process ended; once, and never from a forked child. The run ends with its last process."""
        if self.ended or self.pid != os.getpid():
            return
        try:
            self.collect()
        except (OSError, TrainkitError) as error:  # how the program ended is recorded all the same
            facts = {"exit_message": f"outputs could not be kept: {error}", **facts}
        self.ended = True
        attempt = self.run_dir.attempt(1)
        values: dict[str, Any] = {
            "rank": self.rank.rank, "node": self.rank.node_rank, "node_name": socket.gethostname(), "pid": self.pid,
            "started": self.started, "ended": time.time(), "exit_code": exit_code, "signal": None,
            "asked_to_end": False, "log": "", **facts,
        }  # fmt: skip
        publish(attempt.rank_record(self.rank.rank), values)
        settle(self.run_dir.path)
        self.release()

    def release(self) -> None:
        """Give the lock up."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _lock_path(run: RunDir, rank: int) -> Path:
    return run.once / f"rank-{rank}.lock"


def _claim_path(run: RunDir, rank: int) -> Path:
    return run.once / f"rank-{rank}.json"


def _claim(run: RunDir, world: World) -> Session | None:
    """This process's place in the run; None where another process has, or had, it."""
    from trainkit.boot.processes import hold_lock, identity

    rank = world.rank.rank
    make_private(run.once)
    lock = hold_lock(_lock_path(run, rank))
    if lock is None:
        return None
    facts = {
        "rank": rank, "identity": identity(os.getpid()), "host": socket.gethostname(), "launcher": world.launcher,
        "world_size": world.rank.world_size, "time": time.time(),
    }  # fmt: skip
    if publish(_claim_path(run, rank), facts):
        return Session(run, world.rank, lock)
    os.close(lock)
    return None


def begin(root: Path, run_id: str, record: Mapping[str, Any], world: World) -> Session | None:
    """Make the run's directory, whole or not at all, with this process in it; None where the run exists already."""
    folder = newrun.experiment_dir(root, record["experiment"])
    making = RunDir(make_private(folder / f".{run_id}.{os.getpid()}"))
    try:
        for directory in (making.outputs, making.logs, making.events, making.attempt(1).ranks):
            make_private(directory)
        publish(making.run, {**record, "id": run_id})
        stages = Lines(making.stages)
        stages.append({"time": time.time(), "status": "Running", "details": ""})
        stages.close()
        session = _claim(making, world)
        assert session is not None  # nobody else knows this directory's name
        try:
            making.path.rename(folder / run_id)
        except OSError:  # another rank of this launch was faster
            session.release()
            return None
        session.run_dir = RunDir(folder / run_id)
        return session
    finally:
        shutil.rmtree(making.path, ignore_errors=True)


def join(root: Path, experiment: str, workspace_name: str, world: World, **facts: Any) -> Session:
    """The offline run of this process, shared by all ranks of its launch."""
    if not world.key:
        run_id = newrun.new_id(experiment)
        record = newrun.record(root, experiment, run_id, OFFLINE, workspace_name, None, **facts)
        session = begin(root, run_id, record, world)
        assert session is not None  # the id is new
        return session
    for launch in itertools.count():  # a launch that looks like an earlier one finds its places taken, and goes on
        marker = make_private(root / "offline") / f"{world.key}-{launch}.json"
        publish(marker, {"run": newrun.new_id(experiment)})
        run_id = (read_json(marker) or {})["run"]
        found = newrun.find_run(root, run_id)
        if found is None:
            record = newrun.record(root, experiment, run_id, OFFLINE, workspace_name, None, **facts)
            record["ranks_per_node"], record["nodes"] = world.rank.local_size, _nodes(world.rank)
            session = begin(root, run_id, record, world)
            found = newrun.experiment_dir(root, experiment) / run_id
        else:
            session = None
        run = RunDir(found)
        if session is None and not run.state.exists():
            session = _claim(run, world)
        if session is not None:
            return session
    raise AssertionError("unreachable")


def _nodes(rank: Rank) -> int:
    return max(1, rank.world_size // max(1, rank.local_size))


def _held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def settle(path: str | Path) -> None:
    """Publish how an offline or interactive run ended, if it has; nothing for a run that a driver advances."""
    run = RunDir(path)
    if run.state.exists() or run.job.exists():
        return
    claims = [claim for claim in map(read_json, run.once.glob("rank-*.json")) if claim]
    if not claims:
        return
    # The lock is looked at before the record: who writes a record holds the lock until it is there.
    gone = {claim["rank"]: not _held(_lock_path(run, claim["rank"])) for claim in claims}
    records = outcome.records_of(run.attempt(1))
    written = {record["rank"] for record in records}
    killed = [claim for claim in claims if gone[claim["rank"]] and claim["rank"] not in written]
    failed = outcome.cause(records)
    if failed is not None:
        verdict: dict[str, Any] | None = outcome.of_rank(failed, records)
    elif killed:
        verdict = _killed(killed[0])
    elif len(written) < len(claims) or not _over(claims, records):
        return
    else:
        verdict = None
    status = "Canceled" if run.cancel.exists() else "Failed" if verdict else "Completed"
    end(run, status, None if status == "Canceled" else verdict, records)


def end(run: RunDir, status: str, verdict: Mapping[str, Any] | None, records: list[dict[str, Any]]) -> None:
    """Publish the run's final state; the first to do so wins."""
    state = {"status": status, "time": time.time(), "verdict": verdict, "ranks": records, "attempt": 1}
    publish(run.state, state)


def _over(claims: list[dict[str, Any]], records: list[dict[str, Any]]) -> bool:
    """Whether no rank can join any more: all are here, or what started them is gone."""
    from trainkit.boot.processes import is_alive

    if len(claims) >= max(int(claim["world_size"]) for claim in claims):
        return True
    launchers = [claim["launcher"] for claim in claims if claim["launcher"]]
    if launchers:
        return not any(is_alive(launcher) for launcher in launchers)
    return time.time() - max(float(record["ended"]) for record in records) > _LATE_SECONDS


def _killed(claim: Mapping[str, Any]) -> dict[str, Any]:
    from trainkit.boot.processes import rebooted

    pid = str(claim["identity"]).split(":")[1]
    restarted = claim["host"] == socket.gethostname() and rebooted(str(claim["identity"]))
    why = "the machine restarted" if restarted else "it was killed, or left by os._exit"
    summary = f"rank {claim['rank']} (process {pid} on {claim['host']}) ended without a word: {why}"
    return {
        "stage": "Running", "kind": "machine" if restarted else "lost", "rank": claim["rank"], "victims": [],
        "summary": summary,
    }  # fmt: skip


def cancel(run: RunDir) -> None:
    """End an offline run's processes on this machine; an interactive one's process is left alone."""
    import signal

    from trainkit.boot.processes import send

    offline = (read_json(run.run) or {}).get("type") == OFFLINE
    claims = [claim for claim in map(read_json, run.once.glob("rank-*.json")) if claim]
    strangers = [c for c in claims if c["host"] != socket.gethostname() and _held(_lock_path(run, c["rank"]))]
    if offline and strangers:
        raise ExperimentExecutionException(
            f"Run {run.path.name} was started by hand and runs on {strangers[0]['host']}: end it there."
        )
    if offline:
        for claim in claims:
            if int(str(claim["identity"]).split(":")[1]) != os.getpid():
                send(str(claim["identity"]), signal.SIGTERM)
    end(run, "Canceled", None, outcome.records_of(run.attempt(1)))
