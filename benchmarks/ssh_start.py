"""Starting a job over ssh on many hosts: what it costs this machine beside ssh itself.

    make bench NAME=ssh_start [ARGS="--repeats 5"]

`ssh` is a stand-in, a small program that waits a second, as a far host does, and gives a host's answer: so what is
measured is trainkit's own part. Its bars: 256 hosts start in at most 1.5 times the time of 8, with at most 10 ms of
this process's processor time for each host; asking whether all of them still run, the same. Beside it: the least that
any program could do, the same stand-ins started one after the other by subprocess.Popen and waited for.
Prints a table, writes benchmarks/results/ssh_start.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trainkit.job import Job
from trainkit_launchers.remote.far import MARK
from trainkit_launchers.ssh import Ssh

RESULT = Path(__file__).parent / "results" / "ssh_start.json"
COUNTS = (8, 64, 256)
TIME_LIMIT, PROCESSOR_LIMIT_MS = 1.5, 10.0
STAND_IN = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) {
    char request[65536];
    while (read(0, request, sizeof request) > 0) {}
    sleep(1);
    puts("%s{\"identity\": \"machine:1:2\", \"alive\": true, \"restarted\": false}");
    return 0;
}
"""


def build(folder: Path) -> None:
    """The stand-in, as `ssh` in `folder`: compiled, for 256 shells would measure the shell."""
    (folder / "ssh.c").write_text(STAND_IN % MARK.replace('"', '\\"'))
    subprocess.run(["cc", "-O1", "-static", "-o", str(folder / "ssh"), str(folder / "ssh.c")], check=True)


def measured(act: Callable[[], object]) -> tuple[float, float]:
    """Wall clock seconds, and this process's own processor seconds, of `act`."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    act()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def plainly(count: int) -> None:
    """The stand-ins alone."""
    started = [subprocess.Popen(["ssh"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(count)]
    for process in started:
        process.wait()


def measure(count: int, repeats: int) -> dict[str, object]:
    """Medians for so many hosts."""
    launcher = Ssh(hosts=tuple(f"host{number}" for number in range(count)))
    job = Job(run_id="r", experiment="e", run_dir="/shared/r", attempt=1, interpreter="/venv/bin/python", nodes=count)
    handle = launcher.start(job)
    acts = {
        "plain processes": lambda: plainly(count),
        "start": lambda: launcher.start(job),
        "cancel": lambda: launcher.cancel(handle),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, act in acts.items():
            times[name].append(measured(act))
    rows = {
        name: {
            "seconds": statistics.median(seconds for seconds, _ in taken),
            "processor_ms_a_host": 1000 * statistics.median(processor for _, processor in taken) / count,
        }
        for name, taken in times.items()
    }
    return {"hosts": count, **rows}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        rows = [measure(count, repeats) for count in COUNTS]
    print(f"{'hosts':>6} {'':18} {'seconds':>9} {'own cpu, ms a host':>20}")
    for row in rows:
        for name in ("plain processes", "start", "cancel"):
            values = row[name]
            assert isinstance(values, dict)
            print(f"{row['hosts']:6} {name:18} {values['seconds']:9.2f} {values['processor_ms_a_host']:20.2f}")
    few, many = rows[0]["start"], rows[-1]["start"]
    assert isinstance(few, dict)
    assert isinstance(many, dict)
    ratio, cost = many["seconds"] / few["seconds"], many["processor_ms_a_host"]
    passed = ratio <= TIME_LIMIT and cost <= PROCESSOR_LIMIT_MS
    print(f"\n256 hosts over 8: {ratio:.2f} x (bar {TIME_LIMIT}), {cost:.2f} ms a host (bar {PROCESSOR_LIMIT_MS:g}): "
          f"{'yes' if passed else 'NO'}")  # fmt: skip
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(
        json.dumps({"machine": machine, "repeats": repeats, "ratio": ratio, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
