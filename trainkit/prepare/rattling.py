"""Makes one conda environment with py-rattler: a program of its own, so that it can be ended, and its words logged.

    python -m trainkit.prepare.rattling '{"channels": [...], "packages": [...], "prefix": DIR, "offline": false}'

It writes into the prefix and into rattler's cache (~/.cache/rattler, or where RATTLER_CACHE_DIR says).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

# What conda means by this name; rattler knows channels of anaconda.org only.
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")


def sources(channels: Sequence[str], packages: Sequence[str]) -> list[str]:
    """The channels to ask: those named, and those that packages name ("bioconda::samtools")."""
    named = [package.partition("::")[0] for package in packages if "::" in package]
    found: list[str] = []
    for channel in (*channels, *named):
        found += _DEFAULTS if channel == "defaults" else (channel,)
    return list(dict.fromkeys(found))


async def make(channels: Sequence[str], packages: Sequence[str], prefix: str, offline: bool) -> None:
    """Decide which packages are needed, and install them."""
    import rattler

    config = rattler.SourceConfig(cache_action="force-cache-only" if offline else "cache-or-fetch")
    records = await rattler.solve(
        sources(channels, packages),
        [rattler.MatchSpec(package) for package in packages],
        gateway=rattler.Gateway(default_config=config),
        virtual_packages=rattler.VirtualPackage.detect(),
    )
    for record in sorted(records, key=lambda r: str(r.name.normalized)):
        print(f" + {record.name.normalized} {record.version} {record.build}", flush=True)
    await rattler.install(records, prefix, show_progress=False)


def main(argv: Sequence[str]) -> int:
    """Make what the one argument asks for."""
    asked: dict[str, Any] = json.loads(argv[0])
    try:
        asyncio.run(make(asked["channels"], asked["packages"], asked["prefix"], asked["offline"]))
    except Exception as error:  # rattler's own kinds have no common parent; its words are all that is needed
        print(f"error: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(ended)  # rattler's threads may still call into Python, which is fatal to an interpreter that finalises
