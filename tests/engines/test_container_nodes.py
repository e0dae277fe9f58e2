"""Jobs in containers on several nodes, each with a podman of its own: the image gets there, and nothing stays there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import container_keeper, containers
from tests.engines.commands import Client
from tests.engines.testbed import Testbed, missing

pytestmark = pytest.mark.engine
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
LONG = WELL + "time.sleep(300)\n"


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Two nodes and ctl, each with its own store of images; only ctl has the small image."""
    reason = missing() or containers.missing()
    if reason:
        pytest.skip(reason)
    with Testbed(nodes=2) as made:
        for name in ("ctl", *made.names):
            folder = made.folder / f"podman-{name}"
            container_keeper.podman_settings(folder, made.folder / f"r-{name}", "127.0.0.1:1")
            (folder / "storage.conf").write_text(STORAGE)
            files = " ".join(
                shlex.quote(str(folder / f"{kind}.conf")) for kind in ("containers", "storage", "registries")
            )
            made.run(name, ["bash", "-c", f"mkdir -p /etc/containers && cp {files} /etc/containers/"], timeout=20)
        made.run("ctl", ["podman", "load", "-q", "-i", str(containers.images() / "small.tar")], timeout=120)
        made.slurm()
        yield made


def image_there(bed: Testbed, node: str) -> bool:
    """Whether a node's podman has the image."""
    found = bed.run(node, ["podman", "images", "-q"], timeout=30)
    return bool(found.stdout.strip())


def nothing_stays(bed: Testbed, client: Client, run: Path) -> None:
    """No process and no container of the run on any node."""
    client.nothing_left(run, 15)
    for node in bed.names:
        assert not bed.run(node, ["podman", "ps", "-aq"], timeout=30).stdout.strip()


def ended_well(run: Path, told: dict[str, object]) -> None:
    """Every rank ran in the image, on its own node, and its files are here."""
    assert told["status"] == "Completed", told
    logs = [path.read_text() for path in sorted(run.glob("attempts/1/logs/rank-*.log"))]
    assert [line.split()[3] for line in logs] == ["node1", "node2"]
    assert all(line.startswith("in 3.11.") and line.split()[-1].endswith("/home") for line in logs)
    assert sorted(path.name for path in run.glob("outputs/*")) == ["0.txt", "1.txt"]
    assert not (run / "home").exists()


def test_over_ssh_the_image_comes_from_the_shared_disk(bed: Testbed) -> None:
    client = Client(bed, "shared", "ssh", hosts="node1,node2")
    run = client.submit(WELL, "--image", containers.SMALL, "--engine", "podman")
    ended_well(run, client.ended(run))
    container = json.loads((run / "environment.json").read_text())["container"]
    assert Path(container["archive"]).is_file() and container["name"] == containers.SMALL
    assert image_there(bed, "node1") and image_there(bed, "node2")
    nothing_stays(bed, client, run)


def test_over_ssh_without_a_shared_disk_the_image_is_sent(bed: Testbed) -> None:
    for node in bed.names:
        if node != "ctl":
            bed.run(node, ["podman", "rmi", "-a", "-f"], timeout=60)
    client = Client(bed, "staged", "ssh", hosts="node1,node2", shared_disk="false")
    run = client.submit(WELL, "--image", containers.SMALL, "--engine", "podman")
    ended_well(run, client.ended(run))
    nothing_stays(bed, client, run)


def test_slurm_runs_the_image_a_shell_enters_it_and_a_node_that_loses_its_container_is_named(bed: Testbed) -> None:
    client = Client(bed, "slurm", "slurm")
    run = client.submit(LONG, "--image", containers.SMALL, "--engine", "podman")
    client.wait_for(run, "outputs/*.txt", 2)
    inside = client.call(
        "shell", run.name, "--rank", "1", "--", "python3", "-c", "import sys, os; print(sys.version, os.getcwd())"
    )
    assert inside.startswith("3.11.") and str(run / "code") in inside
    (name,) = bed.run("node2", ["podman", "ps", "--format", "{{.Names}}"], timeout=30).stdout.split()
    bed.run("node2", ["podman", "kill", "--signal", "KILL", name], timeout=30)
    told = client.ended(run, code=1)
    assert told["status"] == "Failed" and "node2" in json.dumps(told["verdict"]), told
    nothing_stays(bed, client, run)
