"""What a launcher last knew of a job, so that a cluster is asked seldom however often its launcher is polled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from trainkit.errors import LaunchError
from trainkit.job import Status

_FINAL = ("ended", "lost")


@dataclass
class Seldom:
    """Statuses by handle; each is asked for at most once in `seconds`, and never again once it is final."""

    seconds: float
    _last: dict[str, Status] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)
    _answered: dict[str, float] = field(default_factory=dict)

    def status(self, handle: str, ask: Callable[[], Status], silent: Callable[[Status, float, str], Status]) -> Status:
        """What `ask` says, or said a moment ago; where it raises LaunchError, what `silent` makes of that.

        `silent` gets the last status, for how many seconds nobody has answered, and the error's message.
        """
        now = time.monotonic()
        last = self._last.get(handle)
        if last is not None and (last.phase in _FINAL or now - self._asked[handle] < self.seconds):
            return last
        self._asked[handle] = now
        self._answered.setdefault(handle, now)
        try:
            self._last[handle] = ask()
            self._answered[handle] = time.monotonic()
        except LaunchError as error:
            self._last[handle] = silent(last or Status("queued"), now - self._answered[handle], error.message)
        return self._last[handle]

    def forget(self, handle: str) -> None:
        """Ask anew next time: something was done that changes the answer."""
        if handle in self._last and self._last[handle].phase not in _FINAL:
            del self._last[handle]
