"""What became of a run: pure functions from recorded facts to a status and a verdict.

A launcher never judges success. Ranks' records do, the agents' explain a missing one, and the cluster's words come
last. Of several failed ranks the cause is the first that failed by itself; the others only lost a peer: victims.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainkit.boot.newrun import SUBMITTED, read_record
from trainkit.boot.programs import options_of
from trainkit.boot.rundir import AttemptDir, RunDir, read_json, read_lines
from trainkit.errors import WorkspaceException
from trainkit.job import is_rank
from trainkit.lostnodes import lost_node
from trainkit.sentences import exit_words, ranks, summary, tail

Record = Mapping[str, Any]
_LOST_PEER = re.compile(
    r"connection (was )?(closed|reset)|broken pipe|socket (closed|timeout)|recvvalue failed|peer.*(closed|gone|exited)"
    r"|remote process exited|connection refused|timed out waiting|wait timeout|application timeout|gloo.*timed? ?out"
    r"|horovod has been shut down|MPI_ERR_PROC_FAILED|proc_aborted|failed to recv|DistStoreError",
    re.IGNORECASE,
)
_RANK_LOST = "RankLost"  # what a training loop raises where another rank has ended: that one is to be told of
_LOST_TYPES = (
    "DistNetworkError", "DistBackendError", "DistStoreError", "HorovodInternalError", "BrokenPipeError", _RANK_LOST,
)  # fmt: skip
RUN_AGAIN = 75  # a rank's exit code: it was preempted, has saved its state, and asks to be run again
HOW_TO_GO_ON = ". Submit it with resume_from=RUN to go on, and with max_restarts=N to have that done by itself."
# Kinds that a restart may help.
CURABLE = ("exception", "exit", "signal", "memory", "lost", "preempted", "machine", "hang")


def ok(record: Record) -> bool:
    """Whether a rank ended well by its own record."""
    return record.get("exit_code") == 0 and not record.get("signal")


def lost_peer(record: Record) -> bool:
    """Whether a rank failed only because another one had gone."""
    name = str(record.get("exception") or "")
    if name.rpartition(".")[2] in _LOST_TYPES:
        return True
    return bool(name) and bool(_LOST_PEER.search(str(record.get("message") or "")))


def _when(record: Record) -> float:
    return float(record.get("failed") or record.get("ended") or 0.0)


def cause(records: Sequence[Record]) -> Record | None:
    """The rank that failed first by itself, else the first that failed at all; None where none did."""
    failed = [r for r in records if not ok(r)]
    own = [r for r in failed if not lost_peer(r) and not _only_obeyed(r)]
    pool = own or [r for r in failed if not _only_obeyed(r)] or failed
    return min(pool, key=_when) if pool else None


def _only_obeyed(record: Record) -> bool:
    """Whether a rank was running well until it was asked to end."""
    asked = record.get("asked")
    return bool(asked) and _when(record) >= float(asked or 0.0)


def judge(
    world_size: int,
    records: Sequence[Record],
    ends: Sequence[Record],
    lost: str = "",
    canceled: bool = False,
    nodes: int = 1,
) -> tuple[str, dict[str, Any] | None]:
    """The run's final status and, where it failed, the verdict.

    `records` are the ranks', `ends` the agents' (one per node that ended by itself), `lost` says in the launcher's
    words why nobody can say how the job ended, `canceled` that somebody asked for its end.
    """
    complete = len(records) == world_size and all(ok(r) for r in records)
    if complete or _went_on(ends):
        return "Completed", None
    if canceled:
        return "Canceled", None
    reason = next((str(e["reason"]) for e in ends if e.get("reason")), "")
    troubled = next((e for e in ends if e.get("problem")), {})
    gone = lost_node(ends, only_head=bool(lost))
    if lost and gone:
        return "Failed", _without_node({**gone, "why": f"{gone['why']}; {lost}"}, records)
    if lost:
        kind = "lost" if lost.startswith("node ") else "machine"
        return "Failed", _verdict(kind, summary=f"{lost}: the ranks that were running are gone.")
    if reason.startswith("time limit"):
        return "Failed", _verdict("timeout", summary=f"The run was ended by its {reason}.")
    record = cause(records)
    missing = sorted(set(range(world_size)) - {int(r["rank"]) for r in records})
    orphaned = _parent_killed(ends)
    rank_lost = record is not None and str(record.get("exception")).endswith("." + _RANK_LOST)
    if rank_lost and missing and not gone and not orphaned:
        victims = sorted(int(r["rank"]) for r in records if not ok(r))
        return "Failed", {**_without_record(missing), "victims": victims}
    by_itself = record is not None and not _only_obeyed(record) and record.get("exit_code") != RUN_AGAIN
    if record is not None and lost_peer(record) and orphaned:
        by_itself = False  # the peer went with its parent
    if record is not None and by_itself and not (gone and (lost_peer(record) or not record.get("exception"))):
        return "Failed", of_rank(record, records)
    again = [r for r in records if r.get("exit_code") == RUN_AGAIN]
    if stopped := next((e for e in ends if e.get("stopped")), None):
        return "Failed", _stopped(stopped, again, records)
    if gone and troubled.get("node") != gone["node"]:
        return "Failed", _without_node(gone, records)
    if hung := next((str(e["hung"]) for e in ends if e.get("hung")), ""):
        return "Failed", _verdict("hang", summary=hung)
    if again:
        return "Failed", _preempted(min(again, key=_when), records)
    if troubled:
        kind, problem = "lost" if troubled.get("transient") else "launch", str(troubled["problem"])
        return "Failed", _verdict(kind, node=troubled["node"], message=problem, summary=problem)
    silent = sorted(set(range(nodes)) - {int(e["node"]) for e in ends})
    return "Failed", _unexplained(missing, silent, ends, records)


def _went_on(ends: Sequence[Record]) -> bool:
    """Whether a spread that replaces ranks by itself says that all is well: records of replaced ones do not count."""
    return any(
        e.get("elastic") and not e.get("problem") and not e.get("reason") and e.get("commands")
        and all(c.get("status") == 0 for c in e["commands"])
        for e in ends
    )  # fmt: skip


def _without_node(gone: Record, records: Sequence[Record]) -> dict[str, Any]:
    """The verdict where a node's agent, machine or link is what failed."""
    verdict = _verdict(
        "lost", node=gone["node"], summary=f"node {gone['node']} ({gone['name']}) was lost: {gone['why']}."
    )
    verdict["victims"] = sorted(int(r["rank"]) for r in records if not ok(r))
    return verdict


