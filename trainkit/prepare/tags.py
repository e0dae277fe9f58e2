"""The names that trainkit gives to images in an engine's store: what it builds, and what that is built on.

A builder takes no id for a name, and the names that users know may move while it builds. Every name belongs to one
entry of one workspace, so that nobody takes another's away.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.engines import ASK_SECONDS, ImageEngine, ask
from trainkit.prepare.entries import Record
from trainkit.prepare.resolving import Image, facts

OURS = "localhost/trainkit"  # the repository


def name_of(entry: Path) -> str:
    """Of the image that is built for an entry of `envs/`."""
    place = hashlib.sha256(os.fsencode(os.path.realpath(entry.parent))).hexdigest()[:8]
    return f"{OURS}:{entry.name}-{place}"


def names_below(tag: str, count: int) -> list[str]:
    """Of so many images that it is built on."""
    return [f"{tag}-base{number}" for number in range(count)]


def give(engine: ImageEngine, tag: str, bases: Collection[Image]) -> dict[str, str]:
    """Name the images that the one called `tag` is built on: their names by those that the user knows.

    Raises EnvironmentBuildError.
    """
    named = {}
    for base, name in zip(bases, names_below(tag, len(bases)), strict=True):
        answer = ask(engine.tag(base.id, name), ASK_SECONDS)
        if answer.code:
            raise EnvironmentBuildError(f"{engine.program} could not name {base.name}: {answer.words}")
        named[base.name] = name
    return named


def take(engine: ImageEngine, record: Record) -> str:
    """Take an entry's names away, and with its last name an image that trainkit built; "" or why that cannot be done.

    An image that something was built on keeps trainkit's name where it has no other, unless trainkit built that too:
    it is not trainkit's to remove.
    """
    built = _is_on_own(record)
    for tag in map(str, record.get("tags", ())):
        try:
            found = facts(engine, tag)
        except EnvironmentBuildError as error:
            return error.message
        if found is None or ("-base" in tag and not built and not _has_other_name(found)):
            continue
        answer = ask(engine.untag(tag), ASK_SECONDS)
        if answer.code:
            return f"{engine.program} does not remove {tag}: {answer.words}"
    return ""


def _is_on_own(record: Record) -> bool:
    """Whether the entry is an image with packages on one that trainkit built: on none that the user's names mean."""
    below = record.get("inputs", {}).get("base_image")
    return below is not None and below not in [base["id"] for base in record["bases"]]


def _has_other_name(found: dict[str, object]) -> bool:
    names: list[object] = []
    for key in ("RepoTags", "RepoDigests"):
        values = found.get(key)
        names += values if isinstance(values, list) else []
    with suppress(ValueError):
        names.remove("<none>:<none>")
    return any(not str(name).startswith((f"{OURS}:", f"{OURS}@")) for name in names)
