"""Ray itself: a head and a worker on the nodes of a testbed, jobs through trainkit, the loss of a node.

One cluster for all of the module. Ray is in a virtual environment of its own, without torch (scripts/ray-venv); ranks
use the interpreter of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import containers, node_podman, pages
from tests.engines.commands import Client
from tests.engines.matrix import FEW, Matrix, rotating
from tests.engines.ondemand import checked_out
from tests.engines.testbed import Testbed, missing
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parent.parent.parent
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
MEMORY = "--object-store-memory=100000000"

CLIENT = """
import json, sys, time
from pathlib import Path
from trainkit import ComputeTarget, Experiment, ScriptRunConfig, Workspace
from trainkit.distributed import SpreadConfiguration
from trainkit_launchers.ray import Ray

folder, address, python, nodes, action = sys.argv[1:]
workspace = Workspace.create("ray", path=folder, exist_ok=True)
ComputeTarget.attach(workspace, "cluster", Ray(address, python=python))
again = int(action == "again")  # one restart, on one node where no more are left
config = ScriptRunConfig(folder + "/source", "train.py", compute_target="cluster", use_gpu=False,
                         max_restarts=again, min_nodes=again,
                         distributed_job_config=SpreadConfiguration("fork", 1, int(nodes)))
run = Experiment(workspace, "work").submit(config)
print(json.dumps({"run": run.id}), flush=True)
if action == "cancel":
    while run.get_status() != "Running" or len(run.get_metrics(rank="all")) < 2:
        time.sleep(0.1)
    run.cancel()
run.wait_for_completion(raise_on_error=False)
state = json.loads(Path(folder, ".trainkit", "runs", "work", run.id, "state.json").read_text())
print(json.dumps({"status": run.get_status(), "verdict": state["verdict"], "all": run.get_metrics(rank="all")}))
"""


class Cluster:
    """A testbed with Ray on its nodes."""

    def __init__(self, bed: Testbed, venv: Path) -> None:
        self.bed, self.venv, self._ray = bed, venv, str(venv / "bin" / "ray")
        self.python, self.address = str(venv / "bin" / "python"), f"http://{bed.address('node1')}:8265"
        self.join("node1")

    def join(self, node: str) -> None:
        """Start Ray on a node, as such a node's own start does; the head's begins a cluster, which the other joins."""
        head = self.bed.address("node1")
        if node != "node1":
            self._start(node, [f"--address={head}:6379", f"--node-ip-address={self.bed.address(node)}"])
            return
        self._start(node, ["--head", f"--node-ip-address={head}", "--port=6379", f"--dashboard-host={head}"])
        self._stop("node2")
        self.join("node2")

    def _start(self, node: str, words: list[str]) -> None:
        argv = [self._ray, "start", *words, "--num-cpus=2", MEMORY, "--disable-usage-stats"]
        if self.bed.run(node, argv, env=QUIET, timeout=120, cwd="/").returncode:  # too slow for Ray, on a busy machine
            self._stop(node)
            self.bed.run(node, argv, env=QUIET, timeout=120, cwd="/", check=True)

    def _stop(self, node: str) -> None:
        self.bed.run(node, [self._ray, "stop", "--force"], timeout=60, cwd="/", check=True)

    def folder(self, name: str, script: str) -> Path:
        """A folder for a workspace that all nodes see, with a script."""
        folder = self.bed.shared / name
        (folder / "source").mkdir(parents=True)
        (folder / "source" / "train.py").write_text(script)
        return folder

    def client(self, folder: Path, nodes: int, action: str = "wait") -> subprocess.Popen[str]:
        """A process in ctl that submits the script and tells what became of it."""
        words = [str(folder), self.address, str(self.venv / "bin" / "python"), str(nodes), action]
        return self.bed.start(
            "ctl", [sys.executable, "-c", CLIENT, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def outcome(self, name: str, script: str, nodes: int = 2, action: str = "wait") -> Any:
        """What became of a run of the script."""
        return told(self.client(self.folder(name, script), nodes, action))


def told(client: subprocess.Popen[str], seconds: float = 120.0) -> Any:
    """The last thing that a client says."""
    try:
        output, errors = client.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        client.kill()
        output, errors = client.communicate()
        raise AssertionError(f"the client did not end: {output}{errors}") from None
    assert client.returncode == 0, output + errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with Ray; the module's last test kills one of them."""
    if missing():
        pytest.skip(missing())
    made = subprocess.run([str(ROOT / "scripts" / "ray-venv")], capture_output=True, text=True, timeout=600)
    if made.returncode:
        assert not os.environ.get("CI"), made.stderr
        pytest.skip(made.stderr.strip())
    with Testbed(nodes=2) as bed:
        yield Cluster(bed, Path(made.stdout.splitlines()[-1]))


def test_it_keeps_the_laws_of_a_launcher_and_its_own(cluster: Cluster) -> None:
    done = cluster.bed.run(
        "ctl",
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(cluster.bed.shared / "laws"),
         str(ROOT / "tests" / "engines" / "ray_laws.py")],
        env={"RAY_OF_THE_TEST": cluster.address, "PYTHON_OF_RAY": str(cluster.venv / "bin" / "python")},
        cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


WORK = """
import os, socket
from trainkit import Run
run = Run.get_context()
run.log("rank", int(os.environ["RANK"]))
run.log("host", socket.gethostname())
"""


