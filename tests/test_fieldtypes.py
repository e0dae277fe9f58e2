"""Values of fields: what JSON keeps comes back as it was, and what a command line says becomes what JSON keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.errors import UserErrorException
from trainkit.fieldtypes import fields_of, parsed, plain, typed, words_of


@dataclass(frozen=True)
class Inner:
    name: str
    size: float = 1.0


@dataclass(frozen=True)
class All:
    text: str = ""
    number: int = 0
    share: float = 0.0
    flag: bool = False
    maybe: int | None = None
    either: str | int = ""
    path: Path = Path("/")
    texts: tuple[str, ...] = ()
    pair: tuple[str, int] = ("", 0)
    names: Mapping[str, int] = field(default_factory=dict)
    several: Sequence[float] = ()
    few: frozenset[str] = frozenset()
    one: Literal["a", "b"] = "a"
    inner: Inner = Inner("x")
    inners: tuple[Inner, ...] = ()
    anything: Any = None


words = st.text(max_size=8)
inners = st.builds(Inner, words, st.floats(allow_nan=False, allow_infinity=False))
everything = st.builds(
    All, words, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(),
    st.none() | st.integers(), words | st.integers(), st.just(Path("/a/b")), st.lists(words).map(tuple),
    st.tuples(words, st.integers()), st.dictionaries(words, st.integers()),
    st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple), st.frozensets(words),
    st.sampled_from(["a", "b"]), inners, st.lists(inners).map(tuple), st.none() | words,
)  # fmt: skip


@given(everything)
def test_what_json_keeps_comes_back_as_it_was(value: All) -> None:
    kept = json.loads(json.dumps(plain(value, "value")))
    assert All(**{name: typed(hint, kept[name], name) for name, (hint, _) in fields_of(All).items()}) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("number", True, "a whole number"),
        ("number", 1.0, "a whole number"),
        ("share", "1", "a number"),
        ("flag", 1, "true or false"),
        ("texts", "abc", "a list of texts"),
        ("texts", ["a", 1], "a text"),
        ("pair", ["a", "b"], "a whole number"),
        ("pair", ["a", 1, 2], "it has 2 values"),
        ("names", [["a", 1]], "an object of names and values"),
        ("names", {"a": "b"}, "a whole number"),
        ("maybe", "x", "a whole number or null"),
        ("either", [], "a text or a whole number"),
        ("one", "c", "'a' or 'b'"),
        ("path", 1, "a path"),
        ("inner", "x", r"Inner\(name, size\)"),
        ("inner", {"nam": "x"}, "has no 'nam'; it has name, size"),
        ("inner", {}, "missing 1 required"),
        ("inners", [{"name": 3}], "a text"),
    ],
)
def test_values_of_another_type_are_refused_by_name(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UserErrorException, match=f"the field.*{expected}"):
        typed(fields_of(All)[name][0], value, "the field")


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("text", ["1"], "1"),
        ("text", ["a=b,c"], "a=b,c"),
        ("number", ["-3"], -3),
        ("share", ["1e-3"], 0.001),
        ("flag", ["Yes"], True),
        ("flag", ["0"], False),
        ("maybe", ["none"], None),
        ("maybe", ["4"], 4),
        ("either", ["4"], 4),
        ("either", ["a100:4"], "a100:4"),
        ("texts", ["a,b", "c"], ["a", "b", "c"]),
        ("texts", ['["a,b"]'], ["a,b"]),
        ("texts", [""], []),
        ("names", ["a=1,b=2", "c=3"], {"a": 1, "b": 2, "c": 3}),
        ("names", ['{"a": 1}'], {"a": 1}),
        ("several", ["1,2.5"], [1, 2.5]),
        ("one", ["b"], "b"),
        ("inner", ['{"name": "y"}'], {"name": "y"}),
        ("inners", ['{"name": "y", "size": 2}', '{"name": "z"}'], [{"name": "y", "size": 2}, {"name": "z"}]),
        ("anything", ["x"], "x"),
    ],
)
def test_what_a_command_line_says(name: str, texts: list[str], expected: Any) -> None:
    hint = fields_of(All)[name][0]
    found = parsed(hint, texts, "the option")
    assert (found, type(found)) == (expected, type(expected))
    typed(hint, found, "the option")


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("number", ["1.5"], "is 1.5; it is a whole number"),
        ("number", ["1", "2"], "more than once: '1', '2'"),
        ("flag", ["maybe"], "is 'maybe'; it is true or false"),
        ("names", ["a"], "it is KEY=VALUE"),
        ("names", ["a=b"], "is 'b'; it is a whole number"),
        ("maybe", ["x"], "a whole number or null"),
        ("one", ["c"], "'a' or 'b'"),
        ("inner", ["x"], r"Inner\(name, size\)"),
        ("texts", ['["a", 1]'], "a text|a list of texts"),
    ],
)
def test_what_a_command_line_cannot_say(name: str, texts: list[str], expected: str) -> None:
    with pytest.raises(UserErrorException, match=f"the option.*({expected})"):
        parsed(fields_of(All)[name][0], texts, "the option")


def test_types_in_words() -> None:
    assert words_of(dict[str, int]) == "an object of names and values"
    assert words_of(tuple[Inner, ...]) == "a list of Inner(name, size)"
    assert words_of(list) == "a list"
