"""What agents on several machines find out about each other before ranks start: real agents on nodes of a testbed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.engines.testbed import Testbed, missing
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.bundle import bundle
from trainkit.job import Job, agent_command

pytestmark = pytest.mark.engine
SECONDS = 60.0


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Three nodes: every test leaves them as they were."""
    if missing():
        pytest.skip(missing())
    with Testbed(nodes=3) as made:
        yield made


class Started:
    """A job whose agents were started by hand, one on each node."""

    def __init__(
        self, bed: Testbed, interpreter: str = sys.executable, first: int | None = None, **values: Any
    ) -> None:
        """Agents on the first nodes, all where `first` is not given; `start` starts the others."""
        self.bed = bed
        self.run = RunDir(bed.shared / f"run-{uuid.uuid4().hex[:8]}")
        self.attempt = self.run.attempt(1)
        prepare_attempt(self.attempt)
        make_private(self.run.code)
        values = {"command": ("true",), "nodes": len(bed.names), **values}
        self.job = Job(self.run.path.name, "e", str(self.run.path), 1, interpreter, **values)
        publish(self.attempt.job, self.job.to_json())
        publish(self.attempt.handle, {"handle": "by hand", "time": time.time()})
        self.agents: list[subprocess.Popen[str]] = []
        for node in range(len(bed.names) if first is None else first):
            self.start(node)

    def start(self, node: int, *before: str) -> None:
        """Start a node's agent, with these words before its own; where there is a boot zip, by the job's Python."""
        with open(self.bed.folder / f"agent-{node}.log", "a") as log:
            interpreter = self.job.interpreter if self.job.boot else sys.executable
            argv = [*before, *agent_command(interpreter, self.job, node, network=True)]
            agent = self.bed.start(self.bed.names[node], argv, cwd="/", stdout=log, stderr=log)
        self.agents.append(agent)

    def ended(self) -> tuple[str, Mapping[str, Any]]:
        """Wait for all agents; the head's problem, and what the preflight has recorded."""
        for agent in self.agents:
            agent.wait(SECONDS)
        end = read_json(self.attempt.agent_end(0), "problem") or {}
        return str(end["problem"]), read_json(self.attempt.preflight) or {}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks(attempt: AttemptDir) -> list[Path]:
    return sorted(attempt.ranks.glob("*.json"))


def test_nodes_that_are_fit_start_their_ranks(bed: Testbed) -> None:
    job = Started(bed)
    problem, record = job.ended()
    assert problem == "" and len(ranks(job.attempt)) == 3
    assert record["problems"] == [] and [node["name"] for node in record["nodes"]] == bed.names
    assert [node["address"] for node in record["nodes"]] == [bed.address(name) for name in bed.names]
    assert all(node["link"]["rate"] > 0 and node["python"]["main"]["trainkit"] for node in record["nodes"])
    assert len({node["machine"] for node in record["nodes"]}) == 3


def test_the_interface_by_which_nodes_reach_each_other_is_told_and_recorded(bed: Testbed) -> None:
    """Each node has another one, under an address that on every node is the node's own, as container engines make."""
    add = "ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up"
    say = 'echo "$GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME" >"$0/$TRAINKIT_NODE_NAME"'
    told = bed.shared / "told"
    told.mkdir()
    for node in bed.names:
        bed.run(node, ["bash", "-c", add], cwd="/", check=True)
    try:
        problem, record = Started(bed, command=("sh", "-c", say, str(told))).ended()
    finally:
        for node in bed.names:
            bed.run(node, ["ip", "link", "del", "docker0"], cwd="/", check=True)
    assert problem == "" and [node["interface"] for node in record["nodes"]] == ["eth0"] * 3
    assert {path.name: path.read_text() for path in told.iterdir()} == dict.fromkeys(bed.names, "eth0 eth0\n")


def test_a_folder_that_one_node_has_for_itself(bed: Testbed) -> None:
    """The run's folder is there, under its path, with all that was copied: but it is another one."""
    job = Started(bed, first=1)
    until(job.attempt.head.exists)
    copy = bed.shared / "copy"
    subprocess.run(["cp", "-a", job.run.path, copy], check=True)
    bed.hide("node3", job.run.path)
    try:
        bed.run("node3", ["cp", "-a", f"{copy}/.", str(job.run.path)], cwd="/", check=True)
        job.start(1)
        job.start(2)
        problem, record = job.ended()
    finally:
        bed.show("node3", job.run.path)
    assert "Node 2 (node3) does not see what the head has just written" in problem and str(job.run.path) in problem
    assert len(record["problems"]) == 1 and not ranks(job.attempt)


