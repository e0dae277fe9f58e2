"""What a run's attempts were found to have, beside how they ended: ranks that hung, nodes that differ or are slow."""

from __future__ import annotations

from trainkit.boot.rundir import AttemptDir, RunDir, read_json, read_lines

_MOST = 20  # of one attempt


def notes_of(run: RunDir) -> list[str]:
    """One sentence each, oldest first; what happened in a later attempt says in which."""
    found = []
    for attempt in run.attempts():
        where = f"attempt {attempt.number}: " if attempt.number > 1 else ""
        found += [where + words for words in _of(attempt)[:_MOST]]
    return found


def _of(attempt: AttemptDir) -> list[str]:
    compared = (read_json(attempt.preflight) or {}).get("notes", [])
    hung = [line["words"] for line in read_lines(attempt.hangs) if "words" in line]
    return [str(words) for words in (*compared, *hung)]
