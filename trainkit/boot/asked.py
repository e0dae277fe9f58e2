"""Whether somebody has asked this process to end, by a signal."""

from __future__ import annotations

import signal

ASKED = "Asked to end before the job began."  # what an agent says of itself then


class Asked:
    """Takes SIGTERM and SIGINT for requests to end, from its making on; one for all that the process does."""

    def __init__(self) -> None:
        self.yet = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.yet = True
