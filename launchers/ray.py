"""A Ray cluster that runs already: one agent a node, held by a Ray job in a placement group, through Ray's Jobs API.

Nothing of Ray is needed here: its dashboard is asked over HTTP. The job's run directory must be one that all nodes of
the cluster see under this path; besides it, the launcher writes only there, in attempts/K/ray.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from trainkit.errors import LaunchError, UnsupportedJob, UserErrorException
from trainkit.job import Job, Status, agent_command

from .raynodes import settled
from .raywords import last_line, shortage, status_of, wants
from .seldom import Seldom

_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_ASK_SECONDS = 4.0  # for what is asked again and again: whoever watches the job has more to look at
_SILENT_SECONDS = 60.0  # Ray's own nodes give up on a head that is away for as long
_NODE_SECONDS = 3  # for a node to answer its head
_STOP_SECONDS = 20.0  # between asking the agents to end and killing them, beyond the job's own grace
_SSH = "import os, shlex, sys; os.execvp('ssh', ['ssh', '-t', sys.argv[1], shlex.join(sys.argv[2:])])"


@dataclass(frozen=True)
class Ray:
    """Runs jobs on the Ray cluster whose dashboard answers at `address`, such as http://head:8265."""

    address: str
    python: str = "python3"  # Ray's own interpreter on the head node: a name on its PATH, or better an absolute path
    cpus: float = 0.0  # of each node; 0: one for each rank
    resources: Mapping[str, float] = field(default_factory=dict)  # of each node, more of Ray's: {"TPU": 1}
    autoscaling: bool = False  # the cluster gets more nodes by itself: what it has now refuses nothing
    queue_seconds: float = 0.0  # how long a job may wait for nodes; 0: for ever
    token_variable: str = field(default="", metadata={"by_reference": True})  # holds the token that Ray asks for

    several_machines: ClassVar[bool] = True
    _seldom: Seldom = field(default_factory=lambda: Seldom(_POLL_SECONDS), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserErrorException(
                f"address={self.address!r} is no address of Ray's dashboard, which takes jobs: give it as "
                "http://HEAD:8265 (ray://HEAD:10001 and HEAD:6379 are those of other services of Ray)."
            )

    def bundle(self, job: Job) -> dict[str, float]:
        """What of Ray's resources the job takes of each node."""
        wanted = {"CPU": self.cpus or float(job.ranks_per_node), "GPU": float(job.gpus_per_node), **self.resources}
        return {name: amount for name, amount in wanted.items() if amount}

    def request(self, job: Job) -> dict[str, Any]:
        """What is sent to the Jobs API."""
        folder = _folder(job)
        stop_seconds = int(job.grace_seconds + 2 * _STOP_SECONDS)
        return {
            "submission_id": f"{job.run_id}-{job.attempt}",
            "entrypoint": "exec " + shlex.join([self.python, f"{folder}/program.py", f"{folder}/plan.json"]),
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(stop_seconds)}},
            "metadata": {"run": job.run_id, "experiment": job.experiment, "attempt": str(job.attempt)},
        }

    def plan(self, job: Job) -> dict[str, Any]:
        """What the job's program on the cluster is to do, as it reads it there."""
        nodes = range(job.nodes)
        return {
            "program": f"{_folder(job)}/program.py",
            "stage": f"{_folder(job)}/stage.json",
            "directory": job.run_dir,
            "nodes": job.nodes,
            "bundle": self.bundle(job),
            "commands": [list(agent_command(job.interpreter, job, n, network=True, restarts=True)) for n in nodes],
            "logs": [job.agent_log(node) for node in nodes],
            "queue_seconds": self.queue_seconds,
            "grace_seconds": job.grace_seconds + _STOP_SECONDS,
        }

    def dry_run(self, job: Job) -> str:
        """All that would be sent, and what it would wait for."""
        return (
            f"POST {self._url('/api/jobs/')}\n{json.dumps(self.request(job), indent=2)}\n\n"
            f"{_folder(job)}/plan.json\n{json.dumps(self.plan(job), indent=2)}\n\n"
            f"waits for {wants(job.nodes, self.bundle(job))}"
            + (f", at most {self.queue_seconds:g} s" if self.queue_seconds else "")
        )

    def start(self, job: Job) -> str:
        """Submit the job; the handle is Ray's name of it, and the folder where it tells how far it is.

        Raises LaunchError where no cluster answers, or it has too few nodes; UnsupportedJob without a shared folder.
        """
        if not job.shared:
            raise UnsupportedJob(
                "The launcher `ray` needs a folder that every node of the cluster sees under the same path; put the "
                "workspace into one (NFS, for example), or use the launcher `ssh`, which copies files."
            )
        self._check_room(job)
        folder = Path(_folder(job))
        try:
            for node in range(job.nodes):
                with open(job.agent_log(node), "ab"):
                    pass
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "program.py").write_bytes(Path(__file__).with_name("rayprogram.py").read_bytes())
            (folder / "plan.json").write_text(json.dumps(self.plan(job)))
        except OSError as error:
            raise LaunchError(f"The job's folder cannot be used: {error}") from error
        request = self.request(job)
        try:
            self._call("POST", "/api/jobs/", request)
        except LaunchError as error:
            if error.transient:  # it may have been taken all the same
                self._stop(request["submission_id"])
            raise
        return f"{request['submission_id']} {folder}"

    def poll(self, handle: str) -> Status:
        """Where the job is; a cluster that has been silent for a minute has lost it."""
        name, _, folder = handle.partition(" ")

        def ask() -> Status:
            try:
                info = self._call("GET", f"/api/jobs/{urllib.parse.quote(name)}", seconds=_ASK_SECONDS)
            except Unknown:
                return Status("lost", f"the Ray cluster at {self.address} no longer knows the job {name}")
            return status_of(info, stage_in(folder))

        def silent(last: Status, seconds: float, words: str) -> Status:
            stage = stage_in(folder)
            if seconds > _SILENT_SECONDS:
                return Status("lost", words.rstrip("."))
            return Status("running" if stage.get("phase") in ("running", "ended") else "queued", words)

        return self._seldom.status(handle, ask, silent)

    def cancel(self, handle: str) -> None:
        """Ask Ray to end the job, if it answers; `poll` tells whether it has."""
        self._stop(handle.partition(" ")[0])
        self._seldom.forget(handle)

    def shell(self, handle: str, node: int) -> tuple[str, ...]:
        """Words that run what follows them on a node, by ssh to the address that Ray knows it by."""
        addresses = stage_in(handle.partition(" ")[2]).get("addresses") or []
        if node >= len(addresses) or not addresses[node]:
            raise LaunchError(f"Ray has not said yet which machine node {node} of this job is.", transient=True)
        return (sys.executable, "-c", _SSH, str(addresses[node]))

    def _check_room(self, job: Job) -> None:
        """Raise LaunchError where the cluster, even when idle, could not hold the job."""
        if self.autoscaling:
            return
        nodes = settled(job, self._alive, self._answers)
        problem, available = shortage(job.nodes, self.bundle(job), nodes)
        if problem:
            starts = not nodes  # it has just been started itself
            raise LaunchError(f"The Ray cluster at {self.address} {problem}", transient=starts, available=available)

    def _alive(self) -> list[Mapping[str, Any]]:
        """The nodes that Ray takes for alive."""
        answer = self._call("GET", "/api/v0/nodes?limit=10000")
        try:
            return [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
        except (KeyError, TypeError) as error:
            raise LaunchError(f"{self.address} does not answer as Ray's dashboard does.") from error

    def _answers(self, node: Mapping[str, Any]) -> bool:
        """Whether a node itself answers Ray's head, which is asked for the names of logs that lie there."""
        try:
            self._call("GET", f"/api/v0/logs?node_id={node.get('node_id')}&glob=none&timeout={_NODE_SECONDS}")
        except Unknown:  # an older Ray, whose head cannot be asked this
            return True
        except LaunchError:
            return False
        return True

    def _stop(self, name: str) -> None:
        try:
            self._call("POST", f"/api/jobs/{urllib.parse.quote(name)}/stop", {}, _ASK_SECONDS)
        except LaunchError:
            pass

    def _url(self, path: str) -> str:
        return self.address.rstrip("/") + path

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = _ANSWER_SECONDS
    ) -> Any:
        """One request to the dashboard. Raises Unknown for what it does not know, LaunchError for all else."""
        headers = {"Content-Type": "application/json"}
        if self.token_variable:
            headers["Authorization"] = "Bearer " + _token(self.token_variable)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url(path), data, headers, method=method)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=seconds) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if "Location" in error.headers:
                raise LaunchError(
                    f"{self.address} redirects to {error.headers['Location']}, which is not followed: a token would go "
                    "there too. Give the address of the Ray cluster's dashboard itself."
                ) from error
            raise refusal(self.address, error.code, _words(error)) from error
        except ValueError as error:
            raise LaunchError(f"What answers at {self.address} is not Ray's dashboard.") from error
        except (OSError, http.client.HTTPException) as error:  # the latter for an answer that was cut off
            reason = getattr(error, "reason", None) or error
            raise LaunchError(
                f"No Ray cluster answers at {self.address} ({reason}). Is its head node up, and its dashboard "
                "reachable from here (ray start --head --dashboard-host=0.0.0.0)?",
                transient=True,
            ) from error


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *values: Any, **more: Any) -> None:
        """None: the redirect becomes an HTTPError."""


