"""Agents' notes of logs: what moved is noted, truncation is survived, and a log that never ends keeps head and tail."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from trainkit.boot.lognotes import LEAST_LIMIT_BYTES, LogNotes, NotesFile
from trainkit.boot.rundir import AttemptDir, RunDir, make_private
from trainkit.merged import merged
from trainkit.ranklog import Notes, RankLog


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptDir:
    found = RunDir(tmp_path / "run").attempt(1)
    make_private(found.logs)
    return found


def noted(attempt: AttemptDir, node: int = 0) -> list[tuple[int, int, int]]:
    fd = os.open(attempt.notes(node), os.O_RDONLY)
    found = [(note.rank, note.beginning, note.size) for note in NotesFile(fd).more()]
    os.close(fd)
    return found


def look(notes: LogNotes) -> None:
    """One look, as soon as it is due."""
    notes._renew = 0.0
    notes._look(time.monotonic())


def add(attempt: AttemptDir, rank: int, text: str) -> None:
    with attempt.rank_log(rank).open("a") as log:
        log.write(text)


def test_what_moved_is_noted_and_nothing_else(attempt: AttemptDir) -> None:
    notes = LogNotes(attempt, 0, [4, 5])
    look(notes)
    add(attempt, 5, "one\n")
    look(notes)
    look(notes)
    add(attempt, 4, "four\n")
    add(attempt, 5, "two\n")
    notes.close()
    assert noted(attempt) == [(5, 0, 4), (4, 0, 5), (5, 0, 8)]


def test_another_agent_of_the_attempt_goes_on(attempt: AttemptDir) -> None:
    for text in ("one\n", "two\n"):
        notes = LogNotes(attempt, 0, [0])
        add(attempt, 0, text)
        notes.close()
    assert noted(attempt) == [(0, 0, 4), (0, 0, 8)]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_that_was_truncated_or_replaced_is_read_from_its_new_beginning(
    attempt: AttemptDir, replaced: bool
) -> None:
    notes = LogNotes(attempt, 0, [0])
    add(attempt, 0, "old, and longer than what comes\n")
    look(notes)
    if replaced:
        attempt.rank_log(0).rename(attempt.logs / "rank-0.log.1")
        attempt.rank_log(0).touch()
    else:
        os.truncate(attempt.rank_log(0), 0)
    look(notes)
    add(attempt, 0, "new\n")
    notes.close()
    assert noted(attempt)[-1] == (0, 1, 4)
    assert [line.text for line in merged(attempt.path.parents[1])] == ["new"]


def test_a_log_whose_name_is_gone_is_still_noted(attempt: AttemptDir) -> None:
    notes = LogNotes(attempt, 0, [0])
    with attempt.rank_log(0).open("a") as log:
        log.write("one\n")
        log.flush()
        look(notes)
        attempt.rank_log(0).rename(attempt.logs / "elsewhere")
        log.write("two\n")
    notes.close()
    assert noted(attempt) == [(0, 0, 4), (0, 0, 8)]


def test_a_log_that_a_network_disk_has_lost_is_opened_again(attempt: AttemptDir) -> None:
    notes = LogNotes(attempt, 0, [0])
    add(attempt, 0, "one\n")
    look(notes)
    os.close(notes._logs[0].fd)
    notes._logs[0].fd = 1 << 20  # what is asked of it is an error, as of a file that its server has forgotten
    notes._look(0.0)
    look(notes)
    add(attempt, 0, "two\n")
    notes.close()
    assert noted(attempt) == [(0, 0, 4), (0, 1, 4), (0, 1, 8)]


class Slow(threading.Thread):
    """Whoever waits for it has waited in vain, at once."""

    def join(self, timeout: float | None = None) -> None:
        if timeout is None:
            super().join()


def test_what_is_still_being_cut_at_the_end_stays_open(attempt: AttemptDir) -> None:
    notes = LogNotes(attempt, 0, [0])
    add(attempt, 0, "one\n")
    look(notes)
    over = threading.Event()
    notes._cutting = Slow(target=over.wait, daemon=True)
    notes._cutting.start()
    attempt.rank_log(0).unlink()
    attempt.rank_log(0).touch()
    before = notes._logs[0].fd, notes._fd
    notes.close()
    assert (notes._logs[0].fd, notes._fd) == before and all(os.fstat(fd) for fd in before)
    over.set()
    notes._cutting.join()
    notes.close()


def test_a_log_over_its_limit_keeps_its_head_and_its_tail(attempt: AttemptDir) -> None:
    notes = LogNotes(attempt, 0, [0], LEAST_LIMIT_BYTES)
    lines = [f"line {number}\n" for number in range(200_000)]
    for start in range(0, len(lines), 5000):
        add(attempt, 0, "".join(lines[start : start + 5000]))
        look(notes)
        if notes._cutting is not None:
            notes._cutting.join()
    notes.close()
    there = attempt.rank_log(0).stat()
    assert there.st_size == sum(map(len, lines))
    assert there.st_blocks * 512 < 3 * LEAST_LIMIT_BYTES
    read = [line.text for line in merged(attempt.path.parents[1])]
    assert read[0] == "line 0"
    assert read[-1] == "line 199999"
    [gap] = [number for number, text in enumerate(read) if "left out" in text]
    assert read[gap] == f"... {(there.st_size - LEAST_LIMIT_BYTES) / 1e6:.1f} MB left out ..."
    assert not any("\0" in text for text in read)
    place = Notes(attempt).place(0)
    assert (place.begin, place.end - place.begin) == (LEAST_LIMIT_BYTES // 2, place.end - LEAST_LIMIT_BYTES // 2)
    log = RankLog(attempt.rank_log(0), lambda: place)
    pieces = []
    while log.at < there.st_size:
        pieces.append(log.text(there.st_size))
    assert len(b"".join(pieces)) < LEAST_LIMIT_BYTES + 8192


def test_a_file_system_that_cannot_leave_out_is_told_of_once(
    attempt: AttemptDir, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = LogNotes(attempt, 0, [0], LEAST_LIMIT_BYTES)
    add(attempt, 0, "a line\n" * 50_000)
    notes._logs[0].fd = os.open(attempt.rank_log(0), os.O_RDONLY)  # of which nothing can be left out
    look(notes)
    assert notes._cutting is not None
    notes._cutting.join()
    add(attempt, 0, "a line\n" * 50_000)
    look(notes)
    assert capsys.readouterr().err.count("cannot leave out a file's middle") == 1
    notes.close()
    assert len(list(merged(attempt.path.parents[1]))) == 100_000


def test_no_room_for_notes_ends_nothing(attempt: AttemptDir) -> None:
    notes = LogNotes(attempt, 0, [0])
    os.dup2(os.open("/dev/full", os.O_RDWR), notes._fd)
    add(attempt, 0, "one\n")
    look(notes)
    notes.close()
    assert [line.text for line in merged(attempt.path.parents[1])] == ["one"]
