"""What a store does to the run's record, for every kind of fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainkit import events
from trainkit.boot.context import RunContext
from trainkit.boot.ranks import Rank
from trainkit.loops import store
from trainkit.loops.history import History
from trainkit.loops.position import Position
from trainkit.loops.world import alone


def _store(run: Path, attempt: int) -> store.Store:
    """A store of a fit in this attempt of a run; it keeps no checkpoints."""
    context = RunContext(run, "rank-0", attempt, Rank())
    recording: Any = SimpleNamespace(run=context, attempt=attempt, folder=run / "checkpoints")
    fit: Any = SimpleNamespace(world=alone("cpu"), at=Position(), history=History())
    return store.Store(fit, recording, None, None, 1, None)


def test_a_fit_that_begins_again_leaves_the_metrics_of_the_complete_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ends", {})
    first = _store(tmp_path, 1).recording.run
    assert first is not None
    first.log("loss", 1.0)
    saved: Any = SimpleNamespace(path=tmp_path / "checkpoints" / "step-1", ranks=[{"marks": first.mark()}])
    first.log("loss", 20.0)  # of the second fit, which has no checkpoint
    assert _store(tmp_path, 2).take_up_record(saved, complete=True)
    again = _store(tmp_path, 2)
    again.begin_again()
    assert again.recording.run is not None
    again.recording.run.log("loss", 2.0)
    assert events.metrics(tmp_path) == {"loss": [1.0, 2.0]}


def test_a_fit_without_any_before_it_begins_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_ends", {})
    first = _store(tmp_path, 1).recording.run
    assert first is not None
    first.log("loss", 1.0)
    _store(tmp_path, 2).begin_again()
    assert events.metrics(tmp_path) == {}
