"""What a job is on Kubernetes: an Indexed Job and a headless Service, as JSON; pure functions of job and target.

One pod is one node; it runs the node's agent in the foreground. Words that come from users never pass through a shell:
they are items of argument lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from trainkit.errors import UserErrorException
from trainkit.job import Job, agent_command

if TYPE_CHECKING:
    from .kubernetes import Kubernetes

INDEX = "JOB_COMPLETION_INDEX"  # which pod of an Indexed Job this is: set by Kubernetes
LABEL = "trainkit-job"
_NAME_CHARACTERS = 52  # leaves room for what Kubernetes appends for each pod
_GRACE_SECONDS = 15  # for an agent, beyond the job's own grace, before its pod is killed
# $1: the log without its number, $2: a folder where pods meet, $3: how many; then the agent's words. Pods come up one
# by one, minutes apart where an image is fetched: none begins its agent before all are there. Making and removing a
# file has an NFS client read the folder anew. Only the pod's number comes from the environment.
_SHELL = f"""set -eu
i=${{{INDEX}:-0}} met=$2 nodes=$3; log="$1-$i.log"; shift 3
count() {{ echo $#; }}
trap 'exit 143' TERM
: >"$met/$i"
while [ "$(count "$met"/*)" -lt "$nodes" ]; do sleep 1; : >"$met/.$i"; rm -f "$met/.$i"; done
exec "$@" >>"$log" 2>&1
"""
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Volume:
    """A folder that every pod has at `path`: that of a claim, of its machine, or of an NFS server, just one of them."""

    path: str
    claim: str = ""  # a PersistentVolumeClaim's name
    host_path: str = ""  # a folder of each machine of the cluster
    nfs: str = ""  # SERVER:/EXPORTED/FOLDER
    sub_path: str = ""  # a folder in the claim, instead of all of it
    read_only: bool = False

    def __post_init__(self) -> None:
        if sum(map(bool, (self.claim, self.host_path, self.nfs))) != 1:
            raise UserErrorException(
                f"The volume at {self.path!r} needs exactly one of claim=, host_path= and nfs=, which say what it is."
            )
        for name, value in (("path", self.path), ("host_path", self.host_path or "/")):
            if not value.startswith("/") or ":" in value:
                raise UserErrorException(f"The volume's {name} is an absolute path without colons, not {value!r}.")
        if self.nfs and not re.fullmatch(r"[^:/]+:/[^:]*", self.nfs):
            raise UserErrorException(f"nfs={self.nfs!r} of a volume is written SERVER:/EXPORTED/FOLDER.")

    def source(self) -> Manifest:
        """What it is, as a pod says it."""
        if self.claim:
            return {"persistentVolumeClaim": {"claimName": self.claim, "readOnly": self.read_only}}
        if self.host_path:
            return {"hostPath": {"path": self.host_path, "type": "Directory"}}
        server, _, folder = self.nfs.partition(":")
        return {"nfs": {"server": server, "path": folder, "readOnly": self.read_only}}


@dataclass(frozen=True)
class Secret:
    """An environment variable of the ranks whose value is in a Secret of the cluster: only its place is known here."""

    variable: str
    secret: str  # the Secret's name
    entry: str  # under which the value is in it


@dataclass(frozen=True)
class Toleration:
    """Lets pods run on machines that are tainted so; without a value, whatever the taint's value is."""

    key: str
    value: str = ""
    effect: str = ""  # NoSchedule, PreferNoSchedule, NoExecute; empty: all of them

    def manifest(self) -> Manifest:
        """As a pod says it."""
        found: Manifest = {"key": self.key, "operator": "Equal" if self.value else "Exists"}
        found.update({"value": self.value} if self.value else {}, **({"effect": self.effect} if self.effect else {}))
        return found


def meeting_place(job: Job) -> str:
    """A folder where the job's pods find each other before they start."""
    return f"{job.run_dir}/attempts/{job.attempt}/pods"


def name_of(job: Job) -> str:
    """The job's name in its namespace: that of the run as far as DNS allows, its unique end always."""
    plain = re.sub(r"[^a-z0-9]+", "-", f"{job.run_id}-{job.attempt}".lower())[-_NAME_CHARACTERS:].strip("-")
    return plain if plain[:1].isalpha() else f"t-{plain}"


def manifests(target: Kubernetes, job: Job, user: int, group: int) -> list[Manifest]:
    """Everything that is made for a job; `user` and `group` own its folder, and so are those of its pods."""
    if job.nodes == 1:
        return [job_manifest(target, job, user, group)]
    return [job_manifest(target, job, user, group), service_manifest(job)]


def service_manifest(job: Job, owner: str = "") -> Manifest:
    """The headless Service that gives pods names; it goes when the Job, whose uid is `owner`, does."""
    name = name_of(job)
    metadata: Manifest = {"name": name, "labels": {LABEL: name}}
    if owner:
        metadata["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner}]
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {LABEL: name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def job_manifest(target: Kubernetes, job: Job, user: int, group: int) -> Manifest:
    """The Job: one pod a node, none of them started again by Kubernetes, for restarts are trainkit's."""
    name = name_of(job)
    spec: Manifest = {
        "completions": job.nodes,
        "parallelism": job.nodes,
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": target.keep_seconds,
        "template": {
            "metadata": {"labels": {**target.labels, LABEL: name}, "annotations": dict(target.annotations)},
            "spec": pod_spec(target, job, user, group),
        },
    }
    if job.nodes > 1:
        spec["completionMode"] = "Indexed"
    metadata = {
        "name": name,
        "labels": {**target.labels, LABEL: name},
        "annotations": {**target.annotations, "trainkit-run": job.run_id},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def pod_spec(target: Kubernetes, job: Job, user: int, group: int) -> Manifest:
    """One node's pod."""
    spec: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(job.grace_seconds) + _GRACE_SECONDS,
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(target.service_account),
        "securityContext": {
            "runAsUser": user, "runAsGroup": group, "runAsNonRoot": user != 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(target, job)],
        "volumes": [{"name": f"volume-{n}", **volume.source()} for n, volume in enumerate(target.volumes)],
    }  # fmt: skip
    if target.shared_memory:
        memory = {"medium": "Memory", "sizeLimit": target.shared_memory}
        spec["volumes"].append({"name": "shared-memory", "emptyDir": memory})
    if job.nodes > 1:
        spec["subdomain"] = name_of(job)
        apart = {"labelSelector": {"matchLabels": {LABEL: name_of(job)}}, "topologyKey": "kubernetes.io/hostname"}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    if target.host_network:
        spec.update(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    optional: Manifest = {
        "serviceAccountName": target.service_account,
        "priorityClassName": target.priority_class,
        "runtimeClassName": target.runtime_class,
        "nodeSelector": dict(target.node_selector),
        "tolerations": [toleration.manifest() for toleration in target.tolerations],
        "imagePullSecrets": [{"name": name} for name in target.image_pull_secrets],
    }
    return {**spec, **{key: value for key, value in optional.items() if value}}


def container(target: Kubernetes, job: Job) -> Manifest:
    """The container that runs the agent; what it prints goes into the run's folder, a failure to start to the pod."""
    log = job.agent_log(0)[: -len("-0.log")]
    agent = agent_command(job.interpreter, job, INDEX if job.nodes > 1 else 0, network=job.nodes > 1)
    words = (log, meeting_place(job), str(job.nodes), *agent)
    mounts = [
        {"name": f"volume-{n}", "mountPath": volume.path, "readOnly": volume.read_only}
        | ({"subPath": volume.sub_path} if volume.sub_path else {})
        for n, volume in enumerate(target.volumes)
    ]
    if target.shared_memory:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    return {
        "name": "agent",
        "image": job.container.image if job.container else target.image,
        "command": ["/bin/sh", "-c", _SHELL.replace("$(", "$$("), "trainkit"],
        "args": [word.replace("$", "$$") for word in words],  # Kubernetes would expand $(NAME)
        "workingDir": job.run_dir,
        "env": [
            {"name": one.variable, "valueFrom": {"secretKeyRef": {"name": one.secret, "key": one.entry}}}
            for one in target.secrets
        ],
        "resources": resources(target, job),
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]} | ({"add": list(target.capabilities)} if target.capabilities else {}),
        },
    }


def resources(target: Kubernetes, job: Job) -> Manifest:
    """What a pod takes of its machine; requests and limits are the same, so that no neighbour can take it away."""
    amounts = {"cpu": target.cpus, "memory": target.memory}
    amounts[target.gpu_resource] = str(job.gpus_per_node) if job.gpus_per_node else ""
    chosen = {name: amount for name, amount in {**amounts, **target.resources}.items() if amount}
    return {"limits": chosen, "requests": dict(chosen)} if chosen else {}


def outside(path: str, volumes: tuple[Volume, ...]) -> bool:
    """Whether no volume that may be written holds this path."""
    inside = [PurePosixPath(volume.path) for volume in volumes if not volume.read_only]
    return not any(PurePosixPath(path).is_relative_to(folder) for folder in inside)


def version_of(answer: Mapping[str, Any]) -> tuple[int, int]:
    """The API server's version, from what `kubectl version -o json` says."""
    said = answer.get("serverVersion") or {}
    numbers = [re.match(r"\d*", str(said.get(key, ""))) for key in ("major", "minor")]
    major, minor = (int(number.group() or 0) if number else 0 for number in numbers)
    return major, minor
