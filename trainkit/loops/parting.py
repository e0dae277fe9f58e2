"""How a rank leaves the others: a failure ends them all at once, a success waits for nobody longer than it must.

A rank that fails while others wait for its part of a sum must not finalise MPI, nor close connections politely: both
would wait for ranks that never answer. A trainkit job's own rank records do this for their job; here it is done for
scripts that mpirun, srun, torchrun or horovodrun started with no trainkit command.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from trainkit import exits
from trainkit.errors import TrainkitError

_GRACE_SECONDS = 10.0  # for other ranks to come to the end too, where this one ends with an exit code
_EXIT_SECONDS = 30.0  # for what the script has registered with atexit
_VICTIM_SECONDS = 2.0  # in which a launcher sees the rank that failed first
_leaving: list[Callable[[], None]] = []  # torch.distributed's end, the meeting file's
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # of gloo
_worlds: list[Any] = []  # mpi4py's module, where a world of MPI was joined


class RankLost(TrainkitError):
    """Another rank has ended while this one waited for it: that rank's own error is the cause."""


def refuse_lost(error: BaseException) -> None:
    """Raises RankLost where an error of torch's means that another rank has ended."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST):
        raise RankLost(
            "Another rank has ended while this one waited for its part of a sum; what that rank printed is the cause."
        ) from error


class _State:
    watched = False
    failed = False  # this process ends by an exception: nothing is parted from in order


_state = _State()


def at_parting(leave: Callable[[], None]) -> None:
    """Call `leave` when this rank ends without a failure."""
    _leaving.append(leave)


def watch(in_job: bool, mpi: Any = None) -> None:
    """From now on a failure of this process ends the other ranks too, by `mpi` (mpi4py's module) where it is given."""
    if mpi is not None and mpi not in _worlds:
        _worlds.append(mpi)
    if _state.watched:
        return
    _state.watched = True
    exits.watch_end()
    atexit.register(_part, in_job)
    if in_job:  # the job's record of this rank ends the others
        return
    shown = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        shown(kind, error, trace)
        if isinstance(error, RankLost):
            time.sleep(_VICTIM_SECONDS)
        if threading.current_thread() is threading.main_thread():
            _end_all(1)

    sys.excepthook = excepthook


def _end_all(code: int) -> None:
    """End this process, and with it the others of its launch, after what the script has registered with atexit."""
    late = threading.Timer(_EXIT_SECONDS, _abort, (code,))
    late.daemon = True
    late.start()
    _state.failed = True
    try:
        atexit._run_exitfuncs()
    finally:
        _abort(code)


def _abort(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    for mpi in _worlds:
        mpi.COMM_WORLD.Abort(code)
    os._exit(code)


def _part(in_job: bool) -> None:
    """At the process's end: part from the others in order, or end them where this rank alone ends with an exit code."""
    if _state.failed:
        return
    code = exits.exit_code()
    if code and _worlds and not in_job and not _others_come():
        _abort(code)
    for leave in reversed(_leaving):
        with suppress(Exception):  # the others may be gone
            leave()
    _leaving.clear()


def _others_come() -> bool:
    """Whether all ranks come to their end within the grace: MPI's own end would wait for them without limit."""
    request = _worlds[0].COMM_WORLD.Ibarrier()
    deadline = time.monotonic() + _GRACE_SECONDS
    while not request.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
