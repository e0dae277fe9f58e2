"""What a Slurm cluster has and allows, read from its answers, and jobs refused that it would accept and never start.

Pure functions from text and values to values and errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trainkit.errors import LaunchError
from trainkit.job import Job

from .slurmstates import Entry
from .slurmtext import minutes


@dataclass(frozen=True)
class Partition:
    """What a partition has and allows."""

    name: str
    nodes: int
    most_nodes: float
    minutes: float
    state: str
    default: bool


def partitions(output: str) -> list[Partition]:
    """All of `scontrol show partition -o`."""
    found = []
    for line in output.splitlines():
        values = dict(re.findall(r"(?:^|\s)([A-Z][A-Za-z]+)=(\S*)", line))
        if "PartitionName" in values:
            most = values.get("MaxNodes", "UNLIMITED")
            found.append(
                Partition(
                    values["PartitionName"],
                    int(values.get("TotalNodes", "0")),
                    float(most) if most.isdigit() else float("inf"),
                    minutes(values.get("MaxTime", "UNLIMITED")),
                    values.get("State", "UP"),
                    values.get("Default") == "YES",
                )  # fmt: skip
            )
    return found


def usable(output: str) -> int:
    """How many nodes of `sinfo -h -N -o '%N|%T'` can run jobs, now or when they are free."""
    found = {}
    for line in output.splitlines():
        name, _, state = line.strip().partition("|")
        bad = re.match(r"(down|drain|fail|error|unk|maint|powered_down|power_down|future|inval|no_respond)", state)
        found[name] = not bad and "*" not in state
    return sum(found.values())


def check_partition(asked: str, time: str, job: Job, known: Sequence[Partition]) -> None:
    """Raise LaunchError where no partition that was asked for can ever take the job, saying what there is."""
    if not known:
        return
    names = asked.split(",") if asked else [p.name for p in known if p.default]
    if not names:
        raise LaunchError(f"This Slurm has no default partition; give the launcher's partition: {_told(known)}.")
    chosen = [p for p in known if p.name in names]
    absent = sorted(set(names) - {p.name for p in chosen})
    if absent:
        raise LaunchError(f"Slurm has no partition {', '.join(absent)}; it has {_told(known)}. Change partition.")
    up = [p for p in chosen if p.state == "UP"]
    if not up:
        raise LaunchError(
            f"The partition {asked or names[0]} is {chosen[0].state}; there are {_told(known)}.", transient=True
        )
    most = max(int(min(p.nodes, p.most_nodes)) for p in up)
    if job.nodes > most:
        raise LaunchError(
            f"The job needs {job.nodes} nodes, and the partition {' or '.join(p.name for p in up)} has, or allows, "
            f"{most}; ask for at most {most}, or take another partition: {_told(known)}.",
            available=most,
        )  # fmt: skip
    longest = max(p.minutes for p in up)
    if time and minutes(time) > longest:
        raise LaunchError(
            f"time={time} is above the limit of the partition {' or '.join(p.name for p in up)}, {longest:g} minutes; "
            f"ask for less, or take another partition: {_told(known)}."
        )


def check_usable(job: Job, nodes: int) -> None:
    """Raise LaunchError for a job that may go on with fewer nodes than it asks for, where some are out of order."""
    if job.min_nodes and job.min_nodes <= nodes < job.nodes:
        raise LaunchError(
            f"The job needs {job.nodes} nodes, and {nodes} of the partition's are in order; the others are down or "
            "drained.",
            transient=True, available=nodes,
        )  # fmt: skip


def check_allocation(job: Job, number: str, found: Entry | None, output: str) -> None:
    """Raise LaunchError where the allocation `number` is not there, or has too few nodes for the job."""
    if found is None or found.state != "RUNNING":
        state = found.state.lower() if found else "unknown to Slurm"
        raise LaunchError(f"The allocation {number} is {state}; hold one with `salloc -N {job.nodes}`.", output=output)
    count = re.search(r"\bNumNodes=(\d+)", output)
    have = int(count.group(1)) if count else 0
    if have < job.nodes:
        raise LaunchError(
            f"The allocation {number} has {have} node(s) ({found.nodes}), and the job needs {job.nodes}: ask for at "
            f"most {have}, hold a larger one with `salloc -N {job.nodes}`, or leave out inside=True.",
            available=have,
        )


def _told(known: Sequence[Partition]) -> str:
    def limits(p: Partition) -> str:
        time = "" if p.minutes == float("inf") else f", {p.minutes:g} min"
        return f"{p.name} ({int(min(p.nodes, p.most_nodes))} nodes{time}{'' if p.state == 'UP' else ', ' + p.state})"

    return ", ".join(limits(p) for p in known[:20])