def _stopped(end: Record, again: Sequence[Record], records: Sequence[Record]) -> dict[str, Any]:
    """The verdict where somebody stopped a node's container with the engine's own command; `again` have saved."""
    words = f"{end['stopped']}, though nobody had canceled the run"
    if again:
        return {**_preempted(min(again, key=_when), records), "node": end["node"], "summary": words + HOW_TO_GO_ON}
    return _verdict("lost", node=end["node"], summary=words + ".")


def _preempted(record: Record, records: Sequence[Record]) -> dict[str, Any]:
    """The verdict where nothing is wrong but that the ranks were asked to end before they were done."""
    verdict = of_rank(record, records)
    verdict.update(kind="preempted", victims=[], tail=[])
    verdict["summary"] = (
        f"The run was preempted: rank {record['rank']} ended with exit code {RUN_AGAIN}, which asks to be run again"
        + HOW_TO_GO_ON
    )
    return verdict


def _unexplained(
    missing: list[int], silent: list[int], ends: Sequence[Record], records: Sequence[Record]
) -> dict[str, Any]:
    """A verdict where no rank failed by itself: its parent, its agent (of a `silent` node) or its shim was killed."""
    if silent:
        return _verdict("lost", node=silent[0], summary=f"The agent of node {silent[0]} was killed.")
    for node, command in _failed_commands(ends):
        status = int(command["status"])
        if is_rank(command["argv"]):
            if 0 < status < 128 and missing:
                return _verdict(
                    "launch", node=node, exit_code=status, rank=missing[0] if len(missing) == 1 else None,
                    summary=f"The process of {ranks(missing)} exited with code {status} and left no record.",
                )  # fmt: skip
        elif status < 0 or not missing or not records:  # else it says so of the rank without a record
            name, words = _program(command["argv"]), exit_words(status)
            return _verdict(
                "lost", node=node, exit_code=status, summary=f"{name} of node {node} {words}; no rank failed by itself."
            )
    if missing:
        return _without_record(missing)
    first = min(records, key=_when, default=None)
    reason = next((str(end["reason"]) for end in ends if end.get("reason")), "")
    words = f"The ranks were ended: {reason or 'nobody said why'}."
    return _verdict("lost", log=first.get("log") if first else None, summary=words)


