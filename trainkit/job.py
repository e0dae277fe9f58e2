"""A job as launchers, spreads, agents and ranks see it: plain values, standard library only.

Three questions are kept apart. *Where* does the job run: a Launcher, a thing with a lifetime. *How* does one node
become ranks: a Spread, a pure function from a job and a node to command lines. *Who am I*, inside a rank:
`trainkit.boot.ranks`. This module is all that a launcher or a spread of another distribution has to import, with
`trainkit.errors`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple, Union


@dataclass(frozen=True)
class Container:
    """The image that a job's agents and ranks run in, and how it is run. Paths are absolute."""

    engine: str  # "docker", "podman" or "apptainer"; empty where the cluster itself runs the image
    image: str  # an image id, or name@sha256:...: never a tag, which may move
    name: str  # as the user wrote it, for people
    interpreter: str  # the image's Python
    arguments: Tuple[str, ...] = ()  # the user's own, for the engine
    shm_size: str = "2g"
    mounts: Tuple[str, ...] = ()  # folders of the node that the container sees under the same path, and may write to
    archive: str = ""  # a file from which a node that lacks the image loads it

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Container":
        """The inverse of `dataclasses.asdict`."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        for name in ("arguments", "mounts"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


@dataclass(frozen=True)
class Job:
    """One attempt at running a script on `nodes` x `ranks_per_node` ranks. Paths are absolute."""

    run_id: str
    experiment: str
    run_dir: str
    attempt: int
    interpreter: str
    script: str = ""  # relative to the run's code directory; empty where `module` or `command` is set
    module: str = ""  # instead of a script: run as `python -m` does, found in the code directory or installed
    arguments: Tuple[str, ...] = ()
    command: Tuple[str, ...] = ()  # instead of a script: run once on each node, `python` meaning the interpreter
    nodes: int = 1
    ranks_per_node: int = 1
    spread: str = "fork"
    backend: str = ""  # what torch.distributed is asked to use: "nccl", "gloo", or empty
    gpus_per_node: int = 0
    devices: str = "cpu"  # for people: "cpu", "2 x NVIDIA A100"
    environment: Mapping[str, str] = field(default_factory=dict)
    max_seconds: float = 0.0  # wall clock limit, 0 for none
    grace_seconds: float = 4.0  # for a script to end by itself once it was asked to, before it is killed
    max_restarts: int = 0  # how often the job may be started again after a failure
    min_nodes: int = 0  # a restart may go on with so many nodes where no more are left; 0: with all of them
    boot: str = ""  # path of the boot zip, for an interpreter that has no trainkit
    shared: bool = True  # every node sees `run_dir` under this path
    log_limit_bytes: int = 256 << 20  # of a rank's log: of what is larger the first and the last half stay
    hang: str = "report"  # what a rank that hangs brings about: "report", or "end" of the job
    preflight: bool = True  # nodes of several machines compare notes before they start ranks
    container: Optional[Container] = None  # then `interpreter` is the node's own, which only starts the container

    @property
    def world_size(self) -> int:
        """Ranks in the whole job."""
        return self.nodes * self.ranks_per_node

    def agent_log(self, node: int) -> str:
        """Where what a node's agent prints belongs."""
        return "%s/attempts/%d/logs/agent-%d.log" % (self.run_dir, self.attempt, node)

    def to_json(self) -> Dict[str, Any]:
        """As plain values, for `json.dump`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Job":
        """The inverse of `to_json`."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        known["arguments"] = tuple(known.get("arguments", ()))
        known["command"] = tuple(known.get("command", ()))
        if known.get("container") is not None:
            known["container"] = Container.from_json(known["container"])
        return cls(**known)


@dataclass(frozen=True)
class Node:
    """One node of a running job, known once every agent has reported."""

    rank: int
    names: Tuple[str, ...]  # of all nodes, in rank order
    head: str  # address of node 0, as the others reach it
    port: int  # free on the head: for the ranks' own rendezvous
    interface: str = ""  # the network interface by which this node reaches the others; empty on one machine
    machines: Tuple[int, ...] = ()  # for each node the first node on its machine; empty where all are on one

    @property
    def name(self) -> str:
        """This node's own name."""
        return self.names[self.rank]


