"""A TCP port of its own for each job on this machine.

Ports are taken from below the kernel's ephemeral range, so that no outgoing connection gets one by chance, and each is
held by a lock file for as long as the job's agent lives: two jobs that start at once never meet on one port.
"""

from __future__ import annotations

import os
import random
import socket
import stat
import tempfile
from pathlib import Path
from typing import Tuple

from trainkit.boot.processes import hold_lock
from trainkit.boot.rundir import make_private
from trainkit.errors import LaunchError

_FIRST, _LAST = 20000, 32000


def reserve_port(address: str) -> Tuple[int, int]:
    """A free port on `address` and the handle that holds it. Raises LaunchError where all are taken."""
    directory = _own_directory(Path(tempfile.gettempdir()) / ("trainkit-ports-%d" % os.getuid()))
    for port in random.SystemRandom().sample(range(_FIRST, _LAST), 500):
        handle = hold_lock(directory / str(port))
        if handle is None:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
                return port, handle
            except OSError:
                os.close(handle)
    raise LaunchError("No free port between %d and %d was found on %s." % (_FIRST, _LAST, address), transient=True)


def _own_directory(path: Path) -> Path:
    """The directory, if nobody else may write there: another user may have been the first to make that name."""
    found = os.lstat(make_private(path))
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise LaunchError(
            "%s on %s belongs to user %d, with mode %o: ports are kept there, so only user %d may write to it. Have it "
            "removed, or set TMPDIR." % (path, socket.gethostname(), found.st_uid, found.st_mode & 0o7777, os.getuid())
        )
    return path
