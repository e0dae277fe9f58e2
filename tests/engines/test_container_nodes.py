"""Jobs in containers on several nodes, each with a podman of its own: the image gets there, and nothing stays there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import containers, node_podman
from tests.engines.commands import Client
from tests.engines.node_podman import WELL, ended_well
from tests.engines.testbed import Testbed, missing
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
LONG = WELL + "time.sleep(300)\n"


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Two nodes and ctl, each with its own store of images; only ctl has the small image."""
    reason = missing() or containers.missing()
    if reason:
        pytest.skip(reason)
    with Testbed(nodes=2) as made:
        node_podman.install(made)
        made.slurm()
        yield made


def image_there(bed: Testbed, node: str) -> bool:
    """Whether a node's podman has the image."""
    found = bed.run(node, ["podman", "images", "-q"], timeout=30)
    return bool(found.stdout.strip())


def nothing_stays(bed: Testbed, client: Client, run: Path) -> None:
    """No process and no container of the run on any node."""
    client.nothing_left(run, 15)
    assert not node_podman.left(bed)


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
    wait_until(lambda: json.loads(client.call("show", run.name, "--json"))["status"] == "Running", 30, "Slurm's word")
    inside = client.call(
        "shell", run.name, "--rank", "1", "--", "python3", "-c", "import sys, os; print(sys.version, os.getcwd())"
    )
    assert inside.startswith("3.11.") and str(run / "code") in inside
    (name,) = bed.run("node2", ["podman", "ps", "--format", "{{.Names}}"], timeout=30).stdout.split()
    bed.run("node2", ["podman", "kill", "--signal", "KILL", name], timeout=30)
    told = client.ended(run, code=1)
    assert told["status"] == "Failed" and "node2" in json.dumps(told["verdict"]), told
    nothing_stays(bed, client, run)
