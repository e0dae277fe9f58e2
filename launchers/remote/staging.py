"""Jobs without a shared disk: their files go to each host before the agents start, and come back while they run.

Here it writes into the run directory, what ranks and agents wrote there; there it touches only `directory`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainkit.errors import LaunchError
from trainkit.job import Job

from . import agents, farfiles, images, packing, placing, pulling, rebuilding
from .asking import Line, Reply
from .calls import run_all
from .hosts import Host
from .sending import SEND_SECONDS, Archive, send

_PULL_SECONDS = 3600.0
_HEAD_SECONDS = 5.0  # for the head to say where it listens


def start(line: Line, job: Job, hosts: Sequence[Host], directory: str) -> agents.Handle:
    """Send the job's files to the first hosts that take them and start its agents there."""
    pulling.check_here()
    digest = packing.code_digest(Path(job.run_dir, "code"))
    request = packing.put_run_request(job, directory, digest)
    places = placing.Places()
    away = job
    try:
        with Archive(request, lambda file: packing.pack_run(job, file)) as path:
            placing.place(hosts, job.nodes, lambda tried: send(line, list(tried.values()), path), places)
        if len(places.taken) < job.nodes:
            raise placing.refusal(places.failed, len(places.taken), job.nodes)
        away = _job_there(job, [places.taken[node] for node in range(job.nodes)])
        lacking = [reply.host for reply in places.taken.values() if not reply.values["has_code"]]
        request = {"act": "put_code", "directory": directory, "code": digest, "run_dir": away.run_dir}
        if lacking:
            with Archive(request, lambda file: packing.pack_code(Path(job.run_dir, "code"), file)) as path:
                _all_of(send(line, lacking, path), job.nodes)
        _all_of(_try_rsync(line, list(places.taken.values()), away), job.nodes)
        images.send(line, list(places.taken.values()), job)
        taken = {node: places.taken[node].host for node in range(job.nodes)}
        rebuilding.build(line, list(taken.values()), job, directory)
        replies = _all_of(agents.start(line, away, taken), job.nodes)
    except BaseException:
        agents.end(line, away, places.tried)
        _clean(line, places)
        raise
    named = [(reply.host, str(reply.values["identity"])) for reply in replies]
    return agents.Handle(line.python, named, places.words, job.run_dir, job.attempt, away.run_dir)


def _all_of(replies: Sequence[Reply], nodes: int) -> Sequence[Reply]:
    failed = [reply for reply in replies if reply.error]
    if failed:
        raise placing.refusal(failed, nodes - len(failed), nodes)
    return replies


def _try_rsync(line: Line, replies: Sequence[Reply], away: Job) -> list[Reply]:
    """The replies again, with an error where results could not be brought back."""
    hosts = [reply.host for reply in replies]
    calls = [pulling.trial(line.words, host, away.run_dir, tempfile.gettempdir(), farfiles.SENT) for host in hosts]
    answers = run_all(calls, line.connect_timeout_seconds + SEND_SECONDS)
    return [
        Reply(host, {}, a.problem or pulling.explain(a.status, a.output))
        for host, a in zip(hosts, answers, strict=True)
    ]


def _job_there(job: Job, replies: Sequence[Reply]) -> Job:
    """The job as it is on the hosts, which must have it at one path."""
    run_dir = str(replies[0].values["run_dir"])
    for reply in replies:
        if reply.values["run_dir"] != run_dir:
            raise LaunchError(
                f"{replies[0].host.text} puts the run's files at {run_dir}, {reply.host.text} at "
                f"{reply.values['run_dir']}; ranks need one path. Name it: directory='/scratch/...'."
            )
    return replace(job, run_dir=run_dir, boot=f"{run_dir}/{packing.BOOT}" if job.boot else "", shared=False)


def _clean(line: Line, places: placing.Places) -> None:
    made = [reply for reply in places.taken.values() if not reply.error]
    if made:
        line.ask([(reply.host, {"act": "clean", "run_dirs": [reply.values["run_dir"]]}) for reply in made])


