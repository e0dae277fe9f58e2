"""Builds a loop and fits it: `python -m trainkit.loops.run module:build --lr 3e-3`, alone or as each of many ranks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainkit.boot.settings import in_job
from trainkit.errors import TrainkitError, UserErrorException
from trainkit.loops.building import arguments_for, load_build


def fit(name: str, directory: Path, words: Sequence[str]) -> Any:
    """What `build(...).fit()` returns, where `name` is "module:build" and `words` are the arguments of `build`."""
    build = load_build(name, directory)
    loop = build(**arguments_for(build, words))
    if not callable(getattr(loop, "fit", None)):
        raise UserErrorException(f"{name} returned {type(loop).__name__}, which has no fit(): return a TorchLoop.")
    return loop.fit()


def main(argv: Sequence[str]) -> int:
    """Entry point: the loop's name, then the arguments of its builder."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m trainkit.loops.run module:build [--NAME VALUE ...]")
        return 0 if argv else 2
    fit(argv[0], Path.cwd(), argv[1:])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TrainkitError as error:
        if in_job():
            raise  # the rank's record has it
        print(f"trainkit: {error.message}", file=sys.stderr)
        sys.exit(2)
