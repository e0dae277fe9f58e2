"""What a metric's value may be: numbers, texts and truth values, also those of numpy, torch and their like.

Nothing but the standard library is imported: foreign values are known by what they can do.
"""

from __future__ import annotations

import operator
from typing import Any, Dict, List, Mapping, Optional, Union

from trainkit.errors import UserErrorException

Scalar = Union[bool, int, float, str]
_PLAIN = (float, int, str, bool)


def check_metric_name(name: Any) -> str:
    """`name` where it may name a metric: any text that is not empty."""
    if isinstance(name, str) and name:
        return str(name)
    raise UserErrorException("A metric's name must be a text that is not empty; this was given: %r." % (name,))


def _refused(name: str, value: Any, why: str) -> UserErrorException:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return UserErrorException(
        "The value of %r cannot be logged: %s. This was given: %s. Log a number, a text, a truth value, or a numpy "
        "value or tensor with one element; log_list, log_row and log_table take several." % (name, why, shown)
    )


def scalar(name: str, value: Any) -> Scalar:
    """`value` as a plain bool, int, float or str; UserErrorException where it is not one value."""
    kind = type(value)
    if kind in _PLAIN:
        return _writable(name, value)
    for plain in (bool, int, float, str):
        if isinstance(value, plain):  # numpy.float64, an enumeration, a text of numpy
            return _writable(name, plain(str.__str__(value) if plain is str else value))
    count = _elements(value)
    if count is not None and count != 1:
        raise _refused(name, value, "it has %d elements" % count)
    item = getattr(value, "item", None)
    if callable(item):
        try:
            value = item()
        except Exception as error:  # whatever a foreign type raises, such as a tensor without data
            raise _refused(name, value, "its value cannot be read (%s)" % error) from error
        if type(value) in _PLAIN:
            return _writable(name, value)
    if isinstance(value, (complex, bytes, bytearray)) or not hasattr(type(value), "__float__"):
        raise _refused(name, value, "a %s is not one number, text or truth value" % type(value).__name__)
    try:
        return float(value)  # Decimal, Fraction, numpy.longdouble
    except Exception as error:  # whatever a foreign type raises
        raise _refused(name, value, "it has no value as a number (%s)" % error) from error


def _writable(name: str, value: Scalar) -> Scalar:
    if type(value) is int and value.bit_length() > 10000:  # Python itself refuses to print, or to read, longer ones
        raise _refused(name, "an integer of %d bits" % value.bit_length(), "it is too large")
    return value


def _elements(value: Any) -> Optional[int]:
    """How many elements an array or tensor has; None for what is neither."""
    count = getattr(value, "numel", None)
    if callable(count):
        return int(count())
    count = getattr(value, "size", None)
    return count if isinstance(count, int) else None


def values(name: str, value: Any) -> List[Scalar]:
    """A list, tuple, array or tensor with one dimension as a list of scalars."""
    if isinstance(value, (str, bytes, Mapping)):
        raise _refused(name, value, "a %s is not a list" % type(value).__name__)
    try:
        found = value.tolist() if hasattr(value, "tolist") else list(value)
    except Exception as error:  # not iterable, or a foreign type's own complaint
        raise _refused(name, value, "a %s is not a list" % type(value).__name__) from error
    if not isinstance(found, list):
        found = [found]
    return [scalar("%s[%d]" % (name, at), one) for at, one in enumerate(found)]


def cell(name: str, value: Any) -> Optional[Scalar]:
    """One cell of a table: a scalar, or None for an empty one."""
    return None if value is None else scalar(name, value)


def columns(name: str, table: Any) -> Dict[str, Any]:
    """A table as a dict of columns, each a scalar or a list; all lists have one length."""
    if not isinstance(table, Mapping) or not table:
        raise _refused(name, table, "a table is a dict of columns, at least one")
    found: Dict[str, Any] = {}
    for key, column in table.items():
        several = isinstance(column, (list, tuple)) or (_elements(column) is not None and hasattr(column, "tolist"))
        where = "%s[%r]" % (name, key)
        found[check_metric_name(key)] = values(where, column) if several else cell(where, column)
    lengths = {len(column) for column in found.values() if isinstance(column, list)}
    if len(lengths) > 1:
        raise _refused(
            name, {k: len(v) for k, v in found.items() if isinstance(v, list)}, "its columns differ in length"
        )
    return found


def step_number(name: str, step: Any) -> int:
    """A metric's step as an int; UserErrorException where it is none."""
    try:
        return operator.index(step)
    except TypeError:
        number = scalar(name + " (its step)", step)
        if isinstance(number, float) and number.is_integer():
            return int(number)
    raise _refused(name, step, "its step must be an integer")
