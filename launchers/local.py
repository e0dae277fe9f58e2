"""This machine: one detached agent for each node, several logical nodes side by side where a job asks for them."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

from trainkit.boot import processes
from trainkit.errors import LaunchError
from trainkit.job import Job, Status, agent_command


@dataclass(frozen=True)
class Local:
    """Runs jobs on the machine that submits them; its agents outlive the client."""

    several_machines: ClassVar[bool] = False

    def start(self, job: Job) -> str:
        """Start the agents; the handle is their process names, which are never reused."""
        agents: list[subprocess.Popen[bytes]] = []
        try:
            for node in range(job.nodes):
                with open(job.agent_log(node), "ab") as log:
                    agents.append(
                        subprocess.Popen(
                            agent_command(sys.executable, job, node),
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=log,
                            start_new_session=True,
                            cwd=job.run_dir,
                        )  # fmt: skip
                    )
        except OSError as error:
            for agent in agents:
                agent.kill()
            raise LaunchError(f"An agent could not be started on this machine: {error}", transient=True) from error
        return ",".join(processes.identity(agent.pid) for agent in agents)

    def poll(self, handle: str) -> Status:
        """Running while any agent lives; lost where the machine has started again since."""
        agents = handle.split(",")
        if processes.rebooted(agents[0]):
            return Status("lost", "machine restarted")
        return Status("running" if any(processes.is_alive(agent) for agent in agents) else "ended")

    def cancel(self, handle: str) -> None:
        """Ask the agents to end their ranks and themselves."""
        for agent in handle.split(","):
            processes.send(agent, signal.SIGCONT)
            processes.send(agent, signal.SIGTERM)
