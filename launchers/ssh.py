"""Machines reached by ssh: one detached agent on each, on a shared disk or with the files sent there and back."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, replace
from typing import ClassVar

from trainkit.errors import ComputeTargetException, LaunchError
from trainkit.job import Job, Status

from .remote import agents, lines, placing, rebuilding, staging
from .remote.asking import Line
from .remote.hosts import Host, parse_host, parse_hostfile, parse_hosts
from .remote.watching import Watch

_watches: dict[tuple[Ssh, str], Watch] = {}


@dataclass(frozen=True)
class Ssh:
    """Runs jobs on the first hosts of a list that answer; those left over stand in for hosts that do not.

    `hosts` are written as host, user@host, host:port or an alias of ~/.ssh/config, or stand in a `hostfile` ("host
    slots=2" lines). `shared_disk` says that the workspace is on a path that all hosts see; without it files travel,
    into `directory` on the hosts. `python` runs the agents, where that is not to be the job's own interpreter.
    `options` are more options of ssh, as in ~/.ssh/config ("ServerAliveInterval=5"), which is read as always.
    """

    hosts: tuple[str, ...] = ()
    hostfile: str = ""
    user: str = ""
    shared_disk: bool = True
    python: str = ""
    directory: str = "~/.cache/trainkit"
    connect_timeout_seconds: float = 8.0
    options: tuple[str, ...] = ()
    several_machines: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ComputeTargetException where a value is wrong; no host is contacted."""
        object.__setattr__(self, "hosts", tuple(self.hosts))
        object.__setattr__(self, "options", tuple(self.options))
        if bool(self.hosts) == bool(self.hostfile):
            raise ComputeTargetException("Ssh needs hosts=(...) or hostfile=PATH, one of them.")
        if self.hostfile:
            object.__setattr__(self, "hostfile", os.path.abspath(os.path.expanduser(self.hostfile)))
        parse_hosts(self.hosts)
        if self.user:
            parse_host(f"{self.user}@host")
        if self.python and not os.path.isabs(self.python):
            raise ComputeTargetException(
                f"python={self.python!r} is not absolute; shells of different hosts find different ones by name."
            )
        if not 0.5 <= self.connect_timeout_seconds <= 300:
            raise ComputeTargetException("connect_timeout_seconds: from 0.5 to 300.")
        lines.check_options(self.options)

    def start(self, job: Job) -> str:
        """Start the agents; the handle names their hosts and processes. Raises LaunchError, leaving nothing."""
        hosts, line = self._hosts(), self._line(self._python(job))
        placing.check(job, hosts)
        if not self.shared_disk:
            text = staging.start(line, job, hosts, self.directory).text()
            threading.Thread(target=self._watch(text).attend, name="trainkit-ssh", daemon=True).start()
            return text
        places = placing.Places()
        try:
            placing.place(hosts, job.nodes, lambda tried: agents.start(line, job, tried), places)
            if len(places.taken) < job.nodes:
                raise placing.refusal(places.failed, len(places.taken), job.nodes)
        except BaseException:
            agents.end(line, job, places.tried)
            raise
        nodes = [(reply.host, str(reply.values["identity"])) for _, reply in sorted(places.taken.items())]
        return agents.Handle(line.python, nodes, places.words).text()

    def poll(self, handle: str) -> Status:
        """Running while the head's agent or, after it, any other lives; lost where only the head cannot be reached."""
        return self._watch(handle).look()

    def cancel(self, handle: str) -> None:
        """Ask the agents to end their ranks and themselves; a host that cannot be reached is left to its agent."""
        self._watch(handle).cancel()

    def dry_run(self, job: Job) -> str:
        """The command lines of a job, and what `start` waits for. Nothing is contacted."""
        hosts, line = self._hosts(), self._line(self._python(job))
        placing.check(job, hosts)
        text = []
        for node, host in enumerate(hosts[: job.nodes]):
            command = (*lines.to_host(line.words, host), lines.run_input(line.python))
            text.append(f"node {node}: {lines.shown(command)}")
            text.append(f"  starts there: {lines.shown(agents.argv(line, job, node))}")
        spare = ", ".join(host.text for host in hosts[job.nodes :]) or "none"
        text.append(f"waits up to {self.connect_timeout_seconds:g} s for each host; spare hosts: {spare}")
        return "\n".join(text) + "\n"

    def shell(self, handle: str, node: int) -> tuple[str, ...]:
        """The words that run a command, appended to them, on a node of the job."""
        watch = self._watch(handle)
        if not 0 <= node < len(watch.agents):
            raise LaunchError(f"The job has no node {node}; possible: 0 to {len(watch.agents) - 1}.")
        ssh = lines.to_host(watch.line.words, watch.agents[node][0])
        return (sys.executable, "-m", "trainkit_launchers.remote.login", str(len(ssh)), *ssh)

    def _hosts(self) -> tuple[Host, ...]:
        if not self.hostfile:
            hosts = parse_hosts(self.hosts)
        else:
            try:
                with open(self.hostfile, encoding="utf-8") as file:
                    hosts = parse_hostfile(file.read(), self.hostfile)
            except (OSError, UnicodeDecodeError) as error:
                raise ComputeTargetException(f"The hostfile {self.hostfile} cannot be read: {error}") from error
        return tuple(host if host.user else replace(host, user=self.user) for host in hosts)

    def _python(self, job: Job) -> str:
        """What runs requests and agents on the hosts: not the job's own where that has yet to be built there."""
        recipe = None if self.shared_disk or job.container is not None else rebuilding.recipe_of(job.interpreter)
        return self.python or (recipe.python if recipe is not None else job.interpreter)

    def _line(self, python: str) -> Line:
        words = lines.ssh_words(self.options, self.connect_timeout_seconds)
        return Line(words, python, self.connect_timeout_seconds)

    def _watch(self, text: str) -> Watch:
        known = _watches.get((self, text))
        if known is not None:
            return known
        handle = agents.read_handle(text)
        line = self._line(handle.python)
        files = staging.Away(line, handle) if handle.away else None
        watch = Watch(line, handle.nodes, self._spares(), handle.words, files)
        return _watches.setdefault((self, text), watch)

    def _spares(self) -> tuple[Host, ...]:
        try:
            return self._hosts()
        except ComputeTargetException:  # the list was changed since
            return ()
