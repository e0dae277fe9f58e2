"""The matrix: one training script on every launcher x spread x ranks a node, always two nodes, always the same weights.

A cell is run as a user runs it: by `trainkit` on the testbed's ctl, in a workspace that all nodes see. It must end with
the weights of one process, to 1e-9 in float64, and with a true record.
`make test-matrix` (python -m tests.engines.matrix [words of cells]) runs all of them and writes
benchmarks/results/matrix.json; with words such as `ssh mpi 2` only the cells that have all of them, and writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tests.engines import ondemand
from tests.engines.commands import call
from tests.engines.testbed import Testbed

if TYPE_CHECKING:
    from tests.engines.test_ray import Cluster

LAUNCHERS = ("local", "ssh", "slurm", "ray")
SPREADS = ("fork", "torchrun", "mpi", "horovod")
NODES = 2
TOLERANCE = 1e-9
SEED = 7
EPOCHS = 3
SECONDS = 240  # for one cell, on a machine that does other things as well
# The batch does not divide by the ranks, nor the data by the batch: shares differ from rank to rank.
SCRIPT = f"""
import os
import numpy as np
import torch
from torch import nn
from trainkit.loops import Accuracy, TorchLoop, WarmupCosine

numbers = torch.Generator().manual_seed({SEED})
inputs = torch.randn(61, 6, generator=numbers, dtype=torch.float64)
data = (inputs, (inputs.sum(1) > 0).long())
torch.manual_seed({SEED})
model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).double()
loop = TorchLoop(
    model=model, loss=nn.functional.cross_entropy, optimizer=torch.optim.AdamW(model.parameters(), 0.01),
    train=data, val=data, metrics=[Accuracy()], batch=10, schedule=WarmupCosine(), seed={SEED}, device="cpu",
    quiet=True,
)
history = loop.fit(epochs={EPOCHS})
weights = [value.detach().flatten().numpy() for value in model.parameters()]
os.makedirs("outputs", exist_ok=True)
np.save("outputs/end-%d.npy" % loop.world.rank, np.concatenate([history["train_loss"], *weights]))
"""


@dataclass(frozen=True)
class Cell:
    """One way to run the script."""

    launcher: str
    spread: str
    ranks: int  # on each of the two nodes

    def __str__(self) -> str:
        return f"{self.launcher}-{self.spread}-{self.ranks}"


CELLS = tuple(Cell(*each) for each in product(LAUNCHERS, SPREADS, (1, 2)))
# Every launcher, every spread, both numbers of ranks, in one launch each.
FEW = (Cell("local", "torchrun", 1), Cell("ssh", "fork", 2), Cell("slurm", "mpi", 2), Cell("ray", "horovod", 1))


def rotating(commit: str, count: int, launchers: Sequence[str] = LAUNCHERS) -> list[Cell]:
    """Cells of these launchers, none of FEW: others at each commit, the same for everybody at one."""
    others = [cell for cell in CELLS if cell not in FEW and cell.launcher in launchers]
    return sorted(others, key=lambda cell: hashlib.sha256(f"{commit} {cell}".encode()).digest())[:count]


class WrongCell(AssertionError):
    """A cell that did not end as one process does, with what is wrong with it."""


class Matrix:
    """Cells on one testbed of two nodes: Slurm is started when a cell asks for it; Ray, where `ray` says how."""

    def __init__(self, bed: Testbed, folder: str = "matrix", ray: Callable[[], Cluster] | None = None) -> None:
        """`ray` starts, or names, the cluster on the testbed: its dashboard's address, its interpreter there."""
        self.bed, self.work, self._ray = bed, bed.shared / folder, ray
        self.work.mkdir()
        (self.work / "train.py").write_text(SCRIPT)
        self._attached = {"local"}
        self._trainkit("init")

    def _trainkit(self, *words: str, seconds: float = 60.0) -> str:
        """What `trainkit` prints on ctl; WrongCell with its words where it fails."""
        try:
            done = call(self.bed, self.work, *words, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise WrongCell(f"trainkit {' '.join(words)} has not ended in {seconds:.0f} s") from None
        if done.returncode:
            raise WrongCell(f"trainkit {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    @cached_property
    def alone(self) -> Path:
        """A folder with what one process, without trainkit's launchers, ends with."""
        folder = self.bed.shared / f"{self.work.name}-alone"
        folder.mkdir()
        (folder / "train.py").write_text(SCRIPT)
        self.bed.run("ctl", [sys.executable, "train.py"], cwd=folder, timeout=SECONDS, check=True)
        return folder

    def attach(self, launcher: str) -> None:
        """Start what a launcher needs and make it a compute target, once."""
        if launcher in self._attached:
            return
        options = ["hosts=" + ",".join(self.bed.names)]
        if launcher == "slurm":
            if self.bed.run("ctl", ["sinfo"]).returncode:
                self.bed.slurm()
            options = ["time=10"]
        elif launcher == "ray":
            if self._ray is None:
                raise WrongCell("no Ray cluster is here for this cell")
            cluster = self._ray()
            options = [f"address={cluster.address}", f"python={cluster.python}"]
        given = [word for option in options for word in ("--option", option)]
        self._trainkit("compute", "add", launcher, "--launcher", launcher, *given, "--max-nodes", str(NODES))
        self._attached.add(launcher)

    def run(self, cell: Cell) -> float:
        """Run one cell; how far its weights are from those of one process. Raises WrongCell with all that is wrong."""
        self.attach(cell.launcher)
        words = ["submit", "train.py", "--experiment", "matrix", "--target", cell.launcher, "--spread", cell.spread,
                 "--nodes", str(NODES), "--ranks", str(cell.ranks), "--gpu", "no", "--wait", "--json"]  # fmt: skip
        before = set(self.runs())
        try:
            self._trainkit(*words, seconds=SECONDS)
            (run,) = set(self.runs()) - before
            told = json.loads(self._trainkit("show", run.name, "--json"))
            metrics = json.loads(self._trainkit("metrics", run.name, "--rank", "all", "--json"))
        except WrongCell as error:
            logs = [log for run in set(self.runs()) - before for log in sorted(run.glob("attempts/*/logs/*"))]
            for run in set(self.runs()) - before:
                call(self.bed, self.work, "cancel", run.name, timeout=60)
            tails = "".join(f"\n== {log.name}\n{log.read_text(errors='replace')[-800:]}" for log in logs)
            raise WrongCell(f"{error}{tails}") from None
        expected = np.load(self.alone / "outputs" / "end-0.npy")
        distance, wrong = compare(expected, run, cell.ranks * NODES)
        wrong += untrue(cell, told, self.places(cell)) + repeated(metrics, cell.ranks * NODES, expected[:EPOCHS])
        if wrong:
            raise WrongCell("; ".join(wrong))
        return distance

    def runs(self) -> list[Path]:
        """The directories of all runs of the workspace."""
        return sorted(self.work.glob(".trainkit/runs/matrix/*_*"))

    def places(self, cell: Cell) -> list[str]:
        """The names that each rank's record may give its node: the machines', or of one machine its parts."""
        host = self.bed.run("ctl", ["hostname"], check=True).stdout.strip()
        return [f"{host}-{node}" for node in range(NODES)] if cell.launcher == "local" else self.bed.names


def compare(expected: NDArray[np.float64], run: Path, size: int) -> tuple[float, list[str]]:
    """The largest distance of any rank's losses and weights from those expected, and what is wrong with them."""
    found = sorted(path.name for path in (run / "outputs").glob("end-*.npy"))
    if found != sorted(f"end-{rank}.npy" for rank in range(size)):
        return float("inf"), [f"of {size} ranks these left weights: {found}"]
    each = [float(np.abs(np.load(run / "outputs" / name) - expected).max()) for name in found]
    near = all(distance <= TOLERANCE for distance in each)  # which no distance that is no number is
    return max(each), [] if near else [f"the weights are {each} from those of one process"]


def repeated(metrics: dict[str, Any], size: int, expected: NDArray[np.float64]) -> list[str]:
    """What is wrong with the metrics: each rank's record has each epoch once, as one process had it."""
    wrong = [] if sorted(metrics, key=int) == [str(rank) for rank in range(size)] else [f"metrics of {sorted(metrics)}"]
    for rank, values in metrics.items():
        losses = values.get("train_loss")
        there = isinstance(losses, list) and len(losses) == EPOCHS
        if not (there and np.abs(expected - np.array(losses, float)).max() <= TOLERANCE):
            wrong.append(f"train_loss of rank {rank} is {losses!r} and not {expected.tolist()}")
    return wrong


def untrue(cell: Cell, told: dict[str, Any], places: Sequence[str]) -> list[str]:
    """What is not true in the record of a cell that went well."""
    wrong = []
    size = cell.ranks * NODES
    asked = {"nodes": NODES, "ranks_per_node": cell.ranks, "spread": cell.spread, "target": cell.launcher}
    expected = {**asked, "status": "Completed", "attempts": 1, "verdict": None}
    for name, value in expected.items():
        if told.get(name) != value:
            wrong.append(f"{name} is {told.get(name)!r} and not {value!r}")
    ranks = told.get("ranks") or []
    if [record["rank"] for record in ranks] != list(range(size)):
        wrong.append(f"records of the ranks {[record['rank'] for record in ranks]}, and not of {size}")
    bad = [
        record for record in ranks if (record["exit_code"], record["signal"], record["exception"]) != (0, None, None)
    ]
    if bad:
        wrong.append(f"not all ranks ended well: {bad}")
    lying = [(r["rank"], r["node"], r["node_name"]) for r in ranks if r["node"] != r["rank"] // cell.ranks]
    names = [{record["node_name"] for record in ranks if record["node"] == node} for node in range(NODES)]
    if lying or any(len(each) != 1 for each in names) or sorted(name for each in names for name in each) != [*places]:
        wrong.append(f"the ranks' nodes are {names}, not {list(places)} with {cell.ranks} each, in order: {lying}")
    return wrong


def start_ray(bed: Testbed) -> Cluster:
    """A Ray cluster on the testbed's nodes."""
    from tests.engines.test_ray import ROOT, Cluster

    made = subprocess.run(
        [str(ROOT / "scripts" / "ray-venv")], stdout=subprocess.PIPE, text=True, timeout=900, check=True
    )
    return Cluster(bed, Path(made.stdout.splitlines()[-1]))


def versions() -> dict[str, str]:
    """Of what the cells run through."""
    code = (
        "import importlib.metadata as m, mpi4py.MPI as mpi; print(m.version('torch'), m.version('horovod'), "
        "mpi.Get_library_version().split(',')[0], sep='\\n')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.splitlines()
    script = (ondemand.ROOT / "scripts" / "ray-venv").read_text()
    ray = script.partition("release=")[2].partition("\n")[0]
    return {**dict(zip(("torch", "horovod", "mpi"), told, strict=False)), "ray": ray}


def main(words: Sequence[str]) -> int:
    """Run the cells, tell each at once, write the result where all were run; 1 where one is wrong."""
    chosen = [cell for cell in CELLS if set(words) <= set(str(cell).split("-"))]
    if not chosen:
        sys.exit(f"no cell is {' '.join(words)}; there are {', '.join(map(str, CELLS))}")
    result = ondemand.Result("matrix")
    rows = []
    with Testbed(nodes=NODES) as bed:
        matrix = Matrix(bed, ray=lambda: start_ray(bed))
        for cell in chosen:
            begun, wrong, distance = time.monotonic(), "", float("nan")
            try:
                distance = matrix.run(cell)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            seconds = round(time.monotonic() - begun, 1)
            values = {"launcher": cell.launcher, "spread": cell.spread, "ranks": cell.ranks}
            measured = {} if wrong else {"distance": distance}
            rows.append(
                ondemand.Row(str(cell), "failed" if wrong else "passed", seconds, wrong, {**values, **measured})
            )
            print(f"{cell}: {wrong or f'{distance:.1e} from one process'} ({seconds:.0f} s)", flush=True)
    if len(chosen) < len(CELLS):
        return int(any(row.wrong for row in rows))
    return int(bool(result.write(rows, seeds=[SEED], engines=versions())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