def test_code_that_is_another_on_one_node(bed: Testbed) -> None:
    job = Started(bed, first=0)
    (job.run.code / "train.py").write_text("print(1)\n")
    bed.hide("node3", job.run.code)
    try:
        bed.run("node3", ["tee", str(job.run.code / "train.py")], input="print(2)\n", cwd="/", check=True)
        for node in range(3):
            job.start(node)
        problem, record = job.ended()
    finally:
        bed.show("node3", job.run.code)
    words = "Node 2 (node3) has other code than node1 (train.py). Submit the job again."
    assert words in problem and record["problems"] == [words] and not ranks(job.attempt)


def test_a_node_whose_processes_may_open_few_files(bed: Testbed) -> None:
    job = Started(bed, first=1)
    job.start(1, "bash", "-c", 'ulimit -n 512; exec "$0" "$@"')
    job.start(2)
    problem, record = job.ended()
    words = "Node 1 (node2) lets a process open only 512 files. Raise it there to at least 1024 (ulimit -n)."
    assert words in problem and record["problems"] == [words] and not ranks(job.attempt)


@pytest.fixture
def environment(bed: Testbed) -> Path:
    """A Python environment under the same path on all nodes, with one package."""
    folder = bed.shared / f"env-{uuid.uuid4().hex[:8]}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "birds-1.2.dist-info").mkdir()
    return folder


def test_an_interpreter_that_one_node_does_not_have(bed: Testbed, environment: Path) -> None:
    bed.hide("node2", environment)
    try:
        problem, _ = Started(bed, str(environment / "bin" / "python")).ended()
    finally:
        bed.show("node2", environment)
    assert f"Node 1 (node2) cannot run the job's Python: {environment}/bin/python is missing" in problem
    assert "inherit=False" in problem


def test_packages_that_one_node_does_not_have(bed: Testbed, environment: Path) -> None:
    site = next(environment.glob("lib/python*/site-packages"))
    bed.hide("node3", site)
    try:
        problem, _ = Started(bed, str(environment / "bin" / "python")).ended()
    finally:
        bed.show("node3", site)
    assert "Node 2 (node3) has other packages than node1: no birds (1.2)" in problem


_TRAP = "open(%r, 'w').close()\nraise ImportError('nothing that the job needs is imported')\n"
_TELL = """
import atexit, os, sys
def tell():
    with open(%r + "/%%s-%%d" %% (os.uname().nodename, os.getpid()), "w") as file:
        file.write("\\n".join(sys.modules))
atexit.register(tell)
"""


@pytest.mark.parametrize("variables", [{}, {"PYTHONPATH": "/nowhere"}], ids=["own Python", "asked Python"])
def test_nothing_that_the_job_needs_is_imported(bed: Testbed, environment: Path, variables: dict[str, str]) -> None:
    """Agents in an environment whose torch must not be imported; with variables for Python they ask a second one."""
    site, seen = next(environment.glob("lib/python*/site-packages")), environment / "seen"
    for folder in (seen, site / "torch", site / "torch-2.4.0.dist-info"):
        folder.mkdir()
    (site / "torch" / "__init__.py").write_text(_TRAP % str(environment / "imported"))
    (site / "sitecustomize.py").write_text(_TELL % str(seen))
    python, boot = str(environment / "bin" / "python"), str(bundle(bed.shared / "boot", "fork"))
    job = Started(bed, python, boot=boot, environment=variables)
    problem, record = job.ended()
    assert problem == "" and len(ranks(job.attempt)) == 3, problem
    assert [node["python"]["main"] for node in record["nodes"]] == [{"torch": "2.4.0"}] * 3
    assert not (environment / "imported").exists()
    modules = [path.read_text().split() for path in seen.iterdir()]
    assert sum("trainkit.boot.preflight" in names for names in modules) == 3  # the agents
    ours = {*sys.stdlib_module_names, "__main__", "__mp_main__", "sitecustomize", "trainkit", "trainkit_launchers"}
    assert {name.partition(".")[0] for names in modules for name in names} <= ours
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
    assert (environment / "imported").exists()  # the trap works


