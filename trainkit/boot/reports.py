"""What is reported of a node whose part in an attempt never began. Writes attempts/K/nodes/N.end.json."""

from __future__ import annotations

import socket
import sys
import time

from trainkit.boot.rundir import AttemptDir, make_private, publish
from trainkit.errors import TrainkitError


def not_begun(attempt: AttemptDir, node: int, error: TrainkitError) -> int:
    """Say why, for the verdict and in the log; the exit status."""
    sys.stderr.write(error.message + "\n")
    make_private(attempt.nodes)
    end = {"node": node, "name": socket.gethostname(), "ended": time.time(), "problem": error.message, "commands": []}
    told = {"reason": "", "lost": {}, "hung": "", "elastic": False}
    publish(attempt.agent_end(node), {**end, **told, "transient": bool(getattr(error, "transient", False))})
    return 1
