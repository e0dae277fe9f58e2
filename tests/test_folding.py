"""Folding: nothing is lost, every rank keeps its order, what several ranks have comes once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainkit.folding import Part, fold

LINES = st.lists(st.sampled_from([b"a", b"b", b"c", b"", b"x", b"y"]), min_size=1, max_size=5)
PARTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), LINES), max_size=25)


def parts_of(drawn: list[tuple[int, int, list[bytes]]]) -> list[Part]:
    """Parts in turn; a rank's own lines begin with different letters, so that some are nobody else's."""
    text = {key: b"".join(line + b"\n" for line in lines) for *key, lines in drawn for key in [tuple(key)]}
    return [Part(turn, float(turn), rank, text[turn, rank]) for turn, rank in sorted(text)]


Block = tuple[float, tuple[int, ...], bytes]


def folded(parts: list[Part], settled: float = float("inf")) -> tuple[list[Block], list[Part]]:
    """The blocks, and what waits."""
    waiting = list(parts)
    return [block for some in fold(waiting, settled) for block in some], waiting


def said_by(rank: int, blocks: list[Block], rest: list[Part] | None = None) -> bytes:
    told = b"".join(text for _, ranks, text in blocks if rank in ranks)
    return told + b"".join(part.text for part in rest or [] if part.rank == rank)


@given(PARTS, st.one_of(st.integers(-1, 5).map(float), st.just(float("inf"))))
def test_nothing_is_lost_and_ranks_keep_their_order(drawn: list[tuple[int, int, list[bytes]]], settled: float) -> None:
    parts = parts_of(drawn)
    blocks, rest = folded(parts, settled)
    for rank in range(5):
        assert said_by(rank, blocks, rest) == b"".join(part.text for part in parts if part.rank == rank)
    assert all(part.turn > settled for part in rest)
    assert all(list(ranks) == sorted(set(ranks)) for _, ranks, _ in blocks)
    assert rest == sorted(rest, key=lambda part: (part.turn, part.rank))


@given(PARTS)
def test_what_waited_is_told_with_the_next_window(drawn: list[tuple[int, int, list[bytes]]]) -> None:
    parts = parts_of(drawn)
    early, late = [p for p in parts if p.turn < 3], [p for p in parts if p.turn >= 3]
    first, rest = folded(early, 0)
    second, _ = folded([*rest, *late])
    for rank in range(5):
        assert said_by(rank, first + second) == b"".join(part.text for part in parts if part.rank == rank)


@given(st.lists(LINES, min_size=1, max_size=5), st.integers(2, 5))
def test_what_all_ranks_print_is_told_once(turns: list[list[bytes]], ranks: int) -> None:
    parts = parts_of([(turn, rank, lines) for turn, lines in enumerate(turns) for rank in range(ranks)])
    blocks, rest = folded(parts)
    assert all(block[1] == tuple(range(ranks)) for block in blocks)
    assert not rest


def told(*texts: tuple[int, int, str]) -> list[tuple[tuple[int, ...], str]]:
    """The blocks of (turn, rank, text with spaces for line ends)."""
    parts = [Part(turn, float(turn), rank, text.replace(" ", "\n").encode() + b"\n") for turn, rank, text in texts]
    return [(ranks, text.decode().replace("\n", " ").strip()) for _, ranks, text in folded(parts)[0]]


def test_what_one_rank_prints_in_between_does_not_break_the_rest() -> None:
    assert told((0, 0, "a b c"), (0, 1, "a own b c"), (0, 2, "a b c")) == [
        ((0, 1, 2), "a"), ((1,), "own"), ((0, 1, 2), "b c"),
    ]  # fmt: skip


def test_a_rank_that_is_late_by_a_turn_is_folded_too() -> None:
    assert told((0, 0, "a"), (1, 1, "a")) == [((0, 1), "a")]
    assert told((0, 0, "a b"), (1, 0, "c"), (1, 1, "a b c")) == [((0, 1), "a b"), ((0, 1), "c")]
    assert told((0, 0, "a"), (0, 1, "a own"), (1, 0, "b"), (2, 1, "b")) == [((0, 1), "a"), ((1,), "own"), ((0, 1), "b")]


def test_lines_of_one_rank_alone_are_in_order_of_time() -> None:
    assert told((0, 1, "x"), (1, 0, "y"), (2, 1, "z")) == [((1,), "x"), ((0,), "y"), ((1,), "z")]


def test_lines_in_different_orders_are_all_told() -> None:
    assert told((0, 0, "a b"), (0, 1, "b a")) == [((0,), "a"), ((0, 1), "b"), ((1,), "a")]
