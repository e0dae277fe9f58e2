"""Jobs whose ranks are killed and asked to end at random instants end with the bits of an uninterrupted one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from trainkit import Workspace
from trainkit.testing import resumes


@pytest.mark.parametrize("seed", [0, 1])
def test_kills_and_questions_at_random_instants_change_no_bit(tmp_path: Path, seed: int) -> None:
    workspace = Workspace.create("campaign", path=str(tmp_path))
    settings = {"ranks": 2, "epochs": 20, "backend": "gloo"}
    expected = resumes.whole(workspace, tmp_path / "whole", spread="fork", **settings)  # type: ignore[arg-type]
    done = resumes.interrupt(
        workspace, tmp_path / "hurt", expected, random.Random(seed), kills=2, terms=1, span_seconds=4.0, **settings
    )  # type: ignore[arg-type]
    assert done.wrong == []
    assert done.kills + done.terms >= 2
    assert len(expected["rows"]) == 20
