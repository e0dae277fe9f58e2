"""The first process in a job's container: runs the node's agent there, and ends with whoever holds its standard input.

    python BOOT_ZIP inside RUN_DIR ATTEMPT NODE [network]

A line on standard input, or SIGTERM, asks the agent to end; where standard input closes, the guard outside is gone and
everything in the container ends at once. Its exit status tells of a signal, which may be the engine's own; the
guard itself asks by a line. It writes nothing.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Dict, List, Mapping

from trainkit.boot import processes
from trainkit.job import Job

IN_CONTAINER = "TRAINKIT_IN_CONTAINER"
LOAD_SECONDS = 3600.0  # for a node's engine to load an image that it lacks


def seen_here(job: Job, env: Mapping[str, str]) -> Job:
    """The job as its ranks see it: in its image, the interpreter is the image's."""
    if job.container is None or IN_CONTAINER not in env:
        return job
    return dataclasses.replace(job, interpreter=job.container.interpreter, container=None)


def mark(env: Mapping[str, str]) -> Dict[str, str]:
    """What ranks are told so that they know, too, that they are in a container."""
    return {IN_CONTAINER: env[IN_CONTAINER]} if IN_CONTAINER in env else {}


def patience(seconds: float, env: Mapping[str, str]) -> float:
    """How long to wait for other nodes: in containers as long as it may take one of them to load the image."""
    return LOAD_SECONDS if IN_CONTAINER in env else seconds


def _ask_to_end(agent: int) -> None:
    with suppress(ProcessLookupError):  # not by its Popen, which would reap it under the main thread's hands
        os.kill(agent, signal.SIGTERM)


def _follow(agent: int) -> None:
    """Pass requests to end on; end with the guard."""
    while True:
        word = os.read(0, 64)
        if not word:
            os._exit(128 + signal.SIGKILL)  # as the first process of the container it takes all others along
        _ask_to_end(agent)


def main(argv: List[str]) -> int:
    """Entry point of the boot zip's `inside`."""
    os.umask(0o077)
    env = dict(os.environ)
    for name in ("USER", "LOGNAME"):  # the image may know nobody of this number
        env.setdefault(name, "uid%d" % os.getuid())
    parent = os.getpid()
    agent = subprocess.Popen(
        [sys.executable, sys.argv[0], "agent", *argv],
        stdin=subprocess.DEVNULL,
        env=env,
        preexec_fn=lambda: processes.die_with_parent(signal.SIGKILL, parent),
    )
    signals: List[int] = []

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        _ask_to_end(agent.pid)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    threading.Thread(target=_follow, args=(agent.pid,), daemon=True).start()
    while agent.returncode is None:
        pid, status = os.wait()  # orphans become its children
        if pid == agent.pid:
            agent.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if agent.returncode == 0 and signals:
        return 128 + signals[0]
    return agent.returncode if agent.returncode >= 0 else 128 - agent.returncode
