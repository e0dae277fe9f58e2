"""How a user's script ends its process: with the exit code that Python would give it, and waiting for nobody."""

from __future__ import annotations

import os
import sys
from typing import Optional, Tuple

PLAIN_FAILURE = 1
_EXIT_SECONDS = 30.0  # for what a script that failed has registered with atexit


def exit_code(ended: SystemExit) -> Tuple[int, Optional[str]]:
    """The exit code that Python would give to `sys.exit`'s argument, and the argument's text where it is no number."""
    try:
        if ended.code is None:
            return 0, None
        if isinstance(ended.code, int):
            return (ended.code & 0xFF if -(1 << 63) <= ended.code < 1 << 63 else 0xFF), None
        message = str(ended.code)
    except Exception:  # a value whose own methods fail
        message = "(the argument of sys.exit could not be read)"
    show(message + "\n")
    return PLAIN_FAILURE, message[:1000]


def show(text: str) -> None:
    """Onto standard error, or where the script has closed or replaced that, onto the rank's log; if there is room."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        try:
            os.write(2, text.encode("utf-8", "replace"))
        except OSError:
            pass


def finish(code: int) -> None:
    """End the script's process: a success as Python ends, a failure without waiting for anybody.

    An MPI library finalised at exit, or a thread that is no daemon, would wait for ranks that will never answer; what
    the script registered with atexit gets a while for that.
    """
    import atexit
    import threading

    if code == 0:
        sys.exit(0)
    late = threading.Timer(_EXIT_SECONDS, os._exit, (code,))
    late.daemon = True
    try:
        late.start()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # closed, replaced, or on a full disk
                pass
    finally:
        os._exit(code)
