"""What is promised of a run on several nodes that met one fault, or none; `broken` lists what was not kept.

It reads the run's files and the machine's processes, and nothing that the run's own parts say of themselves.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from tests.engines.random_faults import (
    CUT,
    DRIVER,
    FROZEN,
    NODES,
    OF_NODES,
    OF_PROCESSES,
    STOPPED,
    Planting,
)  # fmt: skip
from tests.engines.testbed import Testbed
from trainkit import Workspace
from trainkit.boot.attempts import launched
from trainkit.boot.rundir import RunDir, read_json

VERDICT_SECONDS, MEETING_SECONDS = 30.0, 60.0  # to a verdict; more before ranks began, where nodes wait for each other
SLACK_SECONDS = 5.0  # of a machine that does other things as well
LEFT_SECONDS, CUT_OFF_SECONDS = 10.0, 15.0  # until nothing is left; of a node that nobody reached
_FENCE_SECONDS = 8.0
_TMP = ("tmp", "dev/shm")
# The testbed's; a machine's book of the ports in use; torch's cache; what torchrun and horovodrun leave when killed;
# what a Ray that was started again has.
_OTHERS = re.compile(r"\.filled|trainkit-ports-\d+|torchinductor_\w+|torchelastic_\w+|sem\.mp-\w+|pymp-\w+")


def bound(planting: Planting) -> float:
    """Within how many seconds after it was submitted the run has to end."""
    drawn = planting.drawn
    late = drawn.instant + drawn.mend_seconds
    return 60 + drawn.ticks * 0.2 + late + (1 + drawn.restarts) * (VERDICT_SECONDS + MEETING_SECONDS)


def processes(run_id: str) -> dict[int, str]:
    """The processes of the run on any node of this machine, with their command lines: zombies are none."""
    found = {}
    name = run_id.encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path("/proc", entry, "cmdline").read_bytes()
                if line and (
                    name in line or b"TRAINKIT_RUN_ID=" + name in Path("/proc", entry, "environ").read_bytes()
                ):
                    found[int(entry)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue  # it has ended
    return found


def files(bed: Testbed) -> dict[str, set[str]]:
    """What lies in each node's own /tmp and /dev/shm."""
    found = {}
    for name in bed.names:
        root = Path(f"/proc/{bed.nodes[name].pid}/root")
        entries = [f"/{folder}/{entry.name}" for folder in _TMP for entry in _listed(root / folder)]
        found[name] = {entry for entry in entries if not _OTHERS.fullmatch(Path(entry).name)}
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def verdict_seconds(planting: Planting) -> float:
    """From the fault to the end of the attempt that it hit, as the run tells it; 0 where none did."""
    run = RunDir(planting.run)
    if not planting.planted or planting.harmless:
        return 0.0
    lines = run.stages.read_text().splitlines() if run.stages.exists() else []
    stages = [json.loads(line) for line in lines]
    times = [float(s["time"]) for s in stages if str(s["details"]).startswith("restart ")]
    state = read_json(run.state) or {}
    times += [float(state.get("time", 0.0))] if state.get("status") == "Failed" else []
    return next((when - planting.planted for when in times if when > planting.planted), 0.0)


def broken(planting: Planting, workspace: Path) -> list[str]:
    """The promises on an ended run's status and record that were not kept."""
    run = RunDir(planting.run)
    state: dict[str, Any] = read_json(run.state) or {}
    attempts = launched(run)
    began = [attempt for attempt in attempts if list(attempt.nodes.glob("*.agent.json"))]  # Slurm may give up others
    wrong = _wrong_status(planting, state)
    if len(began) > 1 + planting.drawn.restarts:
        wrong.append(f"{len(began)} attempts with {planting.drawn.restarts} restarts")
    last = attempts[-1].number if attempts else 0
    done = sorted(path.name for path in run.path.glob(f"end-{last}-*"))
    if state.get("status") == "Completed":
        wrong += _untrue(planting, state, done, last, workspace)
    elif planting.harmless and done:
        wrong.append(f"it is called {state.get('status')}, and {done} ended well")
    if planting.harmless and planting.drawn.fault != STOPPED:
        wrong += [f"false alarm: {path.read_text()[:400]}" for path in run.path.glob("attempts/*/hangs.jsonl")]
    if "Traceback" in (text := _text(run.driver_log)):
        wrong.append(f"the driver fell: {text[-600:]}")
    if planting.drawn.spread in ("fork", "mpi"):
        logs = [path for path in run.path.glob("attempts/*/logs/agent-*.log") if "Traceback" in _text(path)]
        wrong += [f"{path.name} of attempt {path.parts[-3]}: {_text(path)[-600:]}" for path in logs]
    return wrong


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _wrong_status(planting: Planting, state: dict[str, Any]) -> list[str]:
    drawn, status, verdict = planting.drawn, state.get("status"), state.get("verdict")
    summary = str((verdict or {}).get("summary"))
    if status not in ("Completed", "Failed"):
        return [f"the run is {status}"]
    wrong = []
    if (took := verdict_seconds(planting)) > limit(planting):
        wrong.append(f"the verdict took {took:.1f} s: {summary}")
    if status == "Completed":
        return [*wrong, *([f"a verdict on a run that is Completed: {verdict}"] if verdict else [])]
    if not verdict:
        return ["Failed without a verdict"]
    if planting.harmless or not planting.planted:
        return [f"nothing was wrong, and it failed: {summary}"]
    if drawn.fault in OF_PROCESSES and drawn.restarts:
        wrong.append(f"a restart did not help: {summary}")
    if not planting.names(summary):
        wrong.append(f"the verdict names none of {planting.named}: {summary}")
    return wrong