def test_the_pages_example_runs(cluster: Cluster) -> None:
    ours = {"http://head:8265": cluster.address, "/opt/ray/bin/python": str(cluster.venv / "bin" / "python")}
    printed = pages.run_example(cluster.bed, "ray.md", cluster.bed.shared / "page", ours)
    assert printed.splitlines()[-1].startswith("rank 1 of 2 on node"), printed


def test_an_agent_runs_in_a_container_of_its_node(cluster: Cluster) -> None:
    reason = containers.missing()
    if reason:
        pytest.skip(reason)
    node_podman.install(cluster.bed)
    python = str(cluster.venv / "bin" / "python")
    client = Client(cluster.bed, "image", "ray", address=cluster.address, python=python)
    run = client.submit(node_podman.WELL, "--image", containers.SMALL, "--engine", "podman")
    node_podman.ended_well(run, client.ended(run))
    assert not node_podman.left(cluster.bed)


def test_a_run_of_two_nodes_is_one_rank_on_each(cluster: Cluster) -> None:
    result = cluster.outcome("work", WORK)
    assert result["status"] == "Completed", result
    assert sorted(values["host"] for values in result["all"].values()) == ["node1", "node2"]
    assert [result["all"][rank]["rank"] for rank in sorted(result["all"])] == [0, 1]


def test_a_rank_that_fails_is_named_with_its_line(cluster: Cluster) -> None:
    script = "import os, time\nif os.environ['RANK'] == '1':\n    raise ValueError('no such bird')\ntime.sleep(300)\n"
    result = cluster.outcome("failing", script)
    assert result["status"] == "Failed", result
    assert result["verdict"]["summary"].startswith("rank 1 failed with ValueError: no such bird at ")
    assert result["verdict"]["summary"].endswith("/train.py:3")


def test_a_cancelled_run_ends_on_all_nodes(cluster: Cluster) -> None:
    result = cluster.outcome("cancelled", WORK + "import time; time.sleep(300)\n", action="cancel")
    assert result["status"] == "Canceled", result
    assert not [pid for node in cluster.bed.names for pid in cluster.bed.processes(node, "train.py")]


def test_more_nodes_than_there_are_is_refused_with_what_there_is(cluster: Cluster) -> None:
    result = cluster.outcome("many", WORK, nodes=3)
    assert result["status"] == "Failed", result
    assert "needs 3 nodes with 1 CPU each. It has 2 nodes alive" in result["verdict"]["summary"]


def test_cells_of_the_matrix_end_as_one_process_does(cluster: Cluster) -> None:
    cells = Matrix(cluster.bed, ray=lambda: cluster)
    few = [cell for cell in FEW if cell.launcher == "ray"]
    for cell in few + rotating(checked_out(), 1, ["ray"]):
        if cell.spread == "horovod":
            pytest.importorskip("horovod")
        cells.run(cell)


FIRST_STAYS = """
import time
print("attempt", os.environ["TRAINKIT_ATTEMPT"], "rank", run.rank, "of", run.world_size, flush=True)
if os.environ["TRAINKIT_ATTEMPT"] == "1":
    time.sleep(300)
"""


def begun(cluster: Cluster, name: str, action: str) -> tuple[subprocess.Popen[str], Path, int]:
    """A client, its run's directory, and which rank is on node2, once both ranks run."""
    folder = cluster.folder(name, WORK + FIRST_STAYS)
    client = cluster.client(folder, 2, action)
    assert client.stdout is not None
    line = client.stdout.readline()
    assert line, "".join(client.communicate())
    run = folder / ".trainkit" / "runs" / "work" / json.loads(line)["run"]

    def hosts() -> list[str]:
        assert client.poll() is None, "".join(client.communicate())
        texts = [path.read_text() for path in sorted((run / "events").glob("rank-*.jsonl"))]
        return [name for text in texts for name in cluster.bed.names if name in text]

    wait_until(lambda: len(hosts()) == 2, 90, "both ranks")
    return client, run, hosts().index("node2")


def test_a_worker_that_is_lost_is_named_and_a_job_that_may_goes_on_without_it(cluster: Cluster) -> None:
    once, _, first = begun(cluster, "lost", "wait")
    twice, run, second = begun(cluster, "again", "again")
    cluster.bed.kill("node2", silently=True)
    result = told(once)
    assert result["status"] == "Failed", result
    assert f"node {first} (node2" in result["verdict"]["summary"], result["verdict"]
    result = told(twice, 240)
    state = json.loads((run / "state.json").read_text())
    stages = [json.loads(line)["details"] for line in (run / "stages.jsonl").read_text().splitlines()]
    assert result["status"] == "Completed", (result, stages)
    words = [each for each in stages if each.startswith("restart ")][-1]
    assert words.startswith(f"restart 1 of 1: node {second} (node2) was lost: ") and "1 rank(s) on 1 node(s)" in words
    assert [rank["node_name"] for rank in state["ranks"]] == ["node1"]
    ran = sorted(path.parent for path in run.glob("attempts/*/handle.json"))  # without the try for two nodes
    before, after = (sorted(log.read_text() for log in attempt.glob("logs/rank-*.log")) for attempt in ran)
    assert before == ["attempt 1 rank 0 of 2\n", "attempt 1 rank 1 of 2\n"]
    assert after == [f"attempt {state['attempt']} rank 0 of 1\n"]
