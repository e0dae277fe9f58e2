"""Lines that several texts share: by number, whether at the same place or not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainkit import sharedlines

TEXTS = st.lists(st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=6), min_size=2, max_size=4)


@given(TEXTS, st.booleans())
def test_exactly_the_lines_that_others_have_are_found(texts: list[list[bytes]], apart: bool) -> None:
    if apart:  # most lines are one text's own, as where the quick way is taken
        texts = [[line if line < b"c" else line + b"%d" % place for line in text] for place, text in enumerate(texts)]
    found = sharedlines.numbers(texts)
    for place, text in enumerate(texts):
        others = {line for other in (*texts[:place], *texts[place + 1 :]) for line in other}
        assert found[place] == [number for number, line in enumerate(text) if line in others]


def test_lines_at_the_same_places_come_as_one_list() -> None:
    first, second = sharedlines.numbers([[b"x0", b"a", b"y0", b"b"], [b"x1", b"a", b"y1", b"b"]])
    assert first is second
    assert first == [1, 3]


@given(TEXTS)
def test_texts_begin_alike_as_far_as_their_lines_are_equal(texts: list[list[bytes]]) -> None:
    places = [list(range(len(text))) for text in texts]
    found = sharedlines.begin_alike(places, texts)
    length = len(found[0])
    assert all(own == list(range(length)) for own in found)
    heads = {tuple(text[:length]) for text in texts}
    assert len(heads) == 1
    following = {tuple(text[: length + 1]) for text in texts}
    assert len(following) > 1 or length == min(map(len, texts))