def _failed_commands(ends: Sequence[Record]) -> list[tuple[int, Record]]:
    """The commands that failed by themselves, with their nodes: first those that a signal ended, then by time.

    What others make of that comes as an exit code; what an agent has ended itself, or asked to end, tells nothing.
    """
    commands = [(int(end["node"]), command) for end in ends for command in end.get("commands", ())]
    failed = [each for each in commands if each[1].get("status") not in (0, None) and not each[1].get("asked")]
    return sorted(failed, key=lambda each: (each[1]["status"] > 0, each[1].get("ended", 0.0)))


def _parent_killed(ends: Sequence[Record]) -> bool:
    """Whether a torchrun, mpirun or the like was ended by a signal that no agent sent."""
    return any(command["status"] < 0 and not is_rank(command["argv"]) for _, command in _failed_commands(ends))


def _without_record(missing: list[int]) -> dict[str, Any]:
    """The verdict where ranks did not live to say how they ended."""
    verdict = _verdict("lost", summary=f"{ranks(missing)} ended without a record: killed from outside.")
    verdict["rank"] = missing[0] if len(missing) == 1 else None
    return verdict


def _program(argv: Sequence[str]) -> str:
    """What people call the parent of ranks that a command line starts, also where a program of trainkit becomes it."""
    if "torch.distributed.run" in argv:
        return "torchrun"
    own = argv.index("--in") if "--in" in argv[:5] else 0
    return Path(options_of(argv[own:])[1][0]).name


def _verdict(kind: str, **values: Any) -> dict[str, Any]:
    return {"stage": "Running", "kind": kind, "rank": None, "victims": [], **values}


def of_rank(record: Record, records: Sequence[Record] = ()) -> dict[str, Any]:
    """The verdict on a run whose cause is this rank's failure."""
    keys = ("rank", "node", "node_name", "exception", "message", "file", "line", "function", "traceback", "threads",
            "exit_code", "signal", "log")  # fmt: skip
    verdict = _verdict(_kind(record), **{key: record.get(key) for key in keys})
    verdict["victims"] = sorted(int(r["rank"]) for r in records if not ok(r) and r["rank"] != record["rank"])
    verdict["tail"] = tail(Path(str(record["log"]))) if record.get("log") else []
    verdict["summary"] = summary(verdict)
    return verdict


def _kind(record: Record) -> str:
    if record.get("kind"):
        return str(record["kind"])
    if record.get("memory"):
        return "memory"
    if record.get("signal"):
        return "signal"
    return "exception" if record.get("exception") else "exit"


def records_of(attempt: AttemptDir) -> list[dict[str, Any]]:
    """The records that the attempt's ranks left, by rank."""
    found = [read_json(path) for path in attempt.ranks.glob("[0-9]*.json")]
    return sorted((record for record in found if record), key=lambda r: int(r["rank"]))


def ends_of(attempt: AttemptDir) -> list[dict[str, Any]]:
    """The reports of the attempt's agents that ended by themselves, by node, and what guards of containers add."""
    found = [read_json(path) for path in attempt.nodes.glob("*.end.json")]
    told = [{**end, **(read_json(attempt.stopped(int(end["node"]))) or {})} for end in found if end]
    return sorted(told, key=lambda e: int(e["node"]))


def status_of(run_dir: str | Path) -> tuple[str, str]:
    """A run's status and a sentence of detail, from its files alone.

    Raises WorkspaceException where they are damaged, or gone, so that nobody waits for an end that cannot come.
    """
    run = RunDir(run_dir)
    state = read_json(run.state, "status")
    if not state and not run.job.exists():
        from trainkit.offline import settle  # no driver judges this run: whoever looks does

        _check_whole(run)
        with suppress(OSError):  # on a disk that may only be read
            settle(run.path)
        state = read_json(run.state, "status")
    if state:
        verdict = state.get("verdict") or {}
        return str(state["status"]), str(verdict.get("summary") or "")
    if run.cancel.exists():
        return "CancelRequested", "waiting for the job's processes to end"
    stage = ([{"status": "NotStarted", "details": ""}, *stages_of(run)])[-1]
    return str(stage["status"]), str(stage.get("details") or "")


def stages_of(run: RunDir) -> list[dict[str, Any]]:
    """The steps that were recorded of a run, oldest first: {"time", "status", "details"}."""
    return [
        stage
        for stage in read_lines(run.stages)
        if isinstance(stage.get("status"), str) and isinstance(stage.get("time"), (int, float))
    ]


def _check_whole(run: RunDir) -> None:
    """Raise WorkspaceException where a run without a plan should have one, or is no run any more."""
    if read_record(run.path)["type"] == SUBMITTED:
        raise WorkspaceException(f"{run.job} is missing, so run {run.path.name} can neither go on nor end: remove it.")