def test_a_slow_link_is_noted_and_the_job_runs(bed: Testbed) -> None:
    bed.limit("node2", mbit=10)
    try:
        job = Started(bed)
        problem, record = job.ended()
    finally:
        bed.limit("node2", mbit=0)
    assert problem == "" and len(ranks(job.attempt)) == 3
    slow = [note for note in record["notes"] if "MB/s" in note]
    assert [note.split(" sends")[0] for note in slow] == ["Node 0 (node1)", "Node 1 (node2)"]  # to it, and from it
    assert record["nodes"][1]["link"]["rate"] < 12.5


@pytest.mark.parametrize("way", ["refused", "dropped"])
def test_neighbours_that_do_not_reach_each_other(bed: Testbed, way: str) -> None:
    """All reach the head, but one not the next one: ranks would hang."""
    address = bed.address("node3")
    neighbour = ["ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0"]
    commands = {
        "refused": (["ip", "route", "add", "unreachable", address], ["ip", "route", "del", "unreachable", address]),
        "dropped": (neighbour, ["ip", "neigh", "del", address, "dev", "eth0"]),
    }
    begin, end = commands[way]
    bed.run("node2", begin, cwd="/", check=True)
    try:
        job = Started(bed)
        problem, record = job.ended()
    finally:
        bed.run("node2", end, cwd="/", check=True)
    assert f"Node 1 (node2) cannot reach node 2 (node3) at {address}" in problem and "firewalls" in problem
    assert not ranks(job.attempt)
    assert json.dumps(record["nodes"][0]["link"]).count("rate") == 1  # the others were measured all the same


# trainkit doctor --target, as users run it.


@pytest.fixture(scope="module")
def lab(bed: Testbed) -> Path:
    """A workspace on the shared disk with the three nodes as a target."""
    folder = bed.shared / "workspace"
    folder.mkdir()
    for words in (["init"], ["compute", "add", "lab", "--launcher", "ssh", "--option", "hosts=node1,node2,node3"]):
        trainkit(bed, folder, *words, code=0)
    return folder


def trainkit(bed: Testbed, folder: Path, *words: str, code: int) -> str:
    """What the command printed, with errors; it must end with this code."""
    done = bed.run("ctl", [sys.executable, "-m", "trainkit.cli", *words], cwd=folder, timeout=SECONDS)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_doctor_looks_at_a_target(bed: Testbed, lab: Path) -> None:
    told = json.loads(trainkit(bed, lab, "doctor", "--target", "lab", "--json", code=0))
    assert told["healthy"] and told["problems"] == [] and [node["name"] for node in told["nodes"]] == bed.names
    text = trainkit(bed, lab, "doctor", "--target", "lab", "--nodes", "2", code=0)
    assert "2 nodes of lab are fit" in text and "node2" in text and "node3" not in text
    assert not list((lab / ".trainkit").glob("doctor*")) and not list((lab / ".trainkit").glob("runs/*"))


def test_the_doctor_finds_what_is_wrong(bed: Testbed, lab: Path) -> None:
    bed.fill("node2", "/dev/shm", free_kb=100)
    bed.limit("node3", mbit=10)
    try:
        text = trainkit(bed, lab, "doctor", "--target", "lab", code=5)
    finally:
        bed.clear("node2", "/dev/shm")
        bed.limit("node3", mbit=0)
    assert "BAD   Node 1 (node2) has 0 MB left in /dev/shm" in text
    assert "note  Node 1 (node2) sends only" in text and "are fit" not in text


def test_the_doctor_says_which_node_does_not_see_the_workspace(bed: Testbed, lab: Path) -> None:
    bed.hide("node3", lab)
    try:
        text = trainkit(bed, lab, "doctor", "--target", "lab", code=5)
    finally:
        bed.show("node3", lab)
    assert "node3: it does not see" in text


def test_a_target_that_is_this_machine(bed: Testbed, lab: Path) -> None:
    trainkit(bed, lab, "compute", "add", "small", "--max-nodes", "2", code=0)
    assert "without --target" in trainkit(bed, lab, "doctor", "--target", "small", code=2)
    assert "not found" in trainkit(bed, lab, "doctor", "--target", "nowhere", code=2)
