"""What a Slurm cluster has and allows, read from its answers: jobs that it would accept and never start are refused,
and what it refuses itself is told with the remedy.

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


_ASSOCIATIONS = "`sacctmgr show assoc user=$USER format=account,partition,qos` lists yours"
_REMEDIES = (  # a sign in sbatch's words, and which field to change
    ("accounting/qos policy", "account, qos, time or the job's size: a limit of the account or QoS is reached"),
    ("account", f"account: {_ASSOCIATIONS}"),
    ("partition", "partition: `sinfo -s` lists them"),
    ("qos", f"qos: {_ASSOCIATIONS}"),
    ("gres", "gpus_per_node or gres: `sinfo -o '%P %G'` lists what nodes have"),
    ("feature", "constraint: `sinfo -o '%P %f'` lists the nodes' features"),
    ("reservation", "reservation: `scontrol show reservation` lists them"),
    ("node name", "nodelist or exclude: `sinfo -N` lists the nodes"),
    ("--time", "time: `sinfo -o '%P %l'` lists the partitions' limits"),
    ("time limit", "time: `sinfo -o '%P %l'` lists the partitions' limits"),
    ("memory", "memory: `sinfo -o '%P %m'` lists what nodes have, in MB"),
    ("node configuration", "memory, cpus_per_rank or gpus_per_node: `sinfo -o '%P %c %m %G'` lists what nodes have"),
    ("unrecognized option", "extra: this version of sbatch does not know it"),
)
_TRANSIENT = ("unable to contact", "timed out", "connection refused", "temporarily", "try again")


def refused(command: Sequence[str], output: str) -> LaunchError:
    """sbatch's own words as one error, with the launcher's field that can help."""
    lines = [line.split("error: ", 1)[-1].strip() for line in output.strip().splitlines()]
    words = "; ".join(dict.fromkeys(line for line in lines if line and not line.startswith("Try "))) or "no reason"
    transient = any(sign in words.lower() for sign in _TRANSIENT)
    field = next((remedy for sign, remedy in _REMEDIES if sign in words.lower()), "")
    advice = " Try again later." if transient else f" Change the launcher's {field}." if field else ""
    return LaunchError(
        f"Slurm refused the job: {words.rstrip('.')}.{advice}", command=command, output=output, transient=transient
    )
