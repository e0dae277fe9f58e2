"""A job's agents on hosts: what starts one, what ends those of a start that failed, and the handle that names them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainkit.errors import ComputeTargetException, LaunchError
from trainkit.job import Job, agent_command

from .asking import Line, Reply
from .hosts import Host, parse_host

_BEGIN_SECONDS = 30.0  # for an agent to begin
_END_SECONDS = 5.0  # for an agent to end that is not needed after all


def argv(line: Line, job: Job, node: int) -> tuple[str, ...]:
    """The command line of a node's agent."""
    return agent_command(line.python, job, node, network=True)


def start(line: Line, job: Job, hosts: Mapping[int, Host]) -> list[Reply]:
    """Start the agents of these nodes, each on its host; a reply's "identity" is the agent's name."""
    requests = []
    interpreter = line.python if job.container else job.interpreter  # a container has its image's
    for node, host in hosts.items():
        request: dict[str, Any] = {"act": "start", "argv": argv(line, job, node), "interpreter": interpreter}
        request.update(directory=job.run_dir, log=job.agent_log(node), agent_file=_agent_file(job, node))
        requests.append((host, {**request, "seconds": _BEGIN_SECONDS}))
    return line.ask(requests, _BEGIN_SECONDS)


def end(line: Line, job: Job, hosts: Sequence[Host]) -> None:
    """End whatever was begun on these hosts: also an agent whose host did not come to say so."""
    files = [_agent_file(job, node) for node in range(job.nodes)]
    request: dict[str, Any] = {"act": "end", "agents": [], "agent_files": files, "seconds": _END_SECONDS}
    if hosts:
        line.ask([(host, request) for host in hosts], _END_SECONDS + 1.0)


def _agent_file(job: Job, node: int) -> str:
    return f"{job.run_dir}/attempts/{job.attempt}/nodes/{node}.agent.json"


@dataclass(frozen=True)
class Handle:
    """What another process needs to find a job again; `away` is its run directory there if it is not the one here."""

    python: str
    nodes: Sequence[tuple[Host, str]]  # hosts and their agents, node 0's first
    words: str = ""
    run_dir: str = ""
    attempt: int = 0
    away: str = ""

    def text(self) -> str:
        """As `read_handle` reads it."""
        nodes = [[host.text, agent] for host, agent in self.nodes]
        values = {"python": self.python, "nodes": nodes, "words": self.words}
        more = {"run_dir": self.run_dir, "attempt": self.attempt, "away": self.away} if self.away else {}
        return json.dumps({**values, **more})


def read_handle(text: str) -> Handle:
    """Raises LaunchError where the text is no handle of a job started over ssh."""
    try:
        told = json.loads(text)
        nodes = [(parse_host(host), str(agent)) for host, agent in told["nodes"]]
        away, run_dir = str(told.get("away", "")), str(told.get("run_dir", ""))
        return Handle(str(told["python"]), nodes, str(told["words"]), run_dir, int(told.get("attempt", 0)), away)
    except (ValueError, KeyError, TypeError, ComputeTargetException) as error:
        raise LaunchError(f"This is no handle of a job started over ssh: {text[:80]!r}") from error
