"""Requests to hosts and their answers: what is sent, how many are asked at once, what silence or a refusal means."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainkit.boot import processes

from . import far, farbuild, farfiles, lines
from .calls import Answer, Call, run_all
from .hosts import Host

_AT_ONCE = 256  # hosts; each costs two open files here while it is asked
_PROGRAM = """
import sys, types
def module(name, text):
    made = sys.modules[name] = types.ModuleType(name)
    parent, _, own = name.rpartition(".")
    made.__package__ = parent or name
    made.__path__ = []
    if parent:
        setattr(sys.modules[parent], own, made)
    exec(compile(text, name, "exec"), made.__dict__)
for name, text in {modules!r}:
    module(name, text)
sys.modules["there.far"].main()
"""


@dataclass(frozen=True)
class Reply:
    """A host's answer: its values, or why there are none, and whether trying again can help."""

    host: Host
    values: Mapping[str, Any]
    error: str = ""
    transient: bool = False


@dataclass(frozen=True)
class Line:
    """How hosts are reached: ssh's own words, the interpreter that runs requests there, the time for a connection."""

    words: tuple[str, ...]
    python: str
    connect_timeout_seconds: float

    def ask(self, requests: Sequence[tuple[Host, Mapping[str, Any]]], seconds: float = 0.0) -> list[Reply]:
        """Ask all of them side by side; an answer may take so many seconds beyond the time for a connection."""
        command = lines.run_input(self.python)
        calls = [Call((*lines.to_host(self.words, host), command), encode(request)) for host, request in requests]
        return self._replies([host for host, _ in requests], calls, seconds)

    def send(self, hosts: Sequence[Host], file: str, seconds: float) -> list[Reply]:
        """Send all of them the same request with an archive, from a file that `encode` begins."""
        command = lines.run_input(self.python)
        return self._replies(hosts, [Call((*lines.to_host(self.words, h), command), file=file) for h in hosts], seconds)

    def _replies(self, hosts: Sequence[Host], calls: Sequence[Call], seconds: float) -> list[Reply]:
        answers: list[Answer] = []
        for first in range(0, len(calls), _AT_ONCE):
            answers += run_all(calls[first : first + _AT_ONCE], seconds + self.connect_timeout_seconds)
        return [self._reply(host, answer) for host, answer in zip(hosts, answers, strict=True)]

    def _reply(self, host: Host, answer: Answer) -> Reply:
        values = decode(answer.output)
        if values is not None:
            return Reply(host, values, str(values.get("error", "")))
        if answer.problem:
            return Reply(host, {}, f"ssh could not be run on this machine: {answer.problem}")
        if answer.status is None:
            return Reply(host, {}, "it has not answered in time. See that it is up and can be reached", True)
        return Reply(host, {}, *lines.explain(host, self.python, answer.status, answer.output))


@functools.cache
def _program(last: str) -> bytes:
    """What is sent to a host for acts of the module `last`: it, and all that it imports."""
    modules = [("trainkit", ""), ("trainkit.boot", ""), ("trainkit.boot.processes", inspect.getsource(processes))]
    modules.append(("there", ""))
    for module in (far, farfiles, farbuild):
        modules.append((f"there.{module.__name__.rpartition('.')[2]}", inspect.getsource(module)))
        if module.__name__ == last:
            break
    text = _PROGRAM.format(modules=modules).encode()
    return b"%d\n%s" % (len(text), text)


def encode(request: Mapping[str, Any]) -> bytes:
    """A request as it is sent on standard input."""
    return _program(far.ACTS[request["act"]].__module__) + json.dumps(request).encode() + b"\n"


def decode(output: str) -> dict[str, Any] | None:
    """The answer in what came back, which a login script may have added to; None where there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith(far.MARK):
            try:
                values = json.loads(line[len(far.MARK) :])
            except ValueError:
                return None
            return values if isinstance(values, dict) else None
    return None