class Unknown(LaunchError):
    """Ray has no such job."""


def _folder(job: Job) -> str:
    return f"{job.run_dir}/attempts/{job.attempt}/ray"


def _token(variable: str) -> str:
    token = os.environ.get(variable, "")
    if not token:
        raise LaunchError(f"The environment variable {variable}, which is to hold Ray's token, is not set here.")
    return token


def _words(error: urllib.error.HTTPError) -> str:
    """What came with a refusal; nothing where that was cut off."""
    try:
        return error.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def stage_in(folder: str) -> Mapping[str, Any]:
    """What the job's program last said; nothing where it has not begun."""
    try:
        stage = json.loads(Path(folder, "stage.json").read_text())
    except (OSError, ValueError):
        return {}
    return stage if isinstance(stage, dict) else {}


def refusal(address: str, code: int, words: str) -> LaunchError:
    """The error for an answer of Ray's dashboard that is none of success."""
    if code == 404:
        return Unknown(f"The Ray cluster at {address} knows nothing of that.", output=words)
    if code in (401, 403):
        return LaunchError(
            f"The Ray cluster at {address} wants a token: say in token_variable which environment variable holds it.",
            output=words,
        )
    why = last_line(words) or "it gives no reason; its dashboard.log may"
    return LaunchError(f"The Ray cluster at {address} refused ({code}): {why}", output=words, transient=code >= 502)
