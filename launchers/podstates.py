"""What Kubernetes says of a job and its pods, as a status in words: pure functions of what kubectl prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainkit.job import Status

_INDEX = "batch.kubernetes.io/job-completion-index"
_NO_START = ("StartError", "ContainerCannotRun", "RunContainerError")
_NO_AGENT = (2, 126, 127, 128)  # exit codes of the shell or the runtime: the agent itself was never begun
Item = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """A job's status; `over`: its end is decided, and what still runs is ending, or on a machine nobody hears of."""

    status: Status
    over: bool = False


def seen(answer: Mapping[str, Any]) -> Seen | None:
    """How the job is, from the list of it and its pods; None where there is no job."""
    items = answer.get("items") or []
    job = next((item for item in items if item.get("kind") == "Job"), None)
    pods = sorted((item for item in items if item.get("kind") == "Pod"), key=index_of)
    if job is None:
        return None
    conditions = {c["type"]: c for c in (job.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
    head_ended = any(index_of(pod) == 0 and ended(pod) for pod in pods)
    alive = [pod for pod in pods if runs(pod)]
    if "Complete" in conditions or "Failed" in conditions or head_ended:
        if alive:
            return Seen(Status("running", f"{len(alive)} of its pods are ending"), over=True)
        why = _no_start(pods)
        if why:
            return Seen(Status("lost", f"Kubernetes could not start the job: {why}"), over=True)
        return Seen(Status("ended", _words(conditions.get("Failed") or {})), over=True)
    if (job.get("metadata") or {}).get("deletionTimestamp"):
        return Seen(Status("running", "is being deleted"), over=not alive)
    waiting = [pod for pod in pods if not runs(pod) and not ended(pod)]
    wanted = int((job.get("spec") or {}).get("parallelism") or 1)
    if alive and not waiting:
        return Seen(Status("running", f"{len(alive)} of {wanted} pods run" if wanted > 1 else ""))
    up = f"{len(alive)} of {wanted} pods are up; " if alive else ""
    return Seen(Status("queued", up + _why_queued(job, waiting)))


def _why_queued(job: Item, waiting: Sequence[Item]) -> str:
    if (job.get("spec") or {}).get("suspend"):
        return "is suspended, until the queue that holds it lets it go on"
    if waiting:
        return of_pod(waiting[0])
    return "waits for Kubernetes to make its pods"


def index_of(pod: Item) -> int:
    """Which node of the job a pod is."""
    metadata = pod.get("metadata") or {}
    told = (metadata.get("annotations") or {}).get(_INDEX) or (metadata.get("labels") or {}).get(_INDEX) or 0
    return int(told)


def _state(pod: Item) -> Mapping[str, Any]:
    """The state of its container: {"waiting" | "running" | "terminated": {...}}, or nothing yet."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    return statuses[0].get("state") or {}


def runs(pod: Item) -> bool:
    """Whether its container runs, as far as is known."""
    return "running" in _state(pod)


def ended(pod: Item) -> bool:
    """Whether it will not run any more."""
    return "terminated" in _state(pod) or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def of_pod(pod: Item) -> str:
    """Why a pod does not run yet, in Kubernetes' own words."""
    status, state = pod.get("status") or {}, _state(pod)
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"pod {index_of(pod)} waits: {_words(condition)}"
    waiting = state.get("waiting") or {}
    if waiting.get("reason") and waiting["reason"] not in ("ContainerCreating", "PodInitializing"):
        return f"pod {index_of(pod)} waits: {_words(waiting)}"
    if (pod.get("spec") or {}).get("nodeName"):
        return f"pod {index_of(pod)} is being started on {pod['spec']['nodeName']}"
    return f"pod {index_of(pod)} waits for a machine"


def _no_start(pods: Sequence[Item]) -> str:
    """Why the agent of a pod was never begun; empty where none failed so."""
    for pod in pods:
        status, end = pod.get("status") or {}, _state(pod).get("terminated") or {}
        if end and (end.get("reason") in _NO_START or end.get("exitCode") in _NO_AGENT):
            return f"pod {index_of(pod)}: {_words(end)}" + _remedy(str(end.get("message") or ""), end.get("exitCode"))
        if not end and status.get("phase") == "Failed" and not status.get("startTime"):
            return f"pod {index_of(pod)}: {_words(status)}"
    return ""


def _remedy(message: str, code: object) -> str:
    if "nonexistent" in message or "No such file or directory" in message:
        return " - is the workspace's folder at the same path in the pods? See the target's volumes"
    if "Permission denied" in message:
        return " - a run's folder is private to its user; see the target's user and group"
    if code in (126, 127):
        return " - the agent's log says why; is the job's interpreter in the image, or in a volume, at that path?"
    return ""


def _words(said: Mapping[str, Any]) -> str:
    """A reason and its message, in one line."""
    message = next((line.strip() for line in reversed(str(said.get("message") or "").splitlines()) if line.strip()), "")
    reason = str(said.get("reason") or "")
    if "exitCode" in said and not message:
        message = f"exit code {said['exitCode']}"
    return ": ".join(part for part in (reason, message) if part)


def complaint(errors: str) -> str:
    """kubectl's last complaint, in one line: where it lists what is wrong, with "* " before each, all of it."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    first = len(lines) - 1
    while first > 0 and lines[first].startswith("* "):
        first -= 1
    return " ".join(lines[max(first, 0) :])
