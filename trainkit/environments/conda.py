"""The Python of an environment that conda has made, found as conda itself lists it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from trainkit.errors import UserErrorException

_SECONDS = 60.0


def python_of(name: str) -> str:
    """The absolute path of the Python of conda's environment `name`; "base" is conda's own.

    Raises UserErrorException where there is no conda, no such environment, or no Python in it.
    """
    from trainkit.prepare.installer import conda

    program = conda()
    if program is None:
        raise UserErrorException(
            f"The conda environment {name!r} cannot be found: neither micromamba, mamba nor conda is on the PATH. Set "
            "python.interpreter_path to its Python instead."
        )
    folders = _listed(program)
    found = folders[:1] if name == "base" else [folder for folder in folders if Path(folder).name == name]
    if len(found) != 1:
        names = ", ".join(["base", *sorted({Path(folder).name for folder in folders[1:]})])
        why = f"lists {' and '.join(found)}" if found else f"has {names}"
        raise UserErrorException(
            f"There is no single conda environment named {name!r}: {program} {why}. Set python.interpreter_path to the "
            "Python that you mean."
        )
    python = os.path.join(found[0], "bin", "python")
    if not os.access(python, os.X_OK):
        raise UserErrorException(f"The conda environment {found[0]} has no Python: there is no {python}.")
    return python


def _listed(program: str) -> list[str]:
    """The folders of all environments, conda's own first."""
    try:
        done = subprocess.run(
            [program, "env", "list", "--json"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
        )
        listed = json.loads(done.stdout)["envs"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise UserErrorException(f"{program} could not list its environments: {error}.") from error
    return [str(folder) for folder in listed]
