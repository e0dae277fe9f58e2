"""A podman of its own for each node of a testbed, and what tests of jobs in containers on several nodes look at."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.engines import container_keeper, containers
from tests.engines.testbed import Testbed

# In each node's own memory: quick, and gone with the node.
STORAGE = """
[storage]
driver = "overlay"
graphroot = "/dev/shm/podman"
runroot = "/run/podman"
"""
WELL = """
import os, sys, time
from trainkit import Run
with Run.get_context() as run:
    run.log("rank", int(os.environ["RANK"]))
print("in", sys.version.split()[0], "on", os.uname().nodename, "at", os.environ["HOME"], flush=True)
open("outputs/%s.txt" % os.environ["RANK"], "w").write("x")
"""


def install(bed: Testbed) -> None:
    """Settings and an empty store on every node and on ctl; only ctl gets the small image."""
    for name in ("ctl", *bed.names):
        folder = bed.folder / f"podman-{name}"
        container_keeper.podman_settings(folder, bed.folder / f"r-{name}", "127.0.0.1:1")
        (folder / "storage.conf").write_text(STORAGE)
        files = " ".join(shlex.quote(str(folder / f"{kind}.conf")) for kind in ("containers", "storage", "registries"))
        bed.run(name, ["bash", "-c", f"mkdir -p /etc/containers && cp {files} /etc/containers/"], timeout=20)
    bed.run("ctl", ["podman", "load", "-q", "-i", str(containers.images() / "small.tar")], timeout=120)


def left(bed: Testbed) -> str:
    """The containers that are on any node, running or not."""
    return "".join(bed.run(node, ["podman", "ps", "-aq"], timeout=30).stdout for node in bed.names)


def ended_well(run: Path, told: dict[str, object]) -> None:
    """Every rank ran in the image, on its own node, and its files are here."""
    assert told["status"] == "Completed", told
    logs = [path.read_text() for path in sorted(run.glob("attempts/1/logs/rank-*.log"))]
    assert sorted(line.split()[3] for line in logs) == ["node1", "node2"]
    assert all(line.startswith("in 3.11.") and line.split()[-1].endswith("/home") for line in logs)
    assert sorted(path.name for path in run.glob("outputs/*")) == ["0.txt", "1.txt"]
    assert not (run / "home").exists()
