"""What a node's agent has started, and what became of it: nothing of it outlives the agent."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from trainkit.boot import processes
from trainkit.boot.shims import ALONE, ranks_below
from trainkit.job import is_rank


@dataclass
class _Started:
    """A command of this node and what became of it."""

    argv: List[str]
    process: "subprocess.Popen[bytes]"
    status: Optional[int] = None
    ended: float = 0.0  # when that was seen
    asked: bool = False  # it was still there when this agent wanted its end

    def look(self) -> bool:
        """Whether it has ended since this was asked last."""
        if self.status is not None or self.process.poll() is None:
            return False
        self.status, self.ended = self.process.returncode, time.time()
        return True


class Commands:
    """The commands of one node. To be used by the agent's main thread: the kernel ties their deaths to it."""

    def __init__(self, directory: str) -> None:
        self.environment: Dict[str, str] = {}  # of everything that is started here
        self._directory = directory
        self._started: List[_Started] = []

    def start(
        self, argv: Sequence[str], extra: Mapping[str, str], output: int = subprocess.PIPE
    ) -> "subprocess.Popen[bytes]":
        """A process that dies with this agent, in the environment of this node's ranks; its end is the caller's."""
        return processes.start(argv, {**self.environment, **extra}, self._directory, output, signal.SIGKILL)

    def run(self, argv: Sequence[str], extra: Mapping[str, str], output: int) -> None:
        """Start one of the node's own commands."""
        self._started.append(_Started(list(argv), self.start(argv, extra, output)))

    @property
    def any(self) -> bool:
        """Whether this node has commands of its own."""
        return bool(self._started)

    @property
    def all_ranks(self) -> bool:
        """Whether it has, and each is a rank."""
        return self.any and all(is_rank(command.argv) for command in self._started)

    @property
    def ended(self) -> bool:
        """Whether all have ended, as far as `failed` has seen."""
        return all(command.status is not None for command in self._started)

    def failed(self) -> bool:
        """Look which have ended; whether one of those has ended badly."""
        seen = [command for command in self._started if command.look()]
        return any(command.status != 0 for command in seen)

    def ask_to_end(self, run_id: str, saving: bool) -> None:
        """Ask the ranks to end; where they are `saving` their state, mpirun is not told, which would kill them soon."""
        ranks = ranks_below(os.getpid(), run_id)
        for pid in ranks:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM if saving else ALONE)
        for command in self._want_end():
            if not (saving and ranks):
                command.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill what is left."""
        for command in self._want_end():
            processes.end(command.process)
            command.look()

    def _want_end(self) -> "List[_Started]":
        """Those that are still there: how they end from now on is this agent's doing."""
        left = [command for command in self._started if not command.look() and command.status is None]
        for command in left:
            command.asked = True
        return left

    def told(self) -> List[Dict[str, Any]]:
        """What became of each: {"argv", "status", "ended", "asked"}."""
        return [{"argv": c.argv, "status": c.status, "ended": c.ended, "asked": c.asked} for c in self._started]
