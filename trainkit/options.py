"""A launcher as plain values and back: its dataclass's fields, as JSON keeps them and as a command line types them.

What is wrong with them is found in the client, before anything is recorded or started; the driver makes the launcher
again from what was recorded. Nothing is read or written here, but a launcher's module is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from trainkit.boot import plugins
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.fieldtypes import fields_of, parsed, plain, typed, words_of
from trainkit.job import Launcher

BY_REFERENCE = "by_reference"  # in a field's metadata: its value only names where a secret is
_SECRET = re.compile(
    r"(^|[_\-])(password|passwd|passphrase|secret|token|credentials?|(api|access|private)?_?key)$", re.IGNORECASE
)
_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@")


def entry_point_of(launcher: object) -> str:
    """The name under which the class of this launcher is installed. Raises UserErrorException where it has none."""
    if isinstance(launcher, type):
        raise UserErrorException(f"{launcher.__name__} is a class: give a launcher, {launcher.__name__}(...).")
    wanted, names = type(launcher), set()
    for name, points in plugins.found(plugins.LAUNCHERS).items():
        for _, point in points:
            try:
                loaded = point.load()
            except Exception:  # another launcher's: told where that one is used, and by `trainkit launchers`
                continue
            if loaded is wanted:
                return name
            names.add(name)
    raise UserErrorException(
        f"{wanted.__module__}.{wanted.__qualname__} is no installed launcher (installed are "
        f"{', '.join(sorted(names)) or 'none'}). A launcher belongs to a distribution that names its class as an "
        f"entry point in the group {plugins.LAUNCHERS!r}."
    )


def options_of(launcher: object) -> dict[str, Any]:
    """The launcher's fields as plain values. Raises UserErrorException for a secret, or what JSON has no form for."""
    values: dict[str, Any] = {}
    for one in dataclasses.fields(cast(Any, launcher)) if dataclasses.is_dataclass(launcher) else ():
        if one.init:
            value = getattr(launcher, one.name)
            if not one.metadata.get(BY_REFERENCE):
                _refuse_secret(type(launcher).__name__, one.name, value)
            values[one.name] = plain(value, f"{type(launcher).__name__}.{one.name}")
    return values


def launcher_of(name: str, options: Mapping[str, Any]) -> Launcher:
    """The launcher `name` with these options, as JSON keeps them.

    Raises UserErrorException where it is not installed, fails to import, or has no such options.
    """
    cls = plugins.launcher(name)
    fields = fields_of(cls)
    _refuse_unknown(name, fields, options)
    missing = [key for key, (_, one) in fields.items() if _required(one) and key not in options]
    if missing:
        raise UserErrorException(f"The launcher {name!r} needs the option {', '.join(missing)}.")
    values = {}
    for key, value in options.items():
        hint, one = fields[key]
        values[key] = typed(hint, value, f"The launcher {name!r}: {key}")
        if not one.metadata.get(BY_REFERENCE):
            _refuse_secret(f"the launcher {name!r}", key, values[key])
    try:
        launcher = cls(**values)
    except TrainkitError:
        raise
    except Exception as error:
        raise UserErrorException(
            f"The launcher {name!r} cannot be made with {dict(options)}: {type(error).__name__}: {error}"
        ) from error
    lacks = [method for method in ("start", "poll", "cancel") if not callable(getattr(launcher, method, None))]
    if lacks:
        raise UserErrorException(f"{cls.__module__}.{cls.__qualname__} is no launcher: it has no {', '.join(lacks)}.")
    return cast(Launcher, launcher)


def from_texts(name: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Options as a command line gives them, typed by the launcher's fields; a list's may be given more than once."""
    fields = fields_of(plugins.launcher(name))
    texts: dict[str, list[str]] = {}
    for key, text in pairs:
        texts.setdefault(key, []).append(text)
    _refuse_unknown(name, fields, texts)
    return {key: parsed(fields[key][0], given, f"The option {key}") for key, given in texts.items()}


def described(cls: type) -> list[dict[str, Any]]:
    """The fields of a launcher for people and programs: name, type, default (None where one must be given)."""
    return [
        {"name": name, "type": words_of(hint), "required": _required(one), "default": _default(one)}
        for name, (hint, one) in fields_of(cls).items()
    ]


def several_machines(launcher: object) -> bool:
    """Whether the nodes of a launcher, or its class, are on other machines than this one: unless it says False."""
    return bool(getattr(launcher, "several_machines", True))


def changed(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that differ from their field's default, as they are told to people."""
    fields = fields_of(plugins.launcher(name))
    return {key: value for key, value in options.items() if key not in fields or _default(fields[key][1]) != value}


def pairs_of(options: Mapping[str, Any]) -> str:
    """Options in a sentence: "partition=gpu, hosts=a,b"."""
    return ", ".join(f"{key}={_shown(value)}" for key, value in options.items())


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_shown(item)}" for key, item in value.items() if item not in ("", None, [], {}, False))
    if isinstance(value, (list, tuple)):
        return ",".join(f"({_shown(item)})" if isinstance(item, Mapping) else str(item) for item in value)
    return str(value)


def _required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _default(one: dataclasses.Field[Any]) -> Any:
    if one.default is not dataclasses.MISSING:
        return plain(one.default, one.name)
    return None if one.default_factory is dataclasses.MISSING else plain(one.default_factory(), one.name)


def _refuse_unknown(name: str, fields: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.5)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UserErrorException(
                f"The launcher {name!r} has no option {key!r}{meant or '.'} "
                f"{'It has ' + ', '.join(fields) if fields else 'It takes none'}."
            )


def _refuse_secret(owner: str, name: str, value: Any) -> None:
    """Raises UserErrorException where the value, or what is inside it, would write a secret into a record."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_secret(owner, str(key), item)
    elif dataclasses.is_dataclass(value):
        for one in dataclasses.fields(value):
            if not one.metadata.get(BY_REFERENCE):
                _refuse_secret(owner, one.name, getattr(value, one.name))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _refuse_secret(owner, name, item)
    elif isinstance(value, str) and value and _SECRET.search(name):
        raise UserErrorException(
            f"{name} of {owner} would write a secret into a record. Give it by reference: by an option that names a "
            "file or an environment variable on the machine that needs it."
        )
    elif isinstance(value, str) and _IN_URL.search(value):
        raise UserErrorException(
            f"{name} of {owner} holds a password in an address, which would be recorded. Give it by reference, such "
            "as by a file or an environment variable."
        )
