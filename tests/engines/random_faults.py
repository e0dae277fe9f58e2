"""Jobs and faults drawn at random, for soaks on a testbed: small jobs of two nodes, one fault at one instant each.

A draw follows from (seed, launcher, number) alone, so that what broke can be run again. `Planting` does the fault and
mends it; `promises` says what has to become of the run.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.engines.testbed import Testbed
from trainkit.boot.processes import parent_of, with_environment, words_of
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.testing.faults import Faults, holders
from trainkit.testing.kills import driver_of

NODES = 2
TICK_SECONDS = 0.2
NOTHING, DRIVER, FULL, SCHEDULER = "none", "driver killed", "full /tmp", "scheduler restarted"
AGENT, RANK, SHIM, STARTER = "agent killed", "rank killed", "rank's parent killed", "starter killed"
DEAD, SILENT, FROZEN, CUT = "node killed", "node killed silently", "node frozen", "link cut"
STOPPED = "rank stopped"
HARMLESS = (NOTHING, DRIVER, FULL, SCHEDULER, STOPPED)  # the job has to complete
OF_PROCESSES = (AGENT, RANK, SHIM, STARTER)  # a restart has to help
OF_NODES = (DEAD, SILENT, FROZEN, CUT)
FAULTS = {
    "local": (NOTHING, DRIVER, STOPPED, *OF_PROCESSES),
    "ssh": (NOTHING, DRIVER, STOPPED, FULL, *OF_PROCESSES, *OF_NODES),
    "slurm": (NOTHING, DRIVER, STOPPED, FULL, SCHEDULER, *OF_PROCESSES, *OF_NODES),
    "ray": (NOTHING, DRIVER, STOPPED, FULL, *OF_PROCESSES, *OF_NODES),
}
_STARTERS = ("mpirun", "prterun", "mpiexec", "horovodrun")
_FIND_SECONDS = 30.0
PLAIN = """
import os, sys, time
from trainkit import Run

