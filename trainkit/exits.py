"""How this process ends, for the runs that it keeps alive itself: cleanly, by an exception, by an exit code.

Python tells nobody the code of `sys.exit(3)`, so `sys.exit` is watched; one that the program catches does not count. A
process that is killed says nothing: its lock does (see `offline`).
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from trainkit.offline import Session

_sessions: list[Session] = []
_RETURNS = ("RETURN_VALUE", "RETURN_CONST")


class _Ending:
    """What is known so far about this process's end."""

    error: BaseException | None = None
    exit_code: Any = None
    watched = False
    program: FrameType | None = None  # the main thread's outermost frame: where the program's code stopped


_ending = _Ending()


def watch(session: Session) -> None:
    """Record this process's end in the session, when it comes."""
    watch_end()
    _sessions.append(session)


def watch_end() -> None:
    """From now on `exit_code` can tell how this process ends."""
    if not _ending.watched:
        _ending.watched = True
        _install()


def exit_code() -> int:
    """The exit code with which this process is ending, for what atexit calls."""
    return _facts()[0]


def _install() -> None:
    if threading.current_thread() is threading.main_thread():
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
        _ending.program = frame
    shown, leave = sys.excepthook, sys.exit

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _ending.error = error
        shown(kind, error, trace)

    def exit(status: Any = None, /) -> Any:
        if threading.current_thread() is threading.main_thread():
            _ending.exit_code = status
        leave(status)

    sys.excepthook, sys.exit = excepthook, exit
    atexit.register(_at_exit)
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """A forked child must not keep its parent's run alive."""
    for session in _sessions:
        session.release()
    _sessions.clear()


def _returned() -> bool:
    """Whether the program ran to its last line, so that an earlier `sys.exit` was caught."""
    import opcode

    frame = _ending.program
    if frame is None or frame.f_lasti < 0:
        return False
    code = frame.f_code.co_code
    return frame.f_lasti < len(code) and opcode.opname[code[frame.f_lasti]] in _RETURNS


def _at_exit() -> None:
    for session in list(_sessions):
        if not session.ended:
            code, facts = _facts()
            session.end(code, **facts)


def _facts() -> tuple[int, dict[str, Any]]:
    """This process's exit code, and what its record says about an exception."""
    if _ending.error is not None:
        from trainkit.boot.script import describe, here

        return 1, describe(_ending.error, here())
    status = _ending.exit_code
    if status is None or status == 0 or _returned():
        return 0, {}
    if isinstance(status, int):
        return status & 0xFF, {}
    return 1, {"exit_message": str(status)[:1000]}