def limit(planting: Planting) -> float:
    """Within how many seconds after the fault its verdict has to be known."""
    return VERDICT_SECONDS + SLACK_SECONDS + (0.0 if planting.started else MEETING_SECONDS)


def _untrue(planting: Planting, state: dict[str, Any], done: list[str], last: int, workspace: Path) -> list[str]:
    """What is not true in the record of a completed run: each rank of its last attempt ended well, once, there."""
    drawn, wrong = planting.drawn, []
    job = read_json(RunDir(planting.run).attempt(last).job) or {}
    nodes = int(job.get("nodes", NODES))
    world = nodes * drawn.ranks
    if nodes < NODES and not drawn.min_nodes:
        wrong.append(f"it went on with {nodes} nodes")
    if done != sorted(f"end-{last}-{rank}-{world}" for rank in range(world)):
        wrong.append(f"Completed, but of {world} ranks ended well: {done}")
    records = state.get("ranks") or []
    if [(r["rank"], r["exit_code"], r["signal"]) for r in records] != [(rank, 0, None) for rank in range(world)]:
        wrong.append(f"its ranks' records: {records}")
    if state.get("attempt") != last:
        wrong.append(f"its last attempt is {last}, its record says {state.get('attempt')}")
    if drawn.launcher != "local" and not {r["node_name"] for r in records} <= set(planting.bed.names):
        wrong.append(f"its nodes are {[r['node_name'] for r in records]}")
    whole = planting.harmless or not planting.planted
    begun = len(launched(RunDir(planting.run)))  # Slurm may have to be asked several times
    if whole and (begun != 1 and drawn.fault != DRIVER):
        wrong.append(f"nothing was wrong, and it took {begun} attempts")
    if drawn.loop:
        from trainkit.loops.verifying import verify

        return wrong + list(verify(planting.run).problems)
    if whole:
        metrics = Workspace.from_config(str(workspace)).get_run(planting.run.name).get_metrics(rank="all")
        ticks = list(range(drawn.ticks))
        wrong += [
            f"rank {r} has logged {metrics.get(r)}" for r in range(world) if (metrics.get(r) or {}).get("tick") != ticks
        ]
    return wrong


def survivable(planting: Planting) -> bool:
    """Whether a job without restarts may complete although it was hit: a fault so short that nobody lost anybody."""
    fault = planting.drawn.fault
    return fault in (FROZEN, CUT) and planting.drawn.mend_seconds < _FENCE_SECONDS + SLACK_SECONDS


def unexplained(planting: Planting) -> bool:
    """Whether a run completed in the attempt that was hit while its ranks ran; only where these had ended may it."""
    state = read_json(RunDir(planting.run).state) or {}
    hit = planting.began and planting.drawn.fault in (*OF_NODES, *OF_PROCESSES) and not survivable(planting)
    if not hit or state.get("status") != "Completed" or state.get("attempt") != planting.attempt:
        return False
    ends = [float(record.get("ended") or 0) for record in state.get("ranks") or []]
    noticed = _FENCE_SECONDS + SLACK_SECONDS if planting.drawn.fault in (CUT, FROZEN) else 1.0  # others go on so long
    return min(ends, default=0) > planting.planted + noticed


def tidy(text: str) -> str:
    """One line, for a table of what broke."""
    return re.sub(r"\s+", " ", text)[:700]
