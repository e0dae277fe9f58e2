"""Launchers x spreads: each of them once in few launches, others at each commit; Ray's cells are in test_ray.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines import matrix, slurmd
from tests.engines.matrix import CELLS, FEW, LAUNCHERS, NODES, SPREADS, Cell, Matrix
from tests.engines.ondemand import checked_out
from tests.engines.testbed import Testbed, missing

OTHERS = 2
CELL = Cell("ssh", "fork", 2)
PLACES = ["node1", "node2"]


@pytest.fixture(scope="module")
def cells() -> Iterator[Matrix]:
    """A testbed of this module's own, for Slurm is started on it."""
    reason = missing() or slurmd.missing()
    if reason:
        pytest.skip(reason)
    with Testbed(nodes=NODES) as bed:
        yield Matrix(bed)


@pytest.mark.engine
@pytest.mark.parametrize("cell", [cell for cell in FEW if cell.launcher != "ray"], ids=str)
def test_a_cell_ends_as_one_process_does(cells: Matrix, cell: Cell) -> None:
    if cell.spread == "horovod":
        pytest.importorskip("horovod")
    cells.run(cell)


@pytest.mark.engine
@pytest.mark.parametrize("number", range(OTHERS))
def test_other_cells_at_each_commit(cells: Matrix, number: int) -> None:
    cell = matrix.rotating(checked_out(), OTHERS, [name for name in LAUNCHERS if name != "ray"])[number]
    if cell.spread == "horovod":
        pytest.importorskip("horovod")
    cells.run(cell)


# --- which cells ---


def test_few_launches_have_every_value_of_every_axis() -> None:
    assert {cell.launcher for cell in FEW} == set(LAUNCHERS)
    assert {cell.spread for cell in FEW} == set(SPREADS)
    assert {cell.ranks for cell in FEW} == {1, 2}
    assert len(CELLS) == 32


def test_other_cells_follow_from_the_commit_and_come_all_round() -> None:
    assert matrix.rotating("a", 5) == matrix.rotating("a", 5)
    assert not set(matrix.rotating("a", 99)) & set(FEW)
    seen = {cell for commit in range(200) for cell in matrix.rotating(str(commit), 2)}
    assert seen == set(CELLS) - set(FEW)
    assert {cell.launcher for cell in matrix.rotating("a", 99, ["ray"])} == {"ray"}


# --- what is called wrong ---


def record(**changed: Any) -> dict[str, Any]:
    """What `trainkit show --json` says of a cell that went well, or what is changed of it."""
    ranks = [
        {"rank": rank, "node": rank // 2, "node_name": PLACES[rank // 2], "exit_code": 0, "signal": None,
         "exception": None}
        for rank in range(4)
    ]  # fmt: skip
    told = {"nodes": 2, "ranks_per_node": 2, "spread": "fork", "target": "ssh", "status": "Completed", "attempts": 1}
    return {**told, "verdict": None, "ranks": ranks, **changed}


def ranks(number: int, **changed: Any) -> list[dict[str, Any]]:
    """The ranks' records, one of them changed."""
    return [{**each, **changed} if each["rank"] == number else each for each in record()["ranks"]]


def test_a_true_record_is_not_called_wrong() -> None:
    assert matrix.untrue(CELL, record(), PLACES) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"status": "Failed"}, "status is 'Failed'"),
        ({"attempts": 2}, "attempts is 2"),
        ({"target": "local"}, "target is 'local'"),
        ({"ranks": record()["ranks"][:3]}, "records of the ranks [0, 1, 2]"),
        ({"ranks": ranks(3, exit_code=1)}, "not all ranks ended well"),
        ({"ranks": ranks(3, node_name="node1")}, "the ranks' nodes are"),
        ({"ranks": ranks(1, node=1)}, "the ranks' nodes are"),
    ],
    ids=["status", "attempts", "target", "a rank too few", "a rank that failed", "node name", "node"],
)
def test_a_record_that_is_not_true_is_called_wrong(changed: dict[str, Any], words: str) -> None:
    assert words in "; ".join(matrix.untrue(CELL, record(**changed), PLACES))


def test_weights_of_every_rank_are_compared(tmp_path: Path) -> None:
    expected = np.linspace(0, 1, 5)
    (tmp_path / "outputs").mkdir()
    np.save(tmp_path / "outputs" / "end-0.npy", expected)
    assert matrix.compare(expected, tmp_path, 1) == (0.0, [])
    assert "of 2 ranks these left weights: ['end-0.npy']" in matrix.compare(expected, tmp_path, 2)[1]
    np.save(tmp_path / "outputs" / "end-1.npy", expected + 1e-8)
    assert "the weights are [0.0, 1" in matrix.compare(expected, tmp_path, 2)[1][0]
    np.save(tmp_path / "outputs" / "end-1.npy", expected + np.nan)
    assert matrix.compare(expected, tmp_path, 2)[1]


@pytest.mark.parametrize(
    "metrics",
    [
        {"0": {"train_loss": [3, 2, 1]}},
        {"0": {"train_loss": [3, 2, 1]}, "1": {"train_loss": [3, 2]}},
        {"0": {"train_loss": [3, 2, 1]}, "1": {"train_loss": [3, 2, 1, 1]}},
        {"0": {"train_loss": [3, 2, 1]}, "1": {"train_loss": [3, 2, 1.1]}},
        {"0": {"train_loss": [3, 2, 1]}, "1": {}},
    ],
    ids=["no rank 1", "too few", "too many", "others", "none"],
)
def test_metrics_are_there_once_for_each_rank_and_epoch(metrics: dict[str, Any]) -> None:
    good = {str(rank): {"train_loss": [3, 2, 1]} for rank in range(2)}
    assert matrix.repeated(good, 2, np.array([3.0, 2.0, 1.0])) == []
    assert matrix.repeated(metrics, 2, np.array([3.0, 2.0, 1.0]))
