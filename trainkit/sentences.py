"""Verdicts as people read them: one sentence, then what explains it. Pure, but for the end of a log that is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
_TAIL_LINES = 20
_SENTENCE_CHARACTERS = 300  # of an exception's message in the one sentence; the traceback has it all


def ranks(numbers: Sequence[int]) -> str:
    """ "rank 3", "ranks 0, 1"."""
    return f"rank {numbers[0]}" if len(numbers) == 1 else "ranks " + ", ".join(map(str, numbers))


def exit_words(status: int) -> str:
    """What an exit status says, as the end of a sentence."""
    from trainkit.boot.processes import signal_name

    if status < 0:
        return f"was killed by {signal_name(-status)}"
    if status > 128:  # as a shell tells of it
        return f"exited with code {status}: a process that it had started was killed by {signal_name(status - 128)}"
    return f"exited with code {status}"


def summary(verdict: Record) -> str:
    """One sentence: which rank, what, where."""
    who = f"rank {verdict['rank']}"
    place = f" at {verdict['file']}:{verdict['line']}" if verdict.get("file") else ""
    if verdict.get("exception"):
        message = str(verdict.get("message") or "").strip().splitlines()
        what = f"{verdict['exception']}: {_short(message[0])}" if message else str(verdict["exception"])
        extra = " (out of memory)" if verdict["kind"] == "memory" else ""
        return f"{who} failed with {what}{extra}{place}"
    if verdict.get("signal"):
        extra = ", by the kernel, for want of memory" if verdict["kind"] == "memory" else ""
        return f"{who} was killed by {verdict['signal']}{extra}{place}"
    threads = verdict.get("threads") or []
    thread = f" after its thread {threads[0]['thread']} had failed with {threads[0]['exception']}" if threads else ""
    return f"{who} exited with code {verdict.get('exit_code')}{thread}"


def _short(text: str) -> str:
    return text if len(text) <= _SENTENCE_CHARACTERS else text[:_SENTENCE_CHARACTERS] + " ..."


def tail(log: Path, lines: int = _TAIL_LINES) -> list[str]:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16384))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def last_line(text: str) -> str:
    """The last line of what a program printed that says something; empty where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def describe(verdict: Record) -> str:
    """A verdict as people read it: the sentence, the traceback or last lines, victims, the log."""
    parts = [str(verdict.get("summary") or "The run failed.")]
    if verdict.get("stage") not in (None, "Running"):
        parts[0] += f" (stage: {verdict['stage']})"
    if verdict.get("traceback"):
        parts.append(str(verdict["traceback"]).rstrip())
    elif verdict.get("output"):
        parts.append(str(verdict["output"]).rstrip())
    elif verdict.get("tail"):
        parts.append("Last lines of its log:\n" + "\n".join("  " + line for line in verdict["tail"]))
    if verdict.get("victims"):
        parts.append(f"Victims, which failed or were ended because of it: {ranks(verdict['victims'])}.")
    if verdict.get("log"):
        parts.append(f"Log: {verdict['log']}")
    return "\n".join(parts)
