"""Why packages could not be installed, in words that name the package, the reason and what to ask for instead."""

from __future__ import annotations

import re
from typing import Protocol

from trainkit.prepare.base import Base
from trainkit.requirements import Requirement, normalised

_NEEDS_BUILD = re.compile(r"^hint: Wheels are required for `([^`]+)`", re.MULTILINE)
_LACKS = re.compile(r"([\w.-]+?)(?:[=<>!~]\S*)? ha(?:s|ve) no (?:usable )?wheels")
_ABSENT = re.compile(r"(\S+) was not found in (?:the package registry|the provided package locations)")
_NO_VERSION = re.compile(r"there (?:is|are) no versions? of ([\w.-]+)(\S*)")
_UNREACHABLE = re.compile(r"error sending request|Request failed after|dns error|network was disabled|timed out")
_BUILD_FAILED = re.compile(r"Failed to (?:build|download and build) `([^`]+)`")
_CAUSE = re.compile(r"cause: (.*?)(?:\n\s*\n|\nhint|\Z)", re.DOTALL)


class Index(Protocol):
    """What is asked of the package registry, and for whom."""

    requirements: list[Requirement]

    @property
    def base(self) -> Base: ...

    def has_build(self, requirement: str) -> bool: ...

    def lowest_build(self, name: str, above: str = "") -> str: ...

    def newest_build(self, name: str) -> str: ...


def without_build(output: str) -> list[str]:
    """Packages of which the installer says that only sources would do."""
    return sorted({normalised(name) for name in _NEEDS_BUILD.findall(output)})


def explain(output: str, index: Index) -> str:
    """One paragraph for the user: which package, why, and what to do."""
    lacking = {normalised(name) for name in _LACKS.findall(output)}
    if any(r.name in lacking for r in index.requirements):
        # The installer stops at the first; whoever corrects one pin should see the others too.
        bad = [r for r in index.requirements if (r.name in lacking or r.pin) and not index.has_build(r.line)]
        if bad:
            sources = without_build(output)
            return " ".join(_no_build(r, index, r.name in sources) for r in bad)
    failed = _BUILD_FAILED.search(output)
    if failed:
        return (
            f"{failed[1]} has no build for Python {index.base.minor} here, and building it from source failed: see "
            "the installer's output. Ask for a version that has a build."
        )
    absent = _ABSENT.search(output)
    if absent and not _UNREACHABLE.search(output):
        return f"There is no package named {absent[1]!r} in the package registry: check the name."
    missing = _NO_VERSION.search(output)
    if missing:
        newest = index.newest_build(missing[1])
        advice = f"; the newest that has a build for Python {index.base.minor} is {newest}" if newest else ""
        return f"There is no version of {missing[1]} that is {missing[2].lstrip('=') or 'as asked'}{advice}."
    if _UNREACHABLE.search(output):
        return (
            "The package registry could not be reached. Check the network, or the index that is configured for uv "
            "(UV_INDEX, UV_DEFAULT_INDEX or its uv.toml), and submit again."
        )
    cause = _CAUSE.search(output)
    reason = " ".join(cause[1].split()) if cause else "see the installer's output."
    return f"The packages asked for cannot be installed for Python {index.base.minor}: {reason}"


def _no_build(requirement: Requirement, index: Index, has_source: bool) -> str:
    """The sentence on one requirement that no build satisfies."""
    text = f"{requirement.line} cannot be installed: it has no build for Python {index.base.minor} on this machine."
    lowest = index.lowest_build(requirement.name, requirement.pin)
    if not lowest:
        lowest = index.newest_build(requirement.name)
        if not lowest:
            return text + f" No version of {requirement.name} has one: ask for another package."
        return text + f" The newest version that has one is {requirement.name}=={lowest}."
    word = "lowest higher version" if requirement.pin else "lowest version"
    text += f" The {word} that has one is {requirement.name}=={lowest}: ask for that, or for "
    text += f"'{requirement.name}>={lowest}'."
    if has_source:
        text += (
            f" To compile it from its sources all the same, add '--no-binary {requirement.name}' to the pip packages."
        )
    return text
