"""What is done on a host: this text is sent there on standard input, with that of `trainkit.boot.processes`.

A request is one line of JSON on standard input, {"act": the name of a function of ACTS, ...}; an archive may follow.
The answer is one line on standard output that begins with MARK, {"error": words} where it could not be done. It runs
with the standard library of Python 3.8 and touches only what the request names.
"""
# ruff: noqa: UP006, UP031, UP035, UP037

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, BinaryIO, Callable, Dict, List

from trainkit.boot import processes

MARK = "trainkit-answer:"
_TICK_SECONDS = 0.02
Request = Dict[str, Any]
ACTS: Dict[str, Callable[[Request, BinaryIO], Request]] = {}


class Refused(Exception):
    """What was asked cannot be done here; the text says why."""


def act(function: Callable[[Request, BinaryIO], Request]) -> Callable[[Request, BinaryIO], Request]:
    """Make a function one of ACTS, under its own name."""
    ACTS[function.__name__] = function
    return function


def read(path: str) -> Any:
    """A file's JSON; None where it is not there, or not yet whole."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except (OSError, ValueError):
        return None


def write(path: str, text: str) -> None:
    """A private file, there at once and whole; one that is there already stays."""
    if os.path.exists(path):
        return
    partial = os.path.join(os.path.dirname(path), ".%s.%d" % (os.path.basename(path), os.getpid()))
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)


@act
def start(request: Request, rest: BinaryIO) -> Request:
    """Start a node's agent, detached, and see it begin; `awaited` is a file of its to wait for and to give back."""
    interpreter = request["interpreter"]
    if not os.access(interpreter, os.X_OK):
        raise Refused(
            "it has no %s, the job's interpreter. Install it there at the same path, put it on a path that all hosts "
            "share, or use an environment with inherit=False, which is built on each host" % interpreter
        )
    if not os.path.isdir(request["directory"]):
        raise Refused(
            "it does not see %s. Put the workspace on a path that all hosts share, or say shared_disk=False to have "
            "the files sent" % request["directory"]
        )
    for path, text in request.get("files", {}).items():
        write(path, text)
    with open(request["log"], "ab") as log:
        agent = subprocess.Popen(
            request["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            cwd=request["directory"],
        )  # fmt: skip
    name = processes.identity(agent.pid)
    try:
        _see_it_begin(agent, request)
        told = _await(agent, request["awaited"], request) if request.get("awaited") else None
    except BaseException:
        end({"agents": [name], "seconds": 2.0}, rest)
        raise
    return {"identity": name, "told": told}


def _see_it_begin(agent: "subprocess.Popen[bytes]", request: Request) -> None:
    told = _await(agent, request["agent_file"], request)
    if int(told["identity"].split(":")[1]) != agent.pid:
        raise Refused("an agent of this node ran there already")


def _await(agent: "subprocess.Popen[bytes]", path: str, request: Request) -> Any:
    """The file, as soon as the agent has written it."""
    deadline = time.monotonic() + request["seconds"]
    while True:
        ended = agent.poll() is not None
        told = read(path)
        if told is not None:
            return told
        if ended:
            raise Refused("the agent ended at once: %s" % (_last_line(request["log"]) or "it says nothing"))
        if time.monotonic() > deadline:
            raise Refused("the agent has not begun within %g s" % request["seconds"])
        time.sleep(_TICK_SECONDS)


def _last_line(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


@act
def watch(request: Request, rest: BinaryIO) -> Request:
    """Whether an agent lives: at once where it does not, else after so many seconds."""
    for path, text in request.get("files", {}).items():
        write(path, text)
    name, deadline = request["agent"], time.monotonic() + request["seconds"]
    while processes.is_alive(name):
        if time.monotonic() > deadline:
            return {"alive": True, "restarted": False}
        time.sleep(_TICK_SECONDS)
    return {"alive": False, "restarted": processes.rebooted(name)}


@act
def ask_to_end(request: Request, rest: BinaryIO) -> Request:
    """Ask agents to end their ranks and themselves."""
    for name in request["agents"]:
        processes.send(name, signal.SIGCONT)
        processes.send(name, signal.SIGTERM)
    return {}


@act
def end(request: Request, rest: BinaryIO) -> Request:
    """See to it that agents end: those named, and those that have named themselves in a file."""
    told = [read(path) for path in request.get("agent_files", [])]
    agents: List[str] = request["agents"] + [agent["identity"] for agent in told if agent]
    ask_to_end({"agents": agents}, rest)
    deadline = time.monotonic() + request["seconds"]
    while any(processes.is_alive(name) for name in agents):
        if time.monotonic() > deadline:
            for name in agents:
                processes.send(name, signal.SIGKILL)
            break
        time.sleep(_TICK_SECONDS)
    return {}


def main() -> None:
    """Read a request, do it, answer."""
    os.umask(0o077)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    rest = sys.stdin.buffer
    try:
        request = json.loads(rest.readline())
        answer = ACTS[request["act"]](request, rest)
    except Refused as error:
        answer = {"error": str(error)}
    except Exception as error:
        answer = {"error": "%s: %s" % (type(error).__name__, error)}
    sys.stdout.write("\n%s%s\n" % (MARK, json.dumps(answer)))
    sys.stdout.flush()
