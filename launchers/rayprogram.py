"""The program that holds a job on a Ray cluster: reserves the nodes, starts an agent on each, stays until they ended.

`launchers/ray.py` writes it, as it is, into the attempt's directory; the cluster's own Python runs it there as
`program.py PLAN.json`. So it imports only the standard library and, inside functions, Ray,
and runs on Python 3.8 too. It writes one file, the
plan's `stage`, and appends to the agents' logs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

_HEAD_GONE_SECONDS = 15.0  # for the other agents, once the head's has ended: they fence themselves after 8
_LOOK_SECONDS = 0.5


class Agent:
    """A Ray actor that holds one node's agent in the foreground: when the actor dies, so does the agent."""

    def __init__(self, argv: list[str], log: str, plan: Mapping[str, Any]) -> None:
        bound = [sys.executable, "-I", "-S", plan["program"], "--bound", str(os.getpid())]
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                bound + argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=plan["directory"],
                env=without_ray(os.environ), start_new_session=True,
            )  # fmt: skip

    def place(self) -> str:
        """The address of the actor's node."""
        import ray

        return str(ray.util.get_node_ip_address())

    def wait(self) -> int:
        """The agent's exit status, once it has ended."""
        return self.process.wait()

    def stop(self) -> None:
        """Ask the agent to end its ranks and itself."""
        self.process.terminate()


def without_ray(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what Ray adds to its workers' for itself, which is not meant for a job's own Python."""
    added = ("PYTHONPATH", "PYTHONBREAKPOINT", "OMP_NUM_THREADS", "PYTHONUNBUFFERED")
    return {k: v for k, v in environment.items() if not k.startswith("RAY_") and k not in added}


def bound(argv: list[str]) -> None:
    """Become the command argv[1:], which is killed when the process argv[0], its parent, dies."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == int(argv[0]):
        os.execv(argv[1], argv[1:])


class Held:
    """One job on the cluster, from its reservation to its end."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.asked = False
        self.trouble = ""  # what Ray lost first, and its words on that
        self.agents: list[Any] = []
        self.said: dict[str, Any] = {}

    def say(self, phase: str, words: str, **values: Any) -> None:
        """Tell the launcher where the job is."""
        stage = {"phase": phase, "words": words, **values}
        if stage != self.said:
            self.said = stage
            temporary = f"{self.plan['stage']}.{os.getpid()}"
            with open(temporary, "w") as file:
                json.dump(stage, file)
            os.replace(temporary, self.plan["stage"])

    def run(self) -> int:
        """The whole job; the exit code says only whether agents were started."""
        import ray

        self.say("queued", "Ray starts the job's driver")
        ray.init(logging_level="WARNING", log_to_driver=False)
        signal.signal(signal.SIGTERM, self._on_signal)
        group = self._reserve(ray)
        if group is None:
            return 0 if self.asked else 1
        self._start(ray, group)
        self._watch(ray)
        return 0

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True

    def _reserve(self, ray: Any) -> Any | None:
        """Nodes with room, all different; None where the job was to end first, or waited too long."""
        from ray.util.placement_group import placement_group

        nodes, bundle, limit = self.plan["nodes"], self.plan["bundle"], self.plan["queue_seconds"]
        group = placement_group([dict(bundle) for _ in range(nodes)], strategy="STRICT_SPREAD")
        begun = time.monotonic()
        while not group.wait(_LOOK_SECONDS):
            if self.asked:
                self.say("ended", "asked to end before the nodes were free")
                return None
            self.say("queued", waiting(nodes, bundle, ray.available_resources(), ray.cluster_resources()))
            if limit and time.monotonic() - begun > limit:
                words = f"{self.said['words']}: longer than queue_seconds={limit:g}"
                self.say("queued", words)
                print(words, flush=True)
                return None
        return group

    def _start(self, ray: Any, group: Any) -> None:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = dict(self.plan["bundle"])
        needs = {"num_cpus": bundle.pop("CPU", 0), "num_gpus": bundle.pop("GPU", 0), "resources": bundle}
        for node, argv in enumerate(self.plan["commands"]):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
            made = ray.remote(Agent).options(
                scheduling_strategy=place, max_restarts=0, max_task_retries=0, max_concurrency=3, **needs
            )
            self.agents.append(made.remote(argv, self.plan["logs"][node], self.plan))
        asked = [agent.place.remote() for agent in self.agents]
        addresses = ["" for _ in asked]
        self.say("running", "agents start", addresses=addresses)
        for node, reference in enumerate(asked):
            try:
                addresses[node] = ray.get(reference)
            except ray.exceptions.RayError as error:
                self._note(node, f"Ray could not start the agent of node {node}", error)
                self.asked = True  # the others need not wait for it
        self.say("running", "on " + ", ".join(addresses), addresses=addresses)

    def _watch(self, ray: Any) -> None:
        """Until all agents have ended, or can be waited for no longer."""
        waiting_for = {agent.wait.remote(): node for node, agent in enumerate(self.agents)}
        deadline, told = float("inf"), False
        while waiting_for and time.monotonic() < deadline:
            done, _ = ray.wait(list(waiting_for), num_returns=1, timeout=_LOOK_SECONDS)
            for reference in done:
                node = waiting_for.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    self._note(node, f"Ray lost the actor that held the agent of node {node}", error)
                if node == 0:
                    deadline = min(deadline, time.monotonic() + _HEAD_GONE_SECONDS)
            if self.asked and not told:
                told = True
                deadline = min(deadline, time.monotonic() + self.plan["grace_seconds"])
                for agent in self.agents:
                    agent.stop.remote()
        self.say("ended", self.trouble, addresses=self.said.get("addresses", []))

    def _note(self, node: int, what: str, error: Exception) -> None:
        """A line in the log of a node's agent, for what that can no longer say itself; the first is the job's end."""
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        words = f"{what}: {said}; Ray's own logs on that node tell more"
        self.trouble = self.trouble or words
        with open(self.plan["logs"][node], "a") as log:
            log.write(words + "\n")


def waiting(nodes: int, bundle: Mapping[str, float], free: Mapping[str, float], there: Mapping[str, float]) -> str:
    """In words: what a job waits for, and what of it the cluster has."""
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in sorted(bundle.items()))
    has = ", ".join(f"{free.get(name, 0):g} of {there.get(name, 0):g} {name}" for name in sorted(bundle))
    count = sum(1 for name in there if name.startswith("node:") and name != "node:__internal_head__")
    whole = f"{nodes} nodes with {wanted} free on each" if nodes > 1 else f"a node with {wanted} free"
    return f"waits for {whole}; {has} free on {count} node{'' if count == 1 else 's'}"


def main(argv: list[str]) -> int:
    """Entry point of `program.py PLAN.json`, and of the agents that it starts."""
    if argv[0] == "--bound":
        bound(argv[1:])
        return 1
    with open(argv[0]) as file:
        plan = json.load(file)
    return Held(plan).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
