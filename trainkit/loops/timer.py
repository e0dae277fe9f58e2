"""Where the time of a training step goes, and the setting that helps with the largest waste."""

from __future__ import annotations

from time import perf_counter

import torch

from trainkit.boot import pulse

PARTS = ("data", "forward", "backward", "communication", "optimizer")
_SAMPLED = 16  # on a GPU, one step in so many is timed with events
_WASTE = 0.1  # of a step; less is not worth a word
_HELPS = {
    "data": "more workers=, a source that keeps what it has decoded (trainkit.loops.images), or smaller pictures",
    "communication": "a larger batch=, accumulate= (one exchange for several batches), or fewer ranks on a machine",
}
_SMALL_SECONDS = 1e-3  # of computing in a step: then it is Python that takes the time


class StepTimer:
    """Adds up the seconds of each part of a step. On a GPU, whose work goes on behind Python, by events."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = 0
        self._device = device if device.type == "cuda" else None
        self._pulse, self._before = pulse.current(), 0
        self._last = perf_counter()
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._mark: torch.cuda.Event | None = None

    def start(self, done: int = 0) -> None:
        """Begin a stretch of steps after so many of the fit: what came before belongs to none."""
        if not self.steps:
            self._before = done
            self._pulse.fit(done)
        self._pulse.phase(pulse.DATA)
        self._last = perf_counter()
        self._mark = None

    def lap(self, part: str) -> float:
        """What has passed since the last call was `part`; returns the time, by `perf_counter`."""
        now = perf_counter()
        if self._device is not None and part != "data":
            self._lap_on_device(part)
        else:
            self.seconds[part] += now - self._last
        self._last = now
        if part == "data":
            self._pulse.phase(pulse.COMPUTING)
        elif part == "optimizer":
            self._pulse.phase(pulse.DATA)
        return now

    def step(self) -> None:
        """A step is over."""
        self.steps += 1
        self._pulse.step(self._before + self.steps)
        if self._device is not None:
            self._mark = self._event() if self.steps % _SAMPLED == 0 else None

    def _event(self) -> torch.cuda.Event:
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _lap_on_device(self, part: str) -> None:
        if self._mark is not None:
            event = self._event()
            self._events.append((part, self._mark, event))
            self._mark = event

    def read(self) -> dict[str, float]:
        """Seconds of each part so far; on a GPU this waits for it."""
        if self._events:
            torch.cuda.synchronize(self._device)
            for part, begin, end in self._events:
                self.seconds[part] += begin.elapsed_time(end) / 1000 * _SAMPLED
            self._events.clear()
        return dict(self.seconds)


def advice(seconds: dict[str, float], steps: int, precision: str, channels_last: bool, compiled: bool) -> str:
    """One sentence: the parts of a step, and what helps with the largest that can be made smaller."""
    whole = sum(seconds.values())
    if not steps or whole <= 0:
        return ""
    shares = {part: value / whole for part, value in seconds.items()}
    words = ", ".join(f"{part} {share:.0%}" for part, share in shares.items() if share >= 0.005)
    text = f"A step took {whole / steps * 1000:.3g} ms: {words}."
    waste = max(_HELPS, key=lambda part: shares[part])
    if shares[waste] >= _WASTE:
        return f"{text} The largest waste is {waste}; what helps: {_HELPS[waste]}."
    if (whole - seconds["data"] - seconds["communication"]) / steps < _SMALL_SECONDS:
        return f"{text} The model is small: a larger batch=" + ("" if compiled else " or compile=True") + " helps."
    untried = [] if precision != "float32" else ["precision='bf16'"]
    untried += ["the optimizer's fused=True"] if shares["optimizer"] >= _WASTE else []
    untried += [] if channels_last else ["channels_last=True (for convolutions)"]
    return f"{text} Computing takes nearly all of it" + (f"; to try: {', '.join(untried)}." if untried else ".")
