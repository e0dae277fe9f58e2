"""What the head's agent costs with many nodes, and 64 real ranks of one job.

    make bench NAME=agents [ARGS="--seconds 20 --repeats 3"]

The head is the real agent with one rank of its own. The other nodes are simulated, 128 in a process, each on a channel
of its own as its agent has it: the same handshake, hello, facts, go, beats and done. Plain nodes say nothing else;
those that train also tell the head every second that their rank has made steps, as the agents of a training loop do.
Measured: the processor time that the head's process takes while all are there, for each node; and how long it takes
from the head's listening until the last node has its word to begin. The bar: a node of 512 costs at most 1.2 times one
of 64. An agent without other nodes costs something too; so what a node more costs, counted from 8 nodes, is a column.

Then a job of 2 nodes with 32 ranks each, on this machine and over ssh on two nodes of a testbed (which needs root): it
must end well with a record of each rank.
Prints tables, writes benchmarks/results/agents.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the testbed

from trainkit.boot.channel import NodeChannel
from trainkit.boot.hangs import PULSE
from trainkit.boot.pulse import COMPUTING, Pulse
from trainkit.boot.rundir import AttemptDir, RunDir, publish, read_json
from trainkit.job import agent_command
from trainkit.testing import make_job, wait_until

RESULT = Path(__file__).parent / "results" / "agents.json"
SIZES = (8, 64, 512)
BASE, BAR = 64, 1.2
IN_A_PROCESS = 128
SETTLE_SECONDS, END_SECONDS = 3.0, 60.0
RANK = "import os, time\nwhile not os.path.exists('../finish'):\n    time.sleep(0.1)\n"
MANY_NODES, MANY_RANKS = 2, 32
EACH = "import os, time\nopen('outputs/' + os.environ['RANK'], 'w').write(str(time.time()))\n"


class Simulated:
    """One node's agent, as far as the head can tell."""

    def __init__(self, attempt: AttemptDir, node: int) -> None:
        self.node, self.heard, self.step = node, set[str](), 0
        hello = {"name": f"node{node}", "machine": f"machine-{node}"}
        self.channel = NodeChannel(attempt, node, hello, lambda: None)

    def look(self) -> None:
        """Take in what has arrived; answer the head's farewell."""
        for _, message in self.channel.received():
            self.heard.add(message["type"])
            if message["type"] == "end":
                self.done()

    def done(self) -> None:
        """Say that nothing runs here any more."""
        self.channel.send({"type": "done", "node": self.node, "own": True})

    def tell(self) -> None:
        """Say that the rank has made steps."""
        self.step += 10
        pulse = Pulse(self.node, COMPUTING, self.step, self.step, self.step, 0, self.step / 10, "", "S", self.step)
        self.channel.send({"type": PULSE, "ranks": [list(pulse)]}, 0)


def simulate(folder: Path, first: int, last: int, train: bool) -> int:
    """The nodes from `first` to `last`, until the head says that all is over; 1 where it says anything else."""
    attempt, nodes = RunDir(folder).attempt(1), dict[int, Simulated]()
    wait_until(attempt.head.exists, END_SECONDS, "the head's address")
    numbers = range(first, last + 1)

    def dial(number: int) -> None:
        nodes[number] = Simulated(attempt, number)

    dialing = [threading.Thread(target=dial, args=(number,)) for number in numbers]
    for thread in dialing:
        thread.start()
    for thread in dialing:
        thread.join()
    joined, told, ended = False, time.monotonic(), False
    while True:
        for node in nodes.values():
            node.look()
        heard = [node.heard for node in nodes.values()]
        if any({"lost", "stop"} & each and "end" not in each for each in heard) or len(heard) < len(numbers):
            return 1
        if not joined and all("go" in each for each in heard):
            joined = True
            (folder / f"joined-{first}").write_text(str(time.time()))
        if all("end" in each for each in heard):
            return 0
        if not ended and (folder / "finish").exists():
            ended = True
            for node in nodes.values():
                node.done()
        if joined and train and time.monotonic() - told >= 1.0:
            told = time.monotonic()
            for node in nodes.values():
                node.tell()
        time.sleep(0.1 if joined else 0.01)


def processor_seconds(pid: int) -> float:
    """Of all threads of a process so far: its own clock (as clock_getcpuclockid(3) makes it), which getrusage shows."""
    return time.clock_gettime((~pid << 3) | 2)


def status_of(pid: int, name: str) -> int:
    """A number of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name + ":")))


def measure(size: int, train: bool, seconds: float) -> dict[str, float]:
    """A job of so many nodes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        job, attempt = make_job(folder, RANK, nodes=size, preflight=False)
        publish(attempt.handle, {"handle": "a benchmark's"})
        words = [sys.executable, __file__, "--simulate", str(folder), str(int(train))]
        parts = [(n, min(n + IN_A_PROCESS, size) - 1) for n in range(1, size, IN_A_PROCESS)]
        simulated = [subprocess.Popen([*words, str(first), str(last)]) for first, last in parts]
        with open(job.agent_log(0), "wb") as log:
            environment = {**os.environ, "TRAINKIT_HEAD_ADDRESS": "127.0.0.1"}
            command = agent_command(sys.executable, job, 0, network=True)
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            files = [folder / f"joined-{first}" for first, _ in parts]
            wait_until(lambda: all(file.exists() and file.read_text() for file in files), END_SECONDS, "all nodes")
            joined = max(float(file.read_text()) for file in files) - attempt.head.stat().st_mtime
            time.sleep(SETTLE_SECONDS)
            before, began = processor_seconds(head.pid), time.monotonic()
            time.sleep(seconds)
            used, passed = processor_seconds(head.pid) - before, time.monotonic() - began
            threads, memory = status_of(head.pid, "Threads"), status_of(head.pid, "VmRSS")
            (folder / "finish").touch()
            codes = [process.wait(END_SECONDS) for process in (head, *simulated)]
        finally:
            for process in (head, *simulated):
                process.kill()
                process.wait()
        end = read_json(attempt.agent_end(0)) or {}
        if any(codes) or end.get("problem") or end.get("reason") or end.get("lost"):
            raise RuntimeError(f"the job of {size} nodes did not end well: {codes}, {end}")
    share = used / passed
    return {
        "core": share, "a_node_us": 1e6 * share / size, "joined": joined, "threads": threads,
        "memory_mb": memory / 1024,
    }  # fmt: skip


