"""Every spread over two machines, with its real engine: the world that was asked for, true verdicts, nothing left."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines.testbed import Testbed, missing
from trainkit import outcome
from trainkit.boot.processes import with_environment
from trainkit.boot.rundir import AttemptDir, publish, read_json
from trainkit.job import Job, agent_command
from trainkit.testing import make_job, wait_until

pytestmark = pytest.mark.engine

_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
_TOLD = """
import json, os
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TRAINKIT_NODE_NAME", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME",
         "OF_THE_NODE", "OF_THE_JOB", "TRAINKIT_RELAY", "TRAINKIT_MPI")
with open("../told-" + os.environ["RANK"], "w") as file:
    json.dump({**{name: os.environ.get(name, "") for name in names}, "host": os.uname().nodename, "sum": total}, file)
"""
_MPI = "from mpi4py import MPI\ntotal = MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank + 1)\n"
_WAIT = _MPI + "open('../ready-%d' % MPI.COMM_WORLD.rank, 'w').close()\nMPI.COMM_WORLD.recv(source=MPI.ANY_SOURCE)\n"
_RING = """
import os, socket
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(place) as server:
        peers = [server.accept()[0] for _ in range(size - 1)]
        total = 1 + sum(int(peer.recv(8)) for peer in peers)
        for peer in peers:
            peer.sendall(b"%d" % total)
else:
    import time
    while True:
        try:
            peer = socket.create_connection(place)
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    peer.sendall(b"%d" % (rank + 1))
    total = int(peer.recv(8))
"""
_TORCH = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor(float(dist.get_rank() + 1))
dist.all_reduce(value)
total = int(value)
dist.destroy_process_group()
"""
_HOROVOD = """
import torch, horovod.torch as hvd
hvd.init()
total = int(hvd.allreduce(torch.tensor(float(hvd.rank() + 1)), op=hvd.Sum))
"""


_ELASTIC = """
import os, torch, horovod.torch as hvd
hvd.init()
model = torch.nn.Linear(1, 1)
@hvd.elastic.run
def train(state):
    while hvd.size() == 2 or state.step < 5:
        hvd.allreduce(torch.ones(1))
        state.step += 1
        state.commit()
        open("../ready-%d" % hvd.rank(), "w").close()
train(hvd.elastic.TorchState(model=model, step=0))
open("../size-%d" % hvd.size(), "w").close()
"""


class Launched:
    """A job whose agents run on the nodes of a testbed."""

    def __init__(self, bed: Testbed, job: Job, attempt: AttemptDir, environment: Mapping[str, str]) -> None:
        self.bed, self.job, self.attempt = bed, job, attempt
        self.agents = []
        for number, name in enumerate(bed.names[: job.nodes]):
            with open(job.agent_log(number), "wb") as log:
                command = agent_command(job.interpreter, job, number, network=True)
                own = {**environment, "OF_THE_NODE": name}
                self.agents.append(bed.start(name, command, env=own, stdout=log, stderr=log, cwd=job.run_dir))
        publish(attempt.handle, {"handle": "a test's"})

    def ready(self, ranks: int) -> None:
        """Wait until so many ranks have said that they wait."""
        folder = Path(self.job.run_dir)
        wait_until(lambda: len(list(folder.glob("ready-*"))) == ranks, 40, "ranks that wait")

    def end(self, seconds: float = 60.0) -> tuple[str, dict[str, Any]]:
        """Wait until all agents have ended, and nothing is left; the run's status and verdict."""
        for agent in self.agents:
            agent.wait(timeout=seconds)
        wait_until(lambda: not with_environment("TRAINKIT_RUN_ID", self.job.run_id), 10, "no process is left")
        records, ends = outcome.records_of(self.attempt), outcome.ends_of(self.attempt)
        status, verdict = outcome.judge(self.job.world_size, records, ends, nodes=self.job.nodes)
        return status, verdict or {}

    def told(self) -> list[dict[str, Any]]:
        """What each rank found."""
        return [json.loads(Path(self.job.run_dir, f"told-{n}").read_text()) for n in range(self.job.world_size)]

    def words(self) -> str:
        """All logs, for a test's message."""
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self.attempt.logs.glob("*.log")))


