"""A Kubernetes cluster: one pod a node, in an Indexed Job with a headless Service, through kubectl.

kubectl brings what a cluster's users have already set up: contexts, credentials, plug-ins that renew them. It gets JSON
on its standard input. The run's directory must be in a volume that all pods have at this path.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trainkit.errors import LaunchError, UnsupportedJob, UserErrorException
from trainkit.job import Job, Status

from .manifests import (
    LABEL,
    Secret,
    Toleration,
    Volume,
    job_manifest,
    manifests,
    meeting_place,
    name_of,
    outside,
    service_manifest,
    version_of,
)
from .podstates import complaint, index_of, seen
from .seldom import Seldom

__all__ = ["Kubernetes", "Secret", "Toleration", "Volume"]

_POLL_SECONDS = 2.0
_ANSWER_SECONDS, _POLL_ANSWER_SECONDS = 20, 5
_LEFT_SECONDS = 15.0  # for the other pods once the head's has ended: agents that have lost the head end after 8
_INDEXED_SINCE = (1, 22)  # when the API server began to have Indexed Jobs without being asked to
_PASSING = ("refused", "timeout", "timed out", "no such host", "unexpected EOF", "TLS handshake", "Too Many Requests",
            "ServiceUnavailable", "etcdserver", "unable to connect")  # fmt: skip


@dataclass(frozen=True)
class Kubernetes:
    """Runs jobs as pods of `image`, with `volumes` that hold the workspace at its own path."""

    image: str
    volumes: tuple[Volume, ...]
    namespace: str = ""  # empty: the context's
    context: str = ""  # of the kubeconfig; empty: its current one
    kubeconfig: str = ""  # empty: what kubectl finds by itself
    cpus: str = ""  # of each pod, such as "8"; empty: the namespace's default
    memory: str = ""  # of each pod, such as "32Gi"
    shared_memory: str = "1Gi"  # size of /dev/shm, part of the memory; empty: the runtime's, 64 MB as a rule
    gpu_resource: str = "nvidia.com/gpu"
    resources: Mapping[str, str] = field(default_factory=dict)  # more of each pod: {"rdma/hca": "1"}
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = field(
        default=(), metadata={"by_reference": True}
    )  # a taint's key is no secret
    secrets: tuple[Secret, ...] = field(default=(), metadata={"by_reference": True})
    image_pull_secrets: tuple[str, ...] = field(default=(), metadata={"by_reference": True})  # their names
    service_account: str = ""
    priority_class: str = ""
    runtime_class: str = ""
    user: int | None = None  # of the pods' processes; None: who owns the run's folder
    group: int | None = None
    capabilities: tuple[str, ...] = ()  # beyond none, such as IPC_LOCK for RDMA
    host_network: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)  # of the Job and its pods, such as a queue's name
    annotations: Mapping[str, str] = field(default_factory=dict)
    keep_seconds: int = 86400  # how long a job that has ended stays to be looked at
    kubectl: str = "kubectl"

    several_machines: ClassVar[bool] = True
    runs_images: ClassVar[bool] = True  # an environment's image takes the place of `image`
    _seldom: Seldom = field(default_factory=lambda: Seldom(_POLL_SECONDS), init=False, repr=False, compare=False)
    _over: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    _canceled: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.image:
            raise UserErrorException(
                "The launcher `kubernetes` needs the image that pods run: image=REGISTRY/NAME:TAG."
            )

    def dry_run(self, job: Job) -> str:
        """All that would be sent, and what it would wait for."""
        self._check_volumes(job)
        sent = {"apiVersion": "v1", "kind": "List", "items": manifests(self, job, *self._owner(job))}
        pods = f"{job.nodes} pods on {job.nodes} machines" if job.nodes > 1 else "a pod"
        wait = f"waits for {pods} that the cluster's scheduler finds room for"
        return f"{' '.join(self._words('create', '-f', '-'))}\n{json.dumps(sent, indent=2)}\n\n{wait}"

    def start(self, job: Job) -> str:
        """Create the Job and its Service; the handle is NAMESPACE/NAME.

        Raises UnsupportedJob for what this cluster cannot run as asked, LaunchError where it refuses.
        """
        self._check_volumes(job)
        self._check_version(job)
        try:
            for node in range(job.nodes):
                with open(job.agent_log(node), "ab"):
                    pass
            os.makedirs(meeting_place(job), mode=0o700, exist_ok=True)
        except OSError as error:
            raise LaunchError(f"The job's folder cannot be used: {error}") from error
        try:
            made = json.loads(self._call("create", "-f", "-", "-o", "json", given=self._job(job)))
        except LaunchError as error:
            if error.transient:  # it may have been taken all the same
                self._delete(self.namespace, name_of(job))
            raise
        metadata = made["metadata"]
        handle = f"{metadata['namespace']}/{metadata['name']}"
        if job.nodes > 1:
            service = service_manifest(job, str(metadata["uid"]))
            try:
                self._call("create", "-f", "-", "-n", metadata["namespace"], given=service)
            except LaunchError:
                self.cancel(handle)
                raise
        return handle

    def poll(self, handle: str) -> Status:
        """Where the job is. A silent API server ends nothing: its pods go on, and their agents' beat tells."""
        namespace, _, name = handle.partition("/")

        def ask() -> Status:
            words = ("get", "jobs.batch,pods", "-l", f"{LABEL}={name}", "-n", namespace, "-o", "json")
            answer = self._call(*words, seconds=_POLL_ANSWER_SECONDS)
            found = seen(json.loads(answer))
            if found is None:
                known = handle in self._canceled or handle in self._over
                return Status("ended") if known else Status("lost", f"Kubernetes no longer knows the job {handle}")
            if found.over and found.status.phase == "running":
                begun = self._over.setdefault(handle, time.monotonic())
                if time.monotonic() - begun > _LEFT_SECONDS:
                    return Status("ended", "some of its pods are on machines that no longer answer")
            return found.status

        return self._seldom.status(handle, ask, lambda last, seconds, words: Status(last.phase, words))

    def cancel(self, handle: str) -> None:
        """Delete the Job, its pods first; `poll` tells when they are gone."""
        namespace, _, name = handle.partition("/")
        self._canceled.add(handle)
        self._delete(namespace, name)
        self._seldom.forget(handle)

    def shell(self, handle: str, node: int) -> tuple[str, ...]:
        """Words that run what follows them in a node's pod."""
        namespace, _, name = handle.partition("/")
        pods = json.loads(self._call("get", "pods", "-l", f"{LABEL}={name}", "-n", namespace, "-o", "json"))["items"]
        found = [pod["metadata"]["name"] for pod in pods if index_of(pod) == node]
        if not found:
            raise LaunchError(f"The job {handle} has no pod for node {node}.", transient=True)
        return (*self._words("exec", "-it", found[0], "-n", namespace), "--")

    def _job(self, job: Job) -> Mapping[str, Any]:
        return job_manifest(self, job, *self._owner(job))

    def _owner(self, job: Job) -> tuple[int, int]:
        """Whose the pods' processes are."""
        folder = next(path for path in (job.run_dir, ".") if os.path.exists(path))
        found = os.stat(folder)
        return (
            found.st_uid if self.user is None else self.user,
            found.st_gid if self.group is None else self.group,
        )

    def _check_volumes(self, job: Job) -> None:
        """Raise UnsupportedJob where the pods would not have the job's folder."""
        if not job.shared or outside(job.run_dir, self.volumes):
            there = ", ".join(volume.path for volume in self.volumes) or "none"
            raise UnsupportedJob(
                f"No volume of the target that may be written holds {job.run_dir} (its volumes are at: {there}). Pods "
                "need the workspace at its own path: volumes=(Volume(path=..., claim=...),), of a claim, a host path "
                "or an NFS folder that this machine sees too."
            )

    def _check_version(self, job: Job) -> None:
        """Raise UnsupportedJob where the API server is too old for the job."""
        if job.nodes > 1:
            version = version_of(json.loads(self._call("version", "-o", "json")))
            if version < _INDEXED_SINCE:
                raise UnsupportedJob(
                    f"{job.nodes} nodes were asked of a Kubernetes API server of version {version[0]}.{version[1]}, "
                    "which has no Indexed Jobs (1.22 and newer have); it runs jobs of one node."
                )

    def _delete(self, namespace: str, name: str) -> None:
        place = ("-n", namespace) if namespace else ()
        try:
            self._call("delete", "job", name, *place, "--cascade=foreground", "--ignore-not-found", "--wait=false")
        except LaunchError as error:
            if not error.transient:
                raise

    def _words(self, *words: str) -> tuple[str, ...]:
        """A command line of kubectl."""
        options = [("--kubeconfig", self.kubeconfig), ("--context", self.context)]
        if "-n" not in words:
            options.append(("--namespace", self.namespace))
        chosen = [f"{option}={value}" for option, value in options if value]
        return (self.kubectl, *chosen, *words)

    def _call(self, *words: str, given: Mapping[str, Any] | None = None, seconds: int = _ANSWER_SECONDS) -> str:
        """What kubectl prints. Raises LaunchError with its own words where it fails."""
        if not shutil.which(self.kubectl):
            raise LaunchError(
                f"{self.kubectl} is not here: the launcher `kubernetes` talks to the cluster through it. Install it "
                "(https://kubernetes.io/docs/tasks/tools), or name it: kubectl=/path/to/kubectl."
            )
        command = self._words(f"--request-timeout={seconds}s", *words)
        text = None if given is None else json.dumps(given)
        try:
            done = subprocess.run(
                command, input=text, stdin=subprocess.DEVNULL if text is None else None,
                capture_output=True, text=True, timeout=2 * seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise LaunchError("kubectl does not come to an end.", command=command, transient=True) from error
        if done.returncode:
            said = complaint(done.stderr) or f"exit code {done.returncode}"
            raise LaunchError(
                f"kubectl {words[0]} failed: {said}", command=command, output=done.stderr,
                transient=any(word in done.stderr for word in _PASSING),
            )  # fmt: skip
        return done.stdout