def many_ranks(launcher: str) -> dict[str, Any]:
    """One job of 64 ranks by `trainkit submit` on a testbed's ctl, and what its record says."""
    from tests.engines.testbed import Testbed

    program = str(Path(sys.executable).parent / "trainkit")
    with Testbed(nodes=MANY_NODES) as bed:
        folder = bed.shared / "many"
        folder.mkdir()
        (folder / "train.py").write_text(EACH)
        bed.run("ctl", [program, "init"], cwd=folder, check=True)
        hosts = ["--option", "hosts=" + ",".join(bed.names)]
        if launcher != "local":
            words = ["compute", "add", launcher, "--launcher", launcher, *hosts]
            bed.run("ctl", [program, *words], cwd=folder, check=True)
        shape = ["--nodes", str(MANY_NODES), "--ranks", str(MANY_RANKS), "--spread", "fork", "--gpu", "no"]
        began = time.time()
        words = ["submit", "train.py", "--target", launcher, *shape, "--wait", "--json"]
        done = bed.run("ctl", [program, *words], cwd=folder, timeout=180)
        passed = time.time() - began
        (run,) = folder.glob(".trainkit/runs/*/*_*")
        told = json.loads(bed.run("ctl", [program, "show", run.name, "--json"], cwd=folder, check=True).stdout)
        ranks = [record["rank"] for record in told["ranks"] if record["exit_code"] == 0]
        started = [float(file.read_text()) - began for file in (run / "outputs").iterdir()]
    size = MANY_NODES * MANY_RANKS
    right = (done.returncode, told["status"], ranks) == (0, "Completed", list(range(size))) and len(started) == size
    return {
        "launcher": launcher, "ranks": size, "right": right, "first": min(started), "last": max(started),
        "ended": passed,
    }  # fmt: skip


def costs(repeats: int, seconds: float) -> list[dict[str, Any]]:
    """The head's costs: sizes and kinds of nodes take turns."""
    cells = [(size, train) for train in (False, True) for size in SIZES]
    found: dict[tuple[int, bool], list[dict[str, float]]] = {cell: [] for cell in cells}
    for _ in range(repeats):
        for cell in cells:
            found[cell].append(measure(*cell, seconds))
    rows = []
    for (size, train), values in found.items():
        medians = {name: statistics.median(value[name] for value in values) for name in values[0]}
        pairs = zip(values, found[BASE, train], strict=True)
        ratio = statistics.median(one["a_node_us"] / few["a_node_us"] for one, few in pairs)
        more = [
            1e6 * (one["core"] - few["core"]) / (size - SIZES[0])
            for one, few in zip(values, found[SIZES[0], train], strict=True)
            if size > SIZES[0]
        ]
        row = {
            "nodes": size,
            "train": train,
            **medians,
            "ratio": ratio,
            "a_node_more_us": statistics.median(more or [0]),
        }
        rows.append({**row, "bar": BAR, "within": size <= BASE or ratio <= BAR})
    return rows


def main() -> int:
    """Measure, print, write; 1 where the bar is missed or a rank's record is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15, help="how long each job is watched")
    parser.add_argument("--simulate", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.simulate:
        folder, train, first, last = options.simulate
        return simulate(Path(folder), int(first), int(last), train == "1")
    load = os.getloadavg()
    rows = costs(options.repeats, options.seconds)
    print("| nodes | they | head's agent, of a core | a node | over that of 64 | a node more | all joined | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['nodes']} | {'train' if row['train'] else 'are there'} | {100 * row['core']:.1f} % "
              f"| {row['a_node_us']:.0f} us/s | {row['ratio']:.2f} x | {row['a_node_more_us']:.0f} us/s "
              f"| {row['joined']:.2f} s | {row['memory_mb']:.0f} MB |")  # fmt: skip
    many = [many_ranks(launcher) for launcher in ("local", "ssh")]
    print("\n| 2 x 32 ranks | first rank's first line | last rank's | ended | all records |\n|---|---|---|---|---|")
    for row in many:
        print(f"| {row['launcher']} | {row['first']:.2f} s | {row['last']:.2f} s | {row['ended']:.2f} s "
              f"| {'yes' if row['right'] else 'NO'} |")  # fmt: skip
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "kernel": platform.release(),
               "load before": load, "load after": os.getloadavg()}  # fmt: skip
    report = {"machine": machine, "repeats": options.repeats, "seconds": options.seconds, "rows": rows, "many": many}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    return int(not all(row["within"] for row in rows) or not all(row["right"] for row in many))


if __name__ == "__main__":
    sys.exit(main())
