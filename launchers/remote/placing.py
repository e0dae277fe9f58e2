"""Which host becomes which node: the first that answer; all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trainkit.errors import LaunchError, UnsupportedJob
from trainkit.job import Job

from .asking import Reply
from .hosts import Host

_NAMED = 8  # hosts in a message
Act = Callable[[Mapping[int, Host]], Sequence[Reply]]


@dataclass
class Places:
    """The replies of the hosts that became nodes, by node, and of those that could not."""

    taken: dict[int, Reply] = field(default_factory=dict)
    failed: list[Reply] = field(default_factory=list)
    tried: list[Host] = field(default_factory=list)  # all that were asked to do something

    @property
    def words(self) -> str:
        """What is to be said of hosts that others stand in for."""
        return f"instead of {_named(self.failed)}" if self.failed else ""


def check(job: Job, hosts: Sequence[Host]) -> None:
    """Raise UnsupportedJob where these hosts can never run the job."""
    if len(hosts) < job.nodes:
        raise UnsupportedJob(
            f"The job asks for {job.nodes} nodes, but the target has {len(hosts)} host(s): "
            f"{', '.join(h.text for h in hosts[:_NAMED]) or 'none'}. Ask for at most {len(hosts)}, or add hosts."
        )
    small = next((h for h in hosts if h.slots and h.slots < job.ranks_per_node), None)
    if small:
        raise UnsupportedJob(
            f"The job asks for {job.ranks_per_node} ranks on each node, but {small.text} has slots={small.slots}; "
            f"ask for at most {small.slots}, or take it off the list."
        )


def place(hosts: Sequence[Host], nodes: int, act: Act, places: Places) -> None:
    """Have `act` done for every node on a host of its own; where one fails the next spare host stands in."""
    spare = list(hosts)
    while spare and len(places.taken) < nodes:
        missing = [node for node in range(nodes) if node not in places.taken]
        tried = dict(zip(missing, spare, strict=False))
        del spare[: len(tried)]
        places.tried += tried.values()
        for node, reply in zip(tried, act(tried), strict=True):
            if reply.error:
                places.failed.append(reply)
            else:
                places.taken[node] = reply


def refusal(failed: Sequence[Reply], available: int, nodes: int) -> LaunchError:
    """The error where fewer nodes can be had than the job needs."""
    return LaunchError(
        f"{available} of {nodes} node(s) could be started over ssh. {_named(failed)}.",
        transient=any(reply.transient for reply in failed),
        available=available,
    )


def _named(failed: Sequence[Reply]) -> str:
    more = len(failed) - _NAMED
    words = "; ".join(f"{reply.host.text}: {reply.error}" for reply in failed[:_NAMED])
    return words + (f"; and {more} more" if more > 0 else "")