@contextmanager
def launched(
    bed: Testbed, script: str, spread: str, ranks: int = 2, environment: Mapping[str, str] | None = None, **values: Any
) -> Iterator[Launched]:
    folder = bed.shared / f"a run {uuid.uuid4().hex[:8]}"
    job, attempt = make_job(
        folder, script, spread=spread, nodes=2, ranks_per_node=ranks, environment={"OF_THE_JOB": "it's $HOME"}, **values
    )
    running = Launched(bed, job, attempt, environment or {})
    try:
        yield running
    finally:
        for agent in running.agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()


def mpi_environment(kind: str, bed: Testbed) -> dict[str, str]:
    """What has mpi4py load one of the MPIs that are here; skips where it is not."""
    if kind == "openmpi5":
        return {}
    library = _LIBRARIES / ("libmpi.so.40" if kind == "openmpi4" else "libmpich.so.12")
    if not library.exists():
        pytest.skip(f"{library} is not here; scripts/engines installs it")
    if kind == "openmpi4":
        return {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": str(library)}
    link = bed.shared / "libraries" / "libmpi.so.12"  # the name under which mpi4py asks for it
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(library)
    return {"MPI4PY_MPIABI": "mpich", "LD_LIBRARY_PATH": str(link.parent)}


def assert_world(running: Launched, ranks: int) -> None:
    """All ranks are one world, each on its node, with its node's own environment."""
    told = running.told()
    size = 2 * ranks
    assert [t["sum"] for t in told] == [size * (size + 1) // 2] * size
    for rank, own in enumerate(told):
        node = f"node{rank // ranks + 1}"
        assert (own["RANK"], own["WORLD_SIZE"], own["LOCAL_RANK"]) == (str(rank), str(size), str(rank % ranks))
        assert (own["host"], own["TRAINKIT_NODE_NAME"], own["OF_THE_NODE"]) == (node, node, node)
        assert (own["GLOO_SOCKET_IFNAME"], own["NCCL_SOCKET_IFNAME"], own["OF_THE_JOB"]) == (
            "eth0",
            "eth0",
            "it's $HOME",
        )
    compared = read_json(running.attempt.preflight, "nodes") or {}
    assert [node["interface"] for node in compared["nodes"]] == ["eth0", "eth0"]


MPIS = ("openmpi5", "openmpi4", "mpich")
FIRST_WORDS = {"openmpi5": "Open MPI v5", "openmpi4": "Open MPI v4", "mpich": "MPICH"}


@pytest.mark.parametrize("kind", MPIS)
def test_mpirun_asks_the_agents_to_start_ranks_elsewhere(testbed: Testbed, kind: str) -> None:
    with launched(testbed, _MPI + _TOLD, "mpi", environment=mpi_environment(kind, testbed)) as running:
        assert running.end()[0] == "Completed", running.words()
        assert_world(running, 2)
        told = running.told()
        assert all(own["TRAINKIT_MPI"].startswith(FIRST_WORDS[kind]) for own in told)
        assert len({own["TRAINKIT_RELAY"] for own in told}) == 2  # each node's own


@pytest.mark.parametrize(("spread", "script", "ranks"), [("fork", _RING, 2), ("torchrun", _TORCH, 1)])
def test_ranks_of_several_machines_meet_at_the_head(testbed: Testbed, spread: str, script: str, ranks: int) -> None:
    with launched(testbed, script + _TOLD, spread, ranks) as running:
        assert running.end(90)[0] == "Completed", running.words()
        assert_world(running, ranks)


@pytest.mark.parametrize("spread", ["horovod", "horovod-mpi"])
def test_horovodrun_over_two_machines(testbed: Testbed, spread: str) -> None:
    pytest.importorskip("horovod")
    with launched(testbed, _HOROVOD + _TOLD, spread, 1) as running:
        assert running.end(120)[0] == "Completed", running.words()
        assert_world(running, 1)


@pytest.mark.parametrize("kind", MPIS)
def test_a_rank_that_fails_elsewhere_is_the_verdict(testbed: Testbed, kind: str) -> None:
    script = _MPI + "if MPI.COMM_WORLD.rank == 3:\n    raise ValueError('no such bird')\nMPI.COMM_WORLD.recv()\n"
    with launched(testbed, script, "mpi", environment=mpi_environment(kind, testbed)) as running:
        status, verdict = running.end()
    assert status == "Failed"
    assert (verdict["rank"], verdict["node_name"], verdict["exception"]) == (3, "node2", "ValueError")


PROGRAMS = {  # each MPI's own process on the head, and the one it has on any other node
    "openmpi5": ("/prterun", "/prted"),
    "openmpi4": ("/mpirun.openmpi", "orted"),
    "mpich": ("/mpirun.mpich", "hydra_pmi_proxy"),
}


@pytest.mark.parametrize("victim", ["mpirun", "its daemon", "agent"])
@pytest.mark.parametrize("kind", MPIS)
def test_whoever_is_killed_nothing_is_left(testbed: Testbed, kind: str, victim: str) -> None:
    node, needle = {
        "mpirun": ("node1", PROGRAMS[kind][0]),
        "its daemon": ("node2", PROGRAMS[kind][1]),
        "agent": ("node2", "boot.agent"),
    }[victim]
    with launched(testbed, _WAIT, "mpi", 1, environment=mpi_environment(kind, testbed)) as running:
        running.ready(2)
        found = testbed.processes(node, needle)
        assert found
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        status, verdict = running.end()
    assert status == "Failed"
    if victim == "agent":
        assert "node2" in (verdict.get("node_name") or verdict["summary"]), verdict


def test_a_machine_without_mpirun_is_named_before_a_rank_starts(testbed: Testbed) -> None:
    environment = mpi_environment("openmpi4", testbed)
    program = os.path.realpath("/usr/bin/mpirun.openmpi")
    testbed.run("node2", ["mount", "--bind", "/dev/null", program], check=True)
    try:
        with launched(testbed, _MPI, "mpi", 1, environment=environment) as running:
            status, verdict = running.end()
    finally:
        testbed.run("node2", ["umount", program], check=True)
    assert (status, verdict["kind"], verdict["node"]) == ("Failed", "launch", 1)
    for words in ("On node 1 (node2)", "no mpirun that belongs to it was found", "openmpi-bin"):
        assert words in verdict["message"]


DEATHS: dict[str, Callable[[Testbed], None]] = {  # where no peer hears of it, MPICH alone would wait for ever
    "killed": lambda bed: bed.kill("node2"),
    "killed silently": lambda bed: bed.kill("node2", silently=True),
    "cut off": lambda bed: bed.cut("node2"),
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_node_that_dies_is_named_whichever_mpi_it_is(how: str) -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Testbed(nodes=2) as bed, ExitStack() as jobs:
        before = {name: set(bed.nodes[name].pids()) for name in bed.names}
        environments = {kind: mpi_environment(kind, bed) for kind in MPIS}
        running = {k: jobs.enter_context(launched(bed, _WAIT, "mpi", 1, env)) for k, env in environments.items()}
        for one in running.values():
            one.ready(2)
        DEATHS[how](bed)
        deadline = time.monotonic() + 30
        for kind, one in running.items():
            ended = lambda one=one: all(agent.poll() is not None for agent in one.agents)  # noqa: E731
            wait_until(ended, deadline - time.monotonic(), f"the end of {kind}")
        left = lambda: [pid for name in bed.names for pid in bed.nodes[name].pids() if pid not in before[name]]  # noqa: E731
        wait_until(lambda: not left(), 15, "no process is left on any node")
        for kind, one in running.items():
            status, verdict = one.end()
            assert status == "Failed", kind
            assert "node 1 (node2) was lost" in verdict["summary"], (kind, verdict)


def test_elastic_horovod_goes_on_with_the_nodes_that_are_left() -> None:
    pytest.importorskip("horovod")
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Testbed(nodes=2) as bed, launched(bed, _ELASTIC, "horovod-elastic", 1, min_nodes=1) as running:
        running.ready(2)
        bed.kill("node2")
        status = running.end(180)[0]  # gloo waits 30 s for a peer, twice
        assert status == "Completed", running.words()
        assert [path.name for path in Path(running.job.run_dir).glob("size-*")] == ["size-1"]
