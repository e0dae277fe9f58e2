"""SIGTERM as a question: training answers it between two steps, saves, and ends with a code: "run me again"."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: run me again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of schedulers: Slurm sends SIGUSR1 where --signal asks for it
_WORKER_SECONDS = 60.0


class Preempted(SystemExit):
    """Training was asked to end and has saved: the process ends with code 75. The text says how to go on."""

    code: int

    def __init__(self, message: str = "Training was asked to end, and was saved: run it again to go on.") -> None:
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return Preempted, (self.message,)


class Preemption:
    """While entered, SIGTERM and SIGUSR1 only set `asked`; afterwards the handlers that were there are back.

    In another thread than the main one, where Python takes no handlers, `asked` stays False. A signal that the process
    ignores stays ignored. A forked child, such as a data loader's worker, has the handlers that were there before.
    """

    asked = False

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:  # None: of C code, which Python cannot restore
                    self._before[number] = before
                    signal.signal(number, self._ask)
            _entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """The handler: it only takes a note, so that it may come at any instant, and again while saving."""
        self.asked = True

    def _restore(self) -> None:
        if self in _entered:
            _entered.remove(self)
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) == self._ask:  # else somebody has taken the signal over in the meantime
                signal.signal(number, before)


_entered: list[Preemption] = []


def _in_child() -> None:
    """What a forked child does first; it has one thread, which is its main one."""
    while _entered:
        _entered[-1]._restore()


os.register_at_fork(after_in_child=_in_child)


def patient() -> None:
    """For a data loader's worker: SIGTERM is its parent's to answer, which needs it for a step more.

    Schedulers send SIGTERM to all processes at once. A worker that died of it would take the step with it that its
    parent wants to finish. A second SIGTERM, or a minute, ends the worker all the same.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _wait_a_while)


def _wait_a_while(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _WORKER_SECONDS)
