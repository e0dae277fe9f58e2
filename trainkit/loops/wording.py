"""Words of a command line as typed values: `--lr 3e-3` for a parameter `lr: float = 1e-3`."""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.errors import UserErrorException


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_SEQUENCES = (list, tuple, collections.abc.Sequence)
_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """One argument of a function. `known` says that `default` is its value, not merely its text."""

    name: str
    annotation: Any = None
    default: Any = REQUIRED
    known: bool = True

    @property
    def flag(self) -> str:
        """How it is given."""
        return "--" + self.name

    @property
    def type(self) -> Any:
        """Its annotation, else its default's type; None where neither tells."""
        if self.annotation not in (None, Any):
            return self.annotation
        kind = type(self.default)
        return kind if self.known and kind in _WORDS else None

    @property
    def repeats(self) -> bool:
        """Whether several words may follow its flag."""
        return any(_origin(kind) in _SEQUENCES for kind in _choices(self.type))

    @property
    def switches(self) -> bool:
        """Whether its flag alone means True."""
        return bool in _choices(self.type)

    def describe(self) -> str:
        """As an error lists it."""
        end = "" if self.default is REQUIRED else f" ({self.default})"
        return f"{self.flag} {_word_of(self.type)}{end}"


def values_for(function: str, parameters: Sequence[Parameter], words: Sequence[str]) -> dict[str, Any]:
    """The values that the words give to the parameters of `function`.

    Raises UserErrorException for an unknown, missing, repeated or mistyped one; the message lists what there is.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
    found: dict[str, Any] = {}
    try:
        for flag, given in _groups(words):
            name = flag[2:].replace("-", "_")
            parameter = by_name.get(name)
            if parameter is None and name.startswith("no_") and name[3:] in by_name:
                parameter = by_name[name[3:]]
                if not parameter.switches or given:
                    raise _Wrong(f"{flag} is no argument of it: {parameter.flag} takes {_word_of(parameter.type)}")
                given = ["false"]
            if parameter is None:
                raise _Wrong(f"{flag} is no argument of it")
            if parameter.name in found and not parameter.repeats:
                raise _Wrong(f"{flag} is given twice")
            value = _value(parameter, flag, given)
            found[parameter.name] = found[parameter.name] + value if parameter.name in found else value
        missing = [p.flag for p in parameters if p.default is REQUIRED and p.name not in found]
        if missing:
            raise _Wrong(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    except _Wrong as wrong:
        there = ", ".join(parameter.describe() for parameter in parameters) or "nothing"
        raise UserErrorException(f"{function}() cannot be called: {wrong}. It takes {there}.") from None
    return found


class _Wrong(Exception):
    """What is wrong with a word."""


def _groups(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag with the words that follow it."""
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word.partition("=")
            groups.append((flag, [value] if equals else []))
        elif not groups:
            raise _Wrong(f"{word!r} stands before any flag")
        else:
            groups[-1][1].append(word)
    return groups


def _value(parameter: Parameter, flag: str, given: list[str]) -> Any:
    """The words behind one flag, as the parameter's type."""
    if not given and parameter.switches:
        return True
    if parameter.repeats:
        if len(given) == 1 and given[0].lower() == "none" and type(None) in _choices(parameter.type):
            return None
        sequence = next(kind for kind in _choices(parameter.type) if _origin(kind) in _SEQUENCES)
        inner = (typing.get_args(sequence) or (str,))[0]
        values = [_one(Parameter(parameter.name, inner), flag, word) for word in given]
        return tuple(values) if _origin(sequence) is tuple else values
    if not given:
        raise _Wrong(f"{flag} needs a value")
    if len(given) > 1:
        raise _Wrong(f"{flag} takes one value, not {len(given)} ({' '.join(given[:5])})")
    return _one(parameter, flag, given[0])


def _one(parameter: Parameter, flag: str, word: str) -> Any:
    """One word as a value of the first of the parameter's types that has a form for it."""
    choices = _choices(parameter.type)
    if choices == [None]:
        return word  # nothing says what it is
    for kind in choices:
        try:
            return _parse(kind, word)
        except (ValueError, OverflowError):
            continue
    raise _Wrong(f"{flag} takes {_word_of(parameter.type)}, not {word!r}")


def _parse(kind: Any, word: str) -> Any:
    """A word as one type's value; ValueError where it is none."""
    if kind is type(None):
        if word.lower() == "none":
            return None
        raise ValueError
    if kind is bool:
        if word.lower() not in _TRUTHS:
            raise ValueError
        return _TRUTHS[word.lower()]
    if typing.get_origin(kind) is typing.Literal:
        fitting = [value for value in typing.get_args(kind) if str(value) == word]
        if not fitting:
            raise ValueError
        return fitting[0]
    simple: Callable[[str], Any] | None = kind if kind in _WORDS else None
    return simple(word) if simple else word


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _choices(kind: Any) -> list[Any]:
    """The types that a union is made of; texts last, since every word is one, and None first."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [choice for member in typing.get_args(kind) for choice in _choices(member)]
        order = [type(None), bool, int, float]
        return sorted(members, key=lambda m: order.index(m) if m in order else len(order) + (m is str))
    return [kind]


def _word_of(kind: Any) -> str:
    """A type as users read it."""
    words = []
    for choice in _choices(kind):
        if typing.get_origin(choice) is typing.Literal:
            words.append("|".join(str(value) for value in typing.get_args(choice)))
        elif _origin(choice) in _SEQUENCES:
            words.append(_word_of((typing.get_args(choice) or (str,))[0]) + "...")
        else:
            words.append("none" if choice is type(None) else _WORDS.get(choice, "VALUE"))
    return "|".join(words[1:] + words[:1] if words[0] == "none" else words)
