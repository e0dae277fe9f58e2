"""The soak on several nodes: small jobs, each with one random fault at a random instant, and what is promised of them.

python -m benchmarks.soak_nodes                            10 minutes of each launcher; beside them 200 healthy loops
python -m benchmarks.soak_nodes --minutes ssh=4 --healthy 0 --write no
python -m benchmarks.soak_nodes --only ssh:17 --seed 5     one draw again

Where a promise was broken it prints seed, number, fault and verdict, and keeps the run's directory.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for a run by `make bench`

from tests.engines import healthy, ondemand, promises
from tests.engines.commands import PROGRAM, Client
from tests.engines.random_faults import CUT, DRIVER, FAULTS, FROZEN, LOOP, OF_NODES, PLAIN, Draw, Planting, draw, ended
from tests.engines.testbed import Testbed
from trainkit.boot.rundir import RunDir, read_json

KEEP = Path("/var/tmp/trainkit-soak")
_OPTIONS: dict[str, dict[str, object]] = {
    "local": {},
    "ssh": {"hosts": "node1,node2", "connect_timeout_seconds": 3},
    "slurm": {"time": 10},
}


@dataclass
class Lab:
    """A testbed with a client of one launcher, made when it is needed and again after what cannot be mended."""

    launcher: str
    bed: Testbed | None = None
    user: Client | None = None
    booted: Callable[[str], None] = lambda node: None  # what a node that was booted has to start

    def client(self) -> Client:
        """The client, on a testbed that is whole."""
        if self.bed is None or self.user is None:
            options = dict(_OPTIONS.get(self.launcher, {}))
            self.bed = Testbed(nodes=2)
            if self.launcher == "slurm":
                self.bed.slurm()
            elif self.launcher == "ray":
                from tests.engines.matrix import start_ray

                cluster = start_ray(self.bed)
                options = {"address": cluster.address, "python": cluster.python}
                self.booted = cluster.join
            self.user = Client(self.bed, "client", self.launcher, **options)
        elif self.launcher == "slurm":
            assert self.bed._slurm is not None
            self.bed._slurm.wait_idle(*self.bed.names)
        return self.user

    def drop(self) -> None:
        """End the testbed."""
        bed, self.bed, self.user = self.bed, None, None
        if bed is not None:
            bed.down()


@dataclass
class Seen:
    """What became of one draw."""

    drawn: Draw
    run: str = ""
    planted: bool = False
    status: str = ""
    seconds: float = 0.0
    verdict_seconds: float = 0.0
    left_seconds: float = 0.0
    summary: str = ""
    wrong: list[str] = field(default_factory=list)


def once(lab: Lab, drawn: Draw, seed: int) -> Seen:
    """One job with its fault; where a promise was broken, its directory is kept and the testbed is made anew."""
    seen, run, client = Seen(drawn), None, None
    begun = time.time()
    try:
        client = lab.client()
        before = promises.files(client.bed)
        begun = time.time()
        run = client.submit(LOOP if drawn.loop else PLAIN, *drawn.words(), ranks=drawn.ranks, spread=drawn.spread)
        seen.run = run.name
        _follow(Planting(client.bed, drawn, run, booted=lab.booted), client, begun, before, seen)
    except Exception:
        seen.wrong.append(f"the soak itself: {traceback.format_exc(limit=-3)}")
    seen.seconds = round(time.time() - begun, 1)
    if seen.wrong:
        if run is not None and client is not None:
            kept = KEEP / f"{drawn.launcher}-{seed}-{drawn.number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(run, kept, symlinks=True)
            if not ended(run):
                client.bed.run("ctl", [PROGRAM, "cancel", run.name], cwd=client.folder)
        lab.drop()
    elif lab.launcher == "ray" and drawn.fault in OF_NODES:
        lab.drop()
    return seen


def _follow(planting: Planting, client: Client, begun: float, before: dict[str, set[str]], seen: Seen) -> None:
    drawn, run = planting.drawn, planting.run
    try:
        planting.plant(begun)
        seen.planted = bool(planting.planted)
        if drawn.fault == DRIVER and seen.planted:  # somebody looks again
            client.bed.start("ctl", [PROGRAM, "wait", run.name], cwd=client.folder, stdout=DEVNULL, stderr=DEVNULL)
        while not ended(run) and time.time() < begun + promises.bound(planting):
            if planting.planted and time.time() > planting.planted + drawn.mend_seconds:
                planting.mend()
            time.sleep(0.1)
        if not ended(run):
            seen.wrong.append(f"it has not ended after {time.time() - begun:.0f} s")
            return
        over = time.time()
        if drawn.fault == FROZEN:  # what is stopped cannot end
            planting.mend()
            over = time.time()
        state = read_json(RunDir(run).state) or {}
        seen.status, seen.summary = str(state["status"]), str((state.get("verdict") or {}).get("summary") or "")
        seen.verdict_seconds = round(promises.verdict_seconds(planting), 1)
        _await_nothing(planting, client, before, over, seen)
        seen.wrong += promises.broken(planting, client.folder)
        if promises.unexplained(planting):
            seen.wrong.append("it completed although its ranks were hit")
    finally:
        planting.mend()


def _await_nothing(planting: Planting, client: Client, before: dict[str, set[str]], over: float, seen: Seen) -> None:
    """Until nothing of the run is left on any node; what is left after its time is a broken promise."""
    while True:
        left = {
            pid: line for pid, line in promises.processes(planting.run.name).items() if f"{PROGRAM} wait" not in line
        }
        now = promises.files(client.bed)
        new = {name: sorted(now[name] - before[name]) for name in now if now[name] - before[name]}
        seen.left_seconds = round(time.time() - over, 1)
        if not left and not new:
            return
        cut_off = planting.drawn.fault in (CUT, FROZEN)
        if seen.left_seconds > (promises.CUT_OFF_SECONDS if cut_off else promises.LEFT_SECONDS):
            seen.wrong += [f"left {seen.left_seconds:.0f} s after the end: process {left}"] if left else []
            seen.wrong += [f"left on nodes: {new}"] if new else []
            return
        time.sleep(0.2)


class Campaign:
    """All that was run."""

    def __init__(self, seed: int) -> None:
        self.seed, self.seen, self.loops = seed, list[Seen](), list[healthy.Loop]()
        self._lock = threading.Lock()

    def work(self, launcher: str, first: int, until: float = 0.0, step: int = 1) -> None:
        """Every `step`-th draw from the first one, on a testbed of its own, until the time is up."""
        lab, number = Lab(launcher), first
        try:
            while number == first or time.time() < until:
                self._tell(once(lab, draw(self.seed, launcher, number), self.seed))
                number += step
        finally:
            lab.drop()

    def all_beds(self, launcher: str, until: float, beds: int) -> None:
        """`work` on so many testbeds side by side."""
        with ThreadPoolExecutor(beds) as pool:
            list(pool.map(lambda first: self.work(launcher, first, until, beds), range(beds)))

    def _tell(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)
            d = seen.drawn
            shape = f"{d.spread} 2x{d.ranks} restarts={d.restarts} min={d.min_nodes}{' loop' if d.loop else ''}"
            told = f"{d.launcher}:{d.number} {d.fault}{'' if seen.planted else ' (not planted)'}"
            times = f"{seen.seconds:.0f} s, verdict {seen.verdict_seconds:.1f} s, left {seen.left_seconds:.1f} s"
            print(f"{told} [{shape}] {seen.status} {promises.tidy(seen.summary)} ({times})", flush=True)
            for wrong in seen.wrong:
                kept = KEEP / f"{d.launcher}-{self.seed}-{d.number}"
                print(f"  BROKEN --seed {self.seed} --only {d.launcher}:{d.number} {wrong}\n  kept: {kept}", flush=True)

    def heal(self, count: int, until: float, together: int) -> None:
        """Healthy loops, several at a time, until their number or the time is up."""

        def one(number: int) -> None:
            if time.time() > until:
                return
            with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
                loop = healthy.once(Path(folder), self.seed, number, KEEP)
            with self._lock:
                self.loops.append(loop)
                if loop.wrong or len(self.loops) % 10 == 0:
                    print(f"healthy:{number} {loop.wrong or 'well'} ({len(self.loops)} so far)", flush=True)

        with ThreadPoolExecutor(together) as pool:
            list(pool.map(one, range(count)))

    def rows(self) -> list[ondemand.Row]:
        """One for each launcher and fault, and one for the healthy loops."""
        made = []
        for launcher, faults in FAULTS.items():
            for fault in faults:
                of = [s for s in self.seen if (s.drawn.launcher, s.drawn.fault) == (launcher, fault)]
                if of:
                    made.append(_row(launcher, fault, of, self.seed))
        if self.loops:
            wrong = [f"healthy:{loop.number}: {loop.wrong}" for loop in self.loops if loop.wrong]
            values = {
                "runs": len(self.loops), "steps": sum(loop.steps for loop in self.loops),
                "false_alarms": sum(loop.alarms for loop in self.loops),
            }  # fmt: skip
            seconds = round(sum(loop.seconds for loop in self.loops), 1)
            outcome = "failed" if wrong else "passed"
            made.append(ondemand.Row("healthy loops", outcome, seconds, promises.tidy("; ".join(wrong)), values))
        return made


def _row(launcher: str, fault: str, of: list[Seen], seed: int) -> ondemand.Row:
    wrong = [f"--seed {seed} --only {launcher}:{s.drawn.number}: {'; '.join(s.wrong)}" for s in of if s.wrong]
    values = {
        "launcher": launcher, "fault": fault, "runs": len(of), "planted": sum(s.planted for s in of),
        "right": len(of) - len(wrong), "completed": sum(s.status == "Completed" for s in of),
        "verdict_seconds_max": max((s.verdict_seconds for s in of), default=0.0),
        "left_seconds_max": max(s.left_seconds for s in of),
    }  # fmt: skip
    name, seconds = f"{launcher}: {fault}", round(sum(s.seconds for s in of), 1)
    return ondemand.Row(name, "failed" if wrong else "passed", seconds, promises.tidy(" | ".join(wrong)), values)


def main() -> int:
    """Run the soak; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", nargs="*", default=[f"{name}=10" for name in FAULTS], metavar="LAUNCHER=MINUTES")
    parser.add_argument("--beds", type=int, default=2, help="testbeds of a launcher, side by side")
    parser.add_argument("--launchers", type=int, default=1, help="launchers, side by side")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1000))
    parser.add_argument("--only", default="", metavar="LAUNCHER:NUMBER", help="one draw; nothing is written")
    parser.add_argument("--healthy", type=int, default=200, metavar="N", help="healthy loops")
    parser.add_argument("--healthy-minutes", type=float, default=60)
    parser.add_argument("--together", type=int, default=2, help="healthy loops at a time")
    parser.add_argument("--write", choices=("yes", "no"), default="yes", help="whether to write the result")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    KEEP.mkdir(exist_ok=True)
    result, campaign = ondemand.Result("soak_nodes"), Campaign(asked.seed)
    if asked.only:
        launcher, _, number = asked.only.partition(":")
        campaign.work(launcher, int(number))
        return int(any(seen.wrong for seen in campaign.seen))
    with ThreadPoolExecutor(1) as beside:
        loops = beside.submit(campaign.heal, asked.healthy, time.time() + asked.healthy_minutes * 60, asked.together)

        def soak(words: str) -> None:
            launcher, _, minutes = words.partition("=")
            campaign.all_beds(launcher, time.time() + float(minutes) * 60, 1 if launcher == "ray" else asked.beds)

        with ThreadPoolExecutor(asked.launchers) as side_by_side:
            list(side_by_side.map(soak, asked.minutes))
        loops.result()
    rows = campaign.rows()
    if asked.write == "yes":
        machine = {"cpus": str(os.cpu_count()), "kernel": platform.release()}
        result.write(rows, seeds=[asked.seed], engines=machine)
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
