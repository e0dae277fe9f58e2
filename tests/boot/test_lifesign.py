"""A head's agent sees in the run's files that its job was given up; a disk that does not answer tells it nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.boot import failing, lifesign
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.rundir import RunDir, publish


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path)
    prepare_attempt(made.attempt(1))
    return made


def sign(run: RunDir) -> lifesign.LifeSign:
    made = lifesign.LifeSign(run, run.attempt(1))
    made.step()
    return made


def test_a_job_whose_run_has_ended_or_went_on_ends(run: RunDir) -> None:
    assert not sign(run).ended_by
    assert run.attempt(1).beat.exists()
    publish(run.state, {"status": "Failed"})
    assert "the run has ended" in sign(run).ended_by
    prepare_attempt(run.attempt(2))
    publish(run.attempt(2).handle, {"handle": "2"})
    assert "started again" in sign(run).ended_by


def test_a_disk_that_does_not_answer_ends_nothing(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(lifesign, "overtaken", stale)
    assert not sign(run).ended_by
    looking = failing.Failing(run.attempt(1), [0])
    publish(run.attempt(1).rank_record(0), {"exit_code": 1})
    with monkeypatch.context() as patched:
        patched.setattr(failing, "read_json", stale)
        assert not looking.any()
    looking._looked = 0.0
    assert looking.any()
