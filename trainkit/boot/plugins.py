"""Launchers, spreads and container engines, found by entry point: ours by exactly the mechanism that a stranger's are.

Only the one that is named gets loaded; a failing import is raised with its cause; two with one name are an error that
names both distributions.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, distributions
from typing import Any, cast

from trainkit.errors import UnsupportedJob, UserErrorException
from trainkit.job import Engine, Spread

LAUNCHERS = "trainkit.launchers"
SPREADS = "trainkit.spreads"
ENGINES = "trainkit.containers"


def found(group: str) -> dict[str, list[tuple[str, EntryPoint]]]:
    """All entry points of a group, by name: (distribution, entry point), each distribution once."""
    names: dict[str, list[tuple[str, EntryPoint]]] = {}
    seen = set()
    for distribution in distributions():
        if "trainkit" not in (distribution.read_text("entry_points.txt") or ""):
            continue
        title = distribution.metadata["Name"]
        for point in distribution.entry_points:
            if point.group == group and (title, point.name) not in seen:
                seen.add((title, point.name))
                names.setdefault(point.name, []).append((title, point))
    return names


def load(group: str, name: str) -> Any:
    """What the entry point `name` refers to. Raises UnsupportedJob where there is none, UserErrorException for two."""
    points = found(group)
    kind = {LAUNCHERS: "launcher", SPREADS: "spread", ENGINES: "container engine"}[group]
    if name not in points:
        raise UnsupportedJob(
            f"There is no {kind} named {name!r}; installed are {', '.join(sorted(points)) or 'none'}. "
            f"A {kind} is installed with a distribution that has an entry point in the group {group!r}."
        )
    if len(points[name]) > 1:
        owners = " and ".join(sorted(owner for owner, _ in points[name]))
        raise UserErrorException(f"Two distributions have a {kind} named {name!r}: {owners}. Uninstall one of them.")
    owner, point = points[name][0]
    try:
        return point.load()
    except Exception as error:
        raise UserErrorException(
            f"The {kind} {name!r} of {owner} could not be loaded from {point.value}: {type(error).__name__}: {error}"
        ) from error


def launcher(name: str) -> type:
    """The launcher class of this name."""
    return cast(type, load(LAUNCHERS, name))


def spread(name: str) -> Spread:
    """The spread of this name."""
    return cast(Spread, load(SPREADS, name))


def engine(name: str) -> Engine:
    """The container engine of this name."""
    return cast(Engine, load(ENGINES, name)())
