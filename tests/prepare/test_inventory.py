"""An environment is never removed under a run that has just taken it, whatever else happens at that time."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from trainkit.prepare.entries import READY, Record, reused
from trainkit.prepare.inventory import Entry, entries, remove, remove_unfinished

DIGEST = "0123456789abcdef"


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    """An environment that no run uses, last used long ago."""
    folder = tmp_path / "envs" / DIGEST
    folder.mkdir(parents=True)
    (folder / READY).write_text('{"name": "tests"}')
    os.utime(folder / READY, (1, 1))
    (one,) = entries(tmp_path)
    return one


def run_in(root: Path) -> Path:
    """The record of what a run's environment is, which is not there yet."""
    folder = root / "runs" / "birds" / "birds_1_0"
    folder.mkdir(parents=True)
    return folder / "environment.json"


def test_what_a_run_takes_while_it_is_being_removed_is_put_back(tmp_path: Path, entry: Entry) -> None:
    record = run_in(tmp_path)
    os.mkfifo(record)  # whoever reads it waits for its writer
    ends: list[str] = []
    remover = threading.Thread(target=lambda: ends.append(remove(tmp_path, entry)))
    remover.start()
    with record.open("w") as first:  # it has asked who uses it
        other = record.with_name("other")
        other.write_text(json.dumps({"digest": DIGEST}))
        other.replace(record)
        first.write('{"digest": "another"}')
    remover.join(60)
    assert ends == ["the run birds_1_0 uses it"] and (entry.path / READY).exists()


def test_what_is_just_being_removed_is_not_taken(entry: Entry) -> None:
    def usable(ready: Record) -> bool:
        entry.path.rename(entry.path.with_name(f".{DIGEST}.removed"))
        return True

    assert reused(entry.path, usable) is None


def test_what_a_killed_remover_left_goes_unless_a_run_has_taken_it(tmp_path: Path, entry: Entry) -> None:
    aside = entry.path.with_name(f".{DIGEST}.removed")
    entry.path.rename(aside)
    record = run_in(tmp_path)
    record.write_text(json.dumps({"digest": DIGEST}))
    remove_unfinished(tmp_path, 0.0)
    assert (entry.path / READY).exists() and not aside.exists()
    record.write_text(json.dumps({"digest": "another"}))
    aside.mkdir()
    remove_unfinished(tmp_path, 0.0)  # what is in its place stays
    assert (entry.path / READY).exists() and not aside.exists()
    entry.path.rename(aside)
    remove_unfinished(tmp_path, 0.0)
    assert not entry.path.exists() and not aside.exists()
    assert remove(tmp_path, entry) == "it is gone already"
