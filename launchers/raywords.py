"""What Ray says of a job and of its nodes, as a status and in sentences: pure functions of its dashboard's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainkit.job import Status


def status_of(info: Mapping[str, Any], stage: Mapping[str, Any]) -> Status:
    """The job's status, from Ray's record of it and from what its program last said."""
    status, message = info.get("status"), str(info.get("message") or "")
    begun = stage.get("phase") in ("running", "ended")
    if status in ("SUCCEEDED", "STOPPED") or (status == "FAILED" and begun):
        told = str(stage.get("words") or "") if stage.get("phase") == "ended" else ""
        return Status("ended", told or (last_line(message) if status == "FAILED" else ""))
    if status == "FAILED":
        return Status("lost", f"Ray could not start the job: {explained(message)}")
    if status == "RUNNING" and begun:
        return Status("running", str(stage.get("words") or ""))
    return Status("queued", str(stage.get("words") or last_line(message) or "waits for Ray to start the job's driver"))


def last_line(message: str) -> str:
    """The last line of a message that says something."""
    return next((line.strip() for line in reversed(message.splitlines()) if line.strip()), "")


def explained(message: str) -> str:
    """Why a job's program did not begin, with the remedy where that is known."""
    line = last_line(message).partition(" Some common causes include")[0].rstrip(".")
    if "Permission denied" in line:
        return f"{line} - a run's folder is private to its user, so Ray must run as the same user"
    if "can't open file" in line or "No such file or directory" in line:
        return f"{line} - is the workspace in a folder that every node of the cluster sees under the same path?"
    if "No module named 'ray'" in line or "not found" in line:
        return f"{line} - name Ray's own interpreter on the head node by its absolute path: python=/path/to/bin/python"
    return line or "it does not say why"


def amounts(bundle: Mapping[str, float]) -> str:
    """Resources in words: "2 CPU and 1 GPU"."""
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())


def wants(nodes: int, bundle: Mapping[str, float]) -> str:
    """What a job needs, in words."""
    return f"{nodes} nodes with {amounts(bundle)} each" if nodes > 1 else f"a node with {amounts(bundle)}"


def shortage(nodes: int, bundle: Mapping[str, float], alive: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """What a cluster of these nodes lacks for a job, in words ("" for nothing), and how many nodes could be had."""
    fit = [n for n in alive if all((n.get("resources_total") or {}).get(k, 0) >= v for k, v in bundle.items())]
    if len(fit) >= nodes:
        return "", len(fit)
    names = sorted({"CPU", "GPU", *bundle})
    there = "; ".join(
        f"{node.get('node_name') or node.get('node_ip')}: "
        + ", ".join(f"{(node.get('resources_total') or {}).get(name, 0):g} {name}" for name in names)
        for node in alive[:16]
    )
    cpu = "GPU" in bundle and not any((node.get("resources_total") or {}).get("GPU") for node in alive)
    hint = "Say use_gpu=False to run on CPUs, ask for less" if cpu else "Ask for less"
    more = f"; and {len(alive) - 16} more" if len(alive) > 16 else ""
    return (
        f"cannot hold a job that needs {wants(nodes, bundle)}. It has {len(alive)} "
        f"node{'' if len(alive) == 1 else 's'} alive ({there}{more}). {hint}, or say autoscaling=True where the "
        "cluster gets more nodes by itself.",
        len(fit),
    )
