"""Whether a rank of this node has failed, by its own record: for ranks that the agent has not started itself.

An mpirun may wait for ever after a rank of another node has failed though its record is there. Reads attempts/K/ranks.
"""

from __future__ import annotations

import time
from typing import Sequence

from trainkit.boot.rundir import AttemptDir, read_json
from trainkit.errors import WorkspaceException

_LOOK_SECONDS = 0.5


class Failing:
    """Looks at the records of some ranks, twice a second at most."""

    def __init__(self, attempt: AttemptDir, ranks: Sequence[int]) -> None:
        self._attempt, self._left, self._looked = attempt, set(ranks), 0.0

    def any(self) -> bool:
        """Whether one of them has ended badly."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        for rank in sorted(self._left):
            try:
                record = read_json(self._attempt.rank_record(rank))
            except (WorkspaceException, OSError):  # damaged: somebody else will say so; or the disk does not answer
                record = None
            if record is None:
                continue
            self._left.discard(rank)
            if record.get("exit_code") != 0 or record.get("signal"):
                return True
        return False
