"""SIGTERM as a question: training answers it between two steps, saves, and ends with a code: "run me again"."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from trainkit.outcome import RUN_AGAIN

EXIT_CODE = RUN_AGAIN  # EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of schedulers: Slurm sends SIGUSR1 where --signal asks for it
_WORKER_SECONDS = 60.0
_ENDING_SECONDS = 10.0


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

    Where training has ended with Preempted, a repeated signal is passed over for the seconds in which the process ends.
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

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        last = [number for number, before in self._before.items() if before == signal.SIG_DFL]
        self._restore()
        if isinstance(error, Preempted):
            _end_in_peace(last)

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
    for number in SIGNALS:
        if signal.getsignal(number) is _while_ending:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)


_ending_since = 0.0


def _end_in_peace(numbers: list[int]) -> None:
    """Everything is saved: a signal that comes again while the process ends must not take its exit code from it."""
    global _ending_since
    _ending_since = time.monotonic()
    for number in numbers:
        signal.signal(number, _while_ending)
    atexit.register(_ignore_what_is_left)


def _while_ending(number: int, frame: FrameType | None) -> None:
    """The signal's default again, if the process has not ended for a while: somebody has caught the exception."""
    if time.monotonic() - _ending_since > _ENDING_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _ignore_what_is_left() -> None:
    """At the interpreter's end, which gives handlers of Python back to the default before it is through."""
    for number in SIGNALS:
        if signal.getsignal(number) is _while_ending:
            signal.signal(number, signal.SIG_IGN)


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
