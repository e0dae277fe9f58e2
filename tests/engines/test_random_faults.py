"""The soak's draws: the same for everybody, all faults among them, and verdicts that name what was hurt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engines.random_faults import AGENT, FAULTS, NODES, OF_NODES, RANK, SHIM, SILENT, STARTER, Planting, draw


@pytest.mark.parametrize("launcher", FAULTS)
def test_a_number_is_always_the_same_draw_and_all_faults_are_drawn(launcher: str) -> None:
    draws = [draw(5, launcher, number) for number in range(100)]
    assert draws == [draw(5, launcher, number) for number in range(100)]
    assert draws != [draw(6, launcher, number) for number in range(100)]
    assert {each.fault for each in draws} == set(FAULTS[launcher])
    for each in draws:
        assert each.victim in range(NODES) and each.rank in range(each.world)
        assert each.fault != STARTER or each.spread in ("torchrun", "mpi")
        assert each.restarts or not each.min_nodes
        assert each.words()[-2:] == ["--", str(each.ticks)]


def planting(fault: str, tmp_path: Path) -> Planting:
    """A fault of this kind on node 1, whose first rank is 1 or 2, that nobody has planted yet."""
    bed: Any = SimpleNamespace(names=["node1", "node2"])
    drawn = next(d for n in range(1000) if (d := draw(5, "ssh", n)).fault == fault and d.victim == 1)
    made = Planting(bed, drawn, tmp_path)
    made._note()
    return made


@pytest.mark.parametrize("fault", [AGENT, SILENT])
def test_a_verdict_names_the_node(fault: str, tmp_path: Path) -> None:
    hurt = planting(fault, tmp_path)
    assert hurt.names("node 1 (node2) was lost: its agent ended or was killed.")
    assert not hurt.names("node 0 (node1) was lost: its agent ended or was killed.")
    assert hurt.names("ssh cannot log in to node2") == (fault in OF_NODES)


def test_a_verdict_names_the_rank(tmp_path: Path) -> None:
    hurt = planting(RANK, tmp_path)
    rank, other = hurt.drawn.rank, 3 - hurt.drawn.rank
    assert hurt.names(f"rank {rank} was killed by SIGKILL")
    assert not hurt.names(f"rank {other} was killed by SIGKILL")
    shim = planting(SHIM, tmp_path)
    assert shim.names(f"Ranks 0 and {shim.drawn.rank} ended without a record: killed from outside.")