@dataclass
class Away:
    """The files of a running job on its hosts: `trainkit_launchers.remote.watching.Files`."""

    line: Line
    handle: agents.Handle
    _known: dict[int, str] = field(default_factory=dict)  # what was fetched last, by node
    _checkpoints: dict[int, Sequence[str]] = field(default_factory=dict)  # those that each node was last seen to have
    _introduced: bool = False

    def sent(self) -> Mapping[str, str]:
        """The recorded handle, which the head's agent waits for."""
        path = f"attempts/{self.handle.attempt}/handle.json"
        try:
            return {f"{self.handle.away}/{path}": Path(self.handle.run_dir, path).read_text(encoding="utf-8")}
        except FileNotFoundError:
            return {}

    def introduce(self) -> None:
        """Tell the other nodes where the head listens; again and again until they know."""
        path = f"{self.handle.away}/attempts/{self.handle.attempt}/head.json"
        others = [host for host, _ in self.handle.nodes[1:]]
        if self._introduced or not others or not self.sent():
            return
        head = self.handle.nodes[0][0]
        (reply,) = self.line.ask([(head, {"act": "tell", "awaited": path, "seconds": _HEAD_SECONDS})], _HEAD_SECONDS)
        text = reply.values.get("text")
        if not reply.error and text:
            told = self.line.ask([(host, {"act": "tell", "files": {path: text}}) for host in others])
            self._introduced = not any(reply.error for reply in told)

    def fetch(self, nodes: Sequence[int]) -> str:
        """Bring what was written there since; the head's files last, whose word counts where two wrote one file."""
        where = [self.handle.nodes[node][0] for node in nodes]
        asked: list[tuple[Host, Mapping[str, Any]]] = [
            (host, {"act": "changes", "run_dir": self.handle.away, "known": self._known.get(node, "")})
            for node, host in zip(nodes, where, strict=True)
        ]
        replies = dict(zip(nodes, self.line.ask(asked) if asked else [], strict=True))
        problems = [f"{reply.host.text}: {reply.error}" for reply in replies.values() if reply.error]
        changed = {n: r for n, r in replies.items() if not r.error and r.values["names"] is not None}
        for group in ([node for node in changed if node], [node for node in changed if not node]):
            calls = [self._pull(changed[node]) for node in group]
            for node, answer in zip(group, run_all(calls, _PULL_SECONDS), strict=True):
                problem = answer.problem or pulling.explain(answer.status, answer.output)
                if problem:
                    problems.append(f"{changed[node].host.text}: {problem}")
                else:
                    self._known[node] = str(changed[node].values["digest"])
        self._checkpoints.update({n: r.values["checkpoints"] for n, r in replies.items() if not r.error})
        if not problems and len(self._checkpoints) == len(self.handle.nodes):
            self._forget_checkpoints({name for names in self._checkpoints.values() for name in names})
        return "; ".join(problems)

    def _pull(self, reply: Reply) -> Any:
        names = [name for name in reply.values["names"] if packing.is_welcome(name, self.handle.attempt)]
        return pulling.pull(self.line.words, reply.host, self.handle.away, self.handle.run_dir, names)

    def _forget_checkpoints(self, there: Set[str]) -> None:
        """Remove here the checkpoints of this attempt that no node has any more: its ranks have removed them.

        Its own are those that came after it had begun, by this machine's clock: rsync brings a host's mtime along.
        """
        run = Path(self.handle.run_dir)
        begun = (run / f"attempts/{self.handle.attempt}/job.json").stat().st_mtime
        for path in run.glob("checkpoints/**/step-*"):
            if path.is_dir() and str(path.relative_to(run)) not in there and path.stat().st_ctime > begun:
                shutil.rmtree(path, ignore_errors=True)

    def clean(self, nodes: Sequence[int]) -> None:
        """Remove there what was brought here."""
        request = {"act": "clean", "run_dirs": [self.handle.away]}
        self.line.ask([(self.handle.nodes[node][0], request) for node in nodes])
