"""The values of a dataclass's fields: as JSON keeps them, as their types have them, as a command line gives them.

Pure functions; what does not fit is a UserErrorException that says what does.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePath
from typing import Any, Literal, Union, get_args, get_origin

from trainkit.errors import UserErrorException

_SEQUENCES: dict[Any, Any] = {tuple: tuple, Sequence: tuple, list: list, set: set, frozenset: frozenset}
_SEQUENCES[AbstractSet] = frozenset
_NONE = type(None)
_PLAIN = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", _NONE: "null"}
_PLURALS = {str: "texts", int: "whole numbers", float: "numbers"}
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def fields_of(cls: type) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """The fields that a launcher is made of, by name: type and field; none for a class that is no dataclass."""
    if not dataclasses.is_dataclass(cls):
        return {}
    try:
        hints = typing.get_type_hints(cls)
    except Exception:  # names that only a type checker sees: such a field takes anything
        hints = {}
    return {one.name: (hints.get(one.name, Any), one) for one in dataclasses.fields(cls) if one.init}


def plain(value: Any, where: str) -> Any:
    """A field's value as JSON keeps it."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where) for item in value]
    if isinstance(value, AbstractSet):
        return sorted(plain(item, where) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name), where) for one in dataclasses.fields(value) if one.init}
    raise UserErrorException(f"{where} is {value!r}, which a record cannot keep: it takes texts, numbers and lists.")


def words_of(hint: Any) -> str:
    """A field's type, for people."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(words_of(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in _SEQUENCES:
        return "a list of " + (_PLURALS.get(inner[0]) or words_of(inner[0])) if inner else "a list"
    if origin in (dict, Mapping):
        return "an object of names and values"
    if _is_path(hint):
        return "a path"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"{hint.__name__}({', '.join(fields_of(hint))})"
    return _PLAIN.get(hint) or str(getattr(hint, "__name__", hint))


def typed(hint: Any, value: Any, where: str) -> Any:
    """A value that JSON keeps, as a field's type: lists become tuples, texts paths, objects dataclasses.

    Raises UserErrorException where it is of another kind; `where` begins its sentence.
    """
    origin, inner = get_origin(hint) or hint, get_args(hint)
    wrong = UserErrorException(f"{where} is {value!r}; it is {words_of(hint)}.")
    if origin in (Union, types.UnionType):
        return _first_that_fits(inner, lambda one: typed(one, value, where), wrong)
    if origin in _SEQUENCES and isinstance(value, (list, tuple)):
        fixed = bool(inner) and origin is tuple and Ellipsis not in inner
        if fixed and len(inner) != len(value):
            raise UserErrorException(f"{where} is {value!r}; it has {len(inner)} values.")
        kinds = inner if fixed else [inner[0] if inner else Any] * len(value)
        return _SEQUENCES[origin](typed(kind, one, where) for kind, one in zip(kinds, value, strict=True))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: typed(inner[1] if inner else Any, item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _dataclass(hint, value, where)
    if _is_path(hint) and isinstance(value, str):
        return Path(value)
    if origin is Literal and value in inner:
        return value
    if type(value) is hint or (hint is float and type(value) is int) or not _checked(hint, origin):
        return value
    raise wrong


def _checked(hint: Any, origin: Any) -> bool:
    """Whether a type says enough to refuse a value by."""
    known = hint in _PLAIN or origin in _SEQUENCES or origin in (dict, Mapping, Literal) or _is_path(hint)
    return known or (isinstance(hint, type) and dataclasses.is_dataclass(hint))


def _is_path(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, PurePath)


def _dataclass(cls: type, values: Mapping[str, Any], where: str) -> Any:
    fields = fields_of(cls)
    for key in values:
        if key not in fields:
            raise UserErrorException(f"{where} has no {key!r}; it has {', '.join(fields)}.")
    made = {key: typed(fields[key][0], item, f"{where}.{key}") for key, item in values.items()}
    try:
        return cls(**made)
    except TypeError as error:
        raise UserErrorException(f"{where} is {dict(values)!r}: {error}.") from error


def _first_that_fits(kinds: Sequence[Any], convert: Callable[[Any], Any], wrong: UserErrorException) -> Any:
    for kind in kinds:
        try:
            return convert(kind)
        except UserErrorException:
            continue
    raise wrong


def parsed(hint: Any, texts: Sequence[str], where: str) -> Any:
    """What a command line gave for a field of this type, as JSON keeps it.

    A list's items are divided by commas or given one by one, an object's are KEY=VALUE; all may be JSON, too. Raises
    UserErrorException; `where` begins its sentence.
    """
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = sorted(inner, key=lambda kind: kind is str)  # last: a text fits everything
        wrong = UserErrorException(f"{where} is {', '.join(map(repr, texts))}; it is {words_of(hint)}.")
        return _first_that_fits(kinds, lambda one: parsed(one, texts, where), wrong)
    if origin in _SEQUENCES and texts[0][:1] != "[":
        parts = [part for text in texts for part in ([text] if text[:1] == "{" else text.split(",")) if part]
        return [parsed(inner[0] if inner else str, [part], where) for part in parts]
    if origin in (dict, Mapping) and texts[0][:1] != "{":
        return _pairs(inner[1] if inner else str, texts, where)
    if len(texts) > 1:
        raise UserErrorException(f"{where} is given more than once: {', '.join(map(repr, texts))}.")
    value = _one(hint, texts[0])
    typed(hint, value, where)
    return value


def _pairs(hint: Any, texts: Sequence[str], where: str) -> dict[str, Any]:
    found = {}
    for part in (part for text in texts for part in text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UserErrorException(f"{where} is {part!r}; it is KEY=VALUE, or several of them with commas.")
        found[key] = parsed(hint, [value], where)
    return found


def _one(hint: Any, text: str) -> Any:
    """One word as a plain value; as it is where it is none of that type."""
    if hint is bool:
        return _TRUTHS.get(text.lower(), text)
    if hint is _NONE:
        return None if text.lower() in ("", "none", "null") else text
    if _is_path(hint):
        return str(Path(text).expanduser().absolute())
    if hint in (str, Any) or get_origin(hint) is Literal and text in get_args(hint):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