run = Run.get_context()
mark = "%s-%d-%d" % (os.environ["TRAINKIT_ATTEMPT"], run.rank, run.world_size)
os.close(os.open("../seen-" + mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
for tick in range(int(sys.argv[1])):
    time.sleep(0.2)
    run.log("tick", tick)
open("../end-" + mark, "w").close()
"""
LOOP = """
import os, sys, time
import torch
from torch import nn
from trainkit import Run
from trainkit.loops import Callback, Saving, TorchLoop

run = Run.get_context()
mark = "%s-%d-%d" % (os.environ["TRAINKIT_ATTEMPT"], run.rank, run.world_size)
os.close(os.open("../seen-" + mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
torch.manual_seed(0)
numbers = torch.Generator().manual_seed(1)
inputs = torch.randn(96, 8, generator=numbers)
model = nn.Linear(8, 2)

class Slow(Callback):
    def on_step(self, training):
        time.sleep(0.2)

loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD(model.parameters(), 0.1),
    train=(inputs, (inputs.sum(1) > 0).long()), batch=8, saving=Saving(every_steps=5), callbacks=[Slow()],
    device="cpu", quiet=True,
)
loop.fit(epochs=max(1, int(sys.argv[1]) // 12))
open("../end-" + mark, "w").close()
"""


@dataclass(frozen=True)
class Draw:
    """One job and its fault."""

    launcher: str
    number: int
    fault: str
    spread: str
    ranks: int  # on each of the two nodes
    restarts: int
    min_nodes: int
    ticks: int
    loop: bool
    early: bool  # the fault's instant: so many seconds after submitting, else after the start of all ranks
    instant: float
    victim: int  # a node, or of that node's ranks the first
    mend_seconds: float

    @property
    def world(self) -> int:
        """Ranks in all."""
        return NODES * self.ranks

    @property
    def rank(self) -> int:
        """The rank that is the victim."""
        return self.victim * self.ranks

    def words(self) -> list[str]:
        """Of `trainkit submit`, beside the script, the target and the shape; the script's argument last."""
        more = ["--max-restarts", str(self.restarts)] if self.restarts else []
        more += ["--min-nodes", str(self.min_nodes)] if self.min_nodes else []
        return [*more, "--", str(self.ticks)]


def draw(seed: int, launcher: str, number: int) -> Draw:
    """The draw of a number: always the same."""
    chance = random.Random(f"{seed} {launcher} {number}")
    spreads = ["fork"] * 4 + ["torchrun", "mpi"] + (["horovod"] if importlib.util.find_spec("horovod") else [])
    faults = FAULTS[launcher]
    turn, place = divmod(number, len(faults))  # each turn has all of them
    fault = random.Random(f"{seed} {launcher} turn {turn}").sample(faults, len(faults))[place]
    spread = chance.choice(["torchrun", "mpi"] if fault == STARTER else spreads)
    loop = spread != "horovod" and chance.random() < 0.15
    restarts = chance.choice((0, 0, 1, 2))
    early = chance.random() < 0.3
    ticks = chance.randrange(12, 37)
    return Draw(
        launcher, number, fault, spread, chance.choice((1, 1, 2)), restarts, chance.choice((0, 1)) if restarts else 0,
        ticks, loop, early, chance.uniform(0, 4) if early else chance.uniform(0, ticks * TICK_SECONDS),
        chance.randrange(NODES), chance.uniform(2, 25),
    )  # fmt: skip


def ended(run: Path) -> bool:
    """Whether the run's end is recorded."""
    return RunDir(run).state.exists()


def newest(run: Path) -> AttemptDir | None:
    """The run's newest attempt, if one was begun."""
    attempts = RunDir(run).attempts()
    return attempts[-1] if attempts else None


@dataclass
class Planting:
    """The fault of one run: planted at its instant, mended after its time. Planted is 0 where the run ended before."""

    bed: Testbed
    drawn: Draw
    run: Path
    planted: float = 0.0
    attempt: int = 0  # that was hit
    started: bool = False  # whether all ranks had begun
    named: list[str] = field(default_factory=list)  # patterns: what a verdict names, one of these
    began: bool = False  # whether an agent had
    starter_node: int = 0  # whose torchrun or mpirun it is
    booted: Callable[[str], None] = lambda node: None  # starts what a node's own start does not
    mended: float = 0.0
    faults: Faults = field(default_factory=Faults)  # undoes what is done through it

    @property
    def harmless(self) -> bool:
        """Whether the job has to complete. Ray itself cannot start agents without room in /tmp."""
        began = self.started or not self.planted
        return self.drawn.fault in HARMLESS and (began or (self.drawn.launcher, self.drawn.fault) != ("ray", FULL))

    @property
    def host(self) -> str:
        """The node that is the victim, where nodes are machines."""
        return self.bed.names[self.drawn.victim]

    def plant(self, begun: float) -> None:
        """Wait for the instant, `begun` being when the job was submitted, and do it."""
        if self.drawn.fault == NOTHING:
            return
        if self.drawn.early:
            self._wait_until(begun + self.drawn.instant)
        else:
            while not ended(self.run) and not self._all_began() and time.time() < begun + 90:
                time.sleep(0.02)
            self._wait_until(time.time() + self.drawn.instant)
        if not ended(self.run):
            self._hit()

    def _wait_until(self, when: float) -> None:
        while time.time() < when and not ended(self.run):
            time.sleep(0.02)

    def _all_began(self) -> bool:
        return len(list(self.run.glob("seen-*"))) >= self.drawn.world

    def _hit(self) -> None:
        fault = self.drawn.fault
        if fault in (AGENT, RANK, SHIM, STARTER, DRIVER, STOPPED):
            pid = self._found()
            if not pid:
                return
            self._note()
            try:
                if fault == STOPPED:
                    self.faults.stop(pid)
                else:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                self.planted = 0.0
            return
        self._note()
        nodes = self.faults.nodes(self.bed)
        if fault == SILENT:
            self.bed.kill(self.host, silently=True)
        elif fault == SCHEDULER:
            self.bed.slurm_down("ctl")
        else:
            {DEAD: nodes.kill, FROZEN: nodes.stop, CUT: nodes.cut, FULL: nodes.disk}[fault](self.host)

    def _note(self) -> None:
        """What is true at the instant: which attempt it is, and how the victim is called."""
        attempt = newest(self.run)
        self.attempt, self.started, self.planted = attempt.number if attempt else 0, self._all_began(), time.time()
        names = {} if attempt is None else {n: (read_json(attempt.agent(n)) or {}).get("name") for n in range(NODES)}
        self.began = any(names.values())
        fault, victim, rank = self.drawn.fault, self.drawn.victim, self.drawn.rank
        node = next((n for n, name in names.items() if name == self.host), victim)
        if fault in OF_NODES:
            self.named = [rf"\b{self.host}\b", rf"\bnode {node}\b"]
            if self.drawn.launcher == "ray" and self.host == self.bed.names[0]:  # Ray's head: a new one knows nothing
                self.named.append(r"\bthe Ray cluster at \S+ no longer knows the job\b")
        elif fault == AGENT:
            self.named = [rf"\bnode {victim}\b", rf"\bsrun: {self.host}: task \d+: Killed"]  # Slurm's, before they met
        elif fault in (RANK, SHIM):
            self.named = [rf"\branks? ([\d, and]*\b)?{rank}\b", *([rf"\bnode {victim}\b"] if fault == SHIM else [])]
        elif fault == FULL:
            self.named = [r"\bRay\b"]
        elif fault == STARTER:
            self.named = [rf"\b(mpirun|torchrun|horovodrun|prterun) of node {self.starter_node} was killed by SIGKILL"]

    def _found(self) -> int:
        """The pid of the victim, waited for while the run lasts."""
        until = time.time() + _FIND_SECONDS
        while not ended(self.run) and time.time() < until:
            if pid := self._victim():
                return pid
            time.sleep(0.02)
        return 0

    def _victim(self) -> int:
        if self.drawn.fault == DRIVER:
            return driver_of(self.run) or 0
        attempt = newest(self.run)
        if attempt is None:
            return 0
        if self.drawn.fault == AGENT:
            return next(iter(holders(attempt.agent_lock(self.drawn.victim))), 0)
        if self.drawn.fault == STARTER:
            return self._starter()
        printing = holders(attempt.rank_log(self.drawn.rank), descriptor=1)
        script = next((pid for pid in printing if parent_of(pid) not in printing), 0)
        return parent_of(script) if script and self.drawn.fault == SHIM else script

    def _starter(self) -> int:
        found = []
        for pid in with_environment("TRAINKIT_RUN_ID", self.run.name):
            words = words_of(pid)
            name = Path((words or [""])[0]).name
            if name in _STARTERS or "torch.distributed.run" in words or any(w.endswith("/horovodrun") for w in words):
                found.append((pid, next((int(w[12:]) for w in words if w.startswith("--node_rank=")), 0)))
        if not found:
            return 0
        pid, self.starter_node = found[self.drawn.victim % len(found)]
        return pid

    def mend(self) -> None:
        """Undo it, once."""
        if self.mended:
            return
        self.mended = time.time()
        fault = self.drawn.fault
        if not self.planted:
            return
        self.faults.undo()
        if fault == SILENT:
            self.bed.boot(self.host)
        if fault in (DEAD, SILENT):
            self.booted(self.host)
        elif fault == SCHEDULER:
            self.bed.slurm_up("ctl")

    def names(self, summary: str) -> bool:
        """Whether a verdict names what was hurt."""
        return any(re.search(pattern, summary, re.IGNORECASE) for pattern in self.named)
