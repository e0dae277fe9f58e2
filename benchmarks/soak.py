"""The long fault campaigns: every planted fault and every kill many times; prints a table, writes JSON and Markdown.

python benchmarks/soak.py            5 of each planted fault, 50 of each kill
python benchmarks/soak.py --kills 5  fewer
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for a run by `make bench`

from tests.engines import ondemand
from trainkit import Workspace
from trainkit.testing import runs
from trainkit.testing.kills import VICTIMS
from trainkit.testing.planted import FAULTS, MemoryGroup, Planted

RESULTS = Path(__file__).parent / "results"
GONE_SECONDS, KNOWN_SECONDS, CANCEL_SECONDS = 5.0, 10.0, 10.0


def possible(fault: Planted) -> bool:
    """Whether this machine and user can plant it."""
    return {"memory cgroup": MemoryGroup.possible(), "small disk": os.getuid() == 0}.get(fault.needs, True)


def planted(fault: Planted, folder: Path) -> str:
    """One run of a planted fault; what is wrong."""
    if fault.needs != "small disk":
        return "; ".join(runs.plant(Workspace.create("soak", path=str(folder)), folder / "source", fault))
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        return "; ".join(runs.plant(Workspace.create("soak", path=str(disk)), folder / "source", fault))
    finally:
        while subprocess.run(["umount", str(disk)], capture_output=True).returncode:
            time.sleep(0.05)


def repeated(name: str, times: int, once: Callable[[Path], Any], judge: Callable[[Any], str]) -> dict[str, Any]:
    """A row: how often it went right, how long the end took, and the first thing that was wrong."""
    gone, known, wrong = [], [], []
    begun = time.monotonic()
    for number in range(times):
        with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
            try:
                seen = once(Path(folder))
                problem = judge(seen)
            except Exception:
                seen, problem = None, traceback.format_exc(limit=1)
        if problem:
            wrong.append(f"{number}: {problem}")
        if isinstance(seen, runs.Killed):
            gone += [seen.gone_seconds] if seen.gone_seconds else []
            known.append(seen.known_seconds)
    row = {"fault": name, "repeats": times, "right": times - len(wrong), "wrong": wrong[:3]}
    row["seconds"] = round(time.monotonic() - begun, 1)
    for key, values in (("gone", gone), ("known", known)):
        if values:
            row.update({f"{key}_median": statistics.median(values), f"{key}_max": max(values)})
    print(text(row), flush=True)
    return row


def text(row: dict[str, Any]) -> str:
    """A row as a line of the table."""
    cells = [
        f"{row[k + '_median']:.2f} / {row[k + '_max']:.2f}" if row.get(k + "_max") else "" for k in ("gone", "known")
    ]
    return f"| {row['fault']} | {row['right']} of {row['repeats']} | {' | '.join(cells)} |"


def killed(victim: str) -> Callable[[Path], Any]:
    """One kill of a running job's part."""
    return lambda folder: runs.kill_and_watch(Workspace.create("soak", path=str(folder)), folder / "source", victim)


def ended(limit: float) -> Callable[[runs.Killed], str]:
    """What is wrong with the end of a killed job."""

    def judge(seen: runs.Killed) -> str:
        if seen.gone_seconds > limit:
            return f"processes were left for {seen.gone_seconds:.1f} s"
        return seen.wrong or ("" if seen.known_seconds <= KNOWN_SECONDS else f"known after {seen.known_seconds:.1f} s")

    return judge


def campaign(faults: int, kills: int) -> list[dict[str, Any]]:
    """All rows."""
    rows = [
        repeated(fault.name, faults, lambda folder, fault=fault: planted(fault, folder), str)  # type: ignore[misc]
        for fault in FAULTS
        if possible(fault)
    ]
    rows += [repeated(f"kill {victim}", kills, killed(victim), ended(GONE_SECONDS)) for victim in VICTIMS]
    others: list[tuple[str, Callable[..., runs.Killed], tuple[Any, ...], float]] = [
        ("kill the driver", runs.kill_driver, (), GONE_SECONDS),
        ("kill the client", runs.kill_client, (signal.SIGKILL,), GONE_SECONDS),
        ("Ctrl-C in wait", runs.kill_client, (signal.SIGINT,), GONE_SECONDS),
        ("cancel, fork", runs.cancel_and_watch, ("fork",), CANCEL_SECONDS),
        ("cancel, mpi", runs.cancel_and_watch, ("mpi",), CANCEL_SECONDS),
    ]
    for name, act, arguments, limit in others:

        def once(folder: Path, act: Any = act, arguments: tuple[Any, ...] = arguments) -> runs.Killed:
            seen: runs.Killed = act(Workspace.create("soak", path=str(folder)), folder / "source", *arguments)
            return seen

        rows.append(repeated(name, kills, once, ended(limit)))
    return rows


def kept(row: dict[str, Any]) -> ondemand.Row:
    """A row as results keep it."""
    values = {name: value for name, value in row.items() if name not in ("fault", "wrong", "seconds")}
    outcome = "failed" if row["wrong"] else "passed" if row["repeats"] else "skipped"
    return ondemand.Row(row["fault"], outcome, row["seconds"], "; ".join(row["wrong"]), values)


def main() -> int:
    """Run the campaign; exit 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faults", type=int, default=5, help="repeats of each planted fault")
    parser.add_argument("--kills", type=int, default=50, help="repeats of each kill")
    asked = parser.parse_args()
    head = (
        "| fault | right | no process left after, s: median / max | known after, s: median / max |\n|---|---|---|---|"
    )
    print(head, flush=True)
    result = ondemand.Result("soak")
    rows = campaign(asked.faults, asked.kills)
    machine = {"cpus": str(os.cpu_count()), "kernel": platform.release()}
    result.write([kept(row) for row in rows], engines=machine)
    (RESULTS / "soak.md").write_text("\n".join([head, *(text(row) for row in rows)]) + "\n")
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
