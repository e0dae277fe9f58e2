"""Reading what runs recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit import events
from trainkit.boot.context import RunContext
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import RunDir
from trainkit.errors import UserErrorException


def metric(name: str, value: Any, kind: str = "metric") -> dict[str, Any]:
    """An event as a rank writes it."""
    return {"t": 1.0, "a": 1, "k": kind, "n": name, "v": value}


def test_one_value_is_itself_and_several_are_a_list() -> None:
    assert events.fold([metric("x", 1)]) == {"x": 1}
    assert events.fold([metric("x", 1), metric("y", 0), metric("x", 2)]) == {"x": [1, 2], "y": 0}
    assert events.fold([metric("x", [1], "list")]) == {"x": [1]}
    assert events.fold([metric("x", 1), metric("x", [2, 3], "list")]) == {"x": [1, 2, 3]}
    assert events.fold([metric("x", 1), metric("y", 2)], name="y") == {"y": 2}
    assert events.fold([metric("x", "a", "tag"), metric("f", None, "file")]) == {}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1), min_size=1, max_size=6))
@settings(deadline=None)
def test_rows_make_columns_of_one_length(rows: list[dict[str, int]]) -> None:
    table = events.fold([metric("t", row, "row") for row in rows])["t"]
    for key in {key for row in rows for key in row}:
        column = [row.get(key) for row in rows]
        assert table[key] == (column[0] if len(rows) == 1 else column)


@given(st.lists(st.binary(max_size=40) | st.just(json.dumps(metric("x", 1)).encode()), max_size=20))
@settings(deadline=None)
def test_damage_to_a_file_never_hides_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "rank-0.jsonl"
    path.write_bytes(b"\n".join(line.replace(b"\n", b"") for line in lines))
    whole = sum(line == json.dumps(metric("x", 1)).encode() for line in lines)
    assert sum(event == metric("x", 1) for event in events.read_events(path)) >= whole


def test_a_hundred_thousand_values_are_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.events.mkdir()
    lines = (json.dumps(metric(f"m{n % 10}", n / 7)) for n in range(100_000))
    run.events_of("rank-0").write_text("\n".join(lines) + "\n")
    found = events.metrics(tmp_path)
    assert sum(len(values) for values in found.values()) == 100_000
    assert found["m3"][-1] == 99_993 / 7


def test_ranks_are_told_apart_and_the_clients_values_are_rank_0s(tmp_path: Path) -> None:
    for rank in (0, 1, 10):
        RunContext(tmp_path, f"rank-{rank}", 1, Rank(rank, 11)).log("loss", rank)
    RunContext(tmp_path).log("loss", -1.0)
    assert events.ranks(tmp_path) == [0, 1, 10]
    assert events.metrics(tmp_path) == {"loss": [0, -1.0]}
    assert events.metrics(tmp_path, rank="all", name="loss") == {
        0: {"loss": [0, -1.0]},
        1: {"loss": 1},
        10: {"loss": 10},
    }
    assert events.metrics(tmp_path, rank=5) == {}
    for bad in (-1, "1", None, True, 1.0):
        with pytest.raises(UserErrorException, match="rank"):
            events.metrics(tmp_path, rank=bad)  # type: ignore[arg-type]


def test_a_run_that_recorded_nothing_reads_as_empty(tmp_path: Path) -> None:
    assert events.metrics(tmp_path) == {}
    assert events.metrics(tmp_path, rank="all") == {}
    assert events.tags(tmp_path) == {}
    assert events.properties(tmp_path) == {}
    assert events.points(tmp_path, "x") == []


def test_points_have_steps_and_times(tmp_path: Path) -> None:
    context = RunContext(tmp_path, "rank-0", 1)
    context.log("loss", 0.5, step=10)
    context.log("loss", 0.25)
    first, second = events.points(tmp_path, "loss")
    assert (first.step, first.value, second.step, second.value) == (10, 0.5, None, 0.25)
    assert first.time <= second.time