@dataclass(frozen=True)
class Command:
    """One process for an agent to start: a rank, or a parent of ranks (mpirun, torchrun)."""

    argv: Tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # added to the job's


@dataclass(frozen=True)
class Status:
    """What a launcher knows: `phase` is queued, running, ended or lost; `words` are the cluster's own."""

    phase: str
    words: str = ""


class Launcher(Protocol):
    """Gets the agent run once on each of `job.nodes` nodes. Its laws are in docs/architecture.md.

    A launcher may also have `several_machines` (a class attribute; False: all nodes are on this machine),
    `dry_run(job)` (a text: all that `start` would send, and what it would wait for) and `shell(handle, node)` (the
    words of a command that runs what is appended to them on that node of a running job).
    """

    def start(self, job: Job) -> str:
        """Start every node's agent and return a handle: short text, good in any process. Or raise, leaving nothing."""
        ...

    def poll(self, handle: str) -> Status:
        """Where the job is; never raises for one that has ended or been forgotten."""
        ...

    def cancel(self, handle: str) -> None:
        """End the job; may be called twice, or too late."""
        ...


Spread = Callable[[Job, Node], List[Command]]


@dataclass(frozen=True)
class Inside:
    """One container of a job on one node: what runs in it, and as whom."""

    name: str  # of the container: no other on this machine has it
    argv: Tuple[str, ...]
    directory: str  # to work in
    home: str  # the value of HOME
    uid: int
    gid: int
    variables: Tuple[str, ...] = ()  # names of variables whose values the engine takes over from its own environment
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0  # 0: none are shown


class Engine(Protocol):
    """A container engine, as command lines; nothing is run here. Found by entry point, as launchers are."""

    program: str

    def run(self, container: Container, inside: Inside) -> List[str]:
        """Run a container in the foreground with standard input open; nothing of it stays when it has ended."""
        ...

    def enter(self, name: str, argv: Sequence[str], terminal: bool) -> List[str]:
        """Run something more in a container that runs."""
        ...

    def remove(self, name: str) -> List[str]:
        """End and remove a container; no words where the engine keeps none."""
        ...

    def inspect(self, image: str) -> List[str]:
        """Print facts of a local image as JSON; fails where it is not there."""
        ...

    def load(self, archive: str) -> List[str]:
        """Take images out of a file that `save` has written."""
        ...

    def save(self, image: str, archive: str) -> List[str]:
        """Put an image into a file."""
        ...


def boot_command(job: Job, name: str, interpreter: str = "") -> Tuple[str, ...]:
    """The command line of one of trainkit's own programs on a node: "agent", "rank", "exec" or "enter".

    It comes from the boot zip where the job has one; `interpreter` is the job's where none is given.
    """
    python = interpreter or job.interpreter
    return (python, job.boot, name) if job.boot else (python, "-m", "trainkit.boot." + name)


def rank_command(job: Job) -> Tuple[str, ...]:
    """The command line of one rank's shim: reads who it is from the environment and runs the job's script."""
    return boot_command(job, "rank")


def is_rank(argv: Sequence[str]) -> bool:
    """Whether a command line is that of a rank's own process, and not of a parent of ranks."""
    return "trainkit.boot.rank" in argv[:3] or list(argv[2:3]) == ["rank"]


def agent_command(
    interpreter: str, job: Job, node: Union[int, str], network: bool = False, restarts: bool = False
) -> Tuple[str, ...]:
    """The command line of one node's agent, or of the guard of its container, for a launcher to run.

    `node` is its rank, or the name of an environment variable that holds it there. `network` says that the nodes are
    on several machines: the head listens where they can reach it, not on loopback alone. `restarts` says that an
    allocation is held as long as the agents run: there they start the job again by themselves.
    """
    words = (("network",) if network else ()) + (("restarts",) if restarts else ())
    place = (job.run_dir, str(job.attempt), str(node), *words)
    return boot_command(job, "guard" if job.container and job.container.engine else "agent", interpreter) + place
