"""What a machine needs that is to have an environment which is not on its disk: beside the environment, in a file.

Only environments that stand on nothing but a Python can be built again elsewhere: from their lock, at the same path.
The ssh launcher reads the file (`trainkit_launchers.remote.rebuilding`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from trainkit.boot.rundir import encode
from trainkit.errors import UserErrorException
from trainkit.prepare import locks
from trainkit.prepare.installer import uv
from trainkit.prepare.layer import interpreter_in
from trainkit.requirements import links_folder, parse

REBUILD = "rebuild.json"
WHEELS = "@WHEELS@"  # in the requirements: the folder, there, of the files that travel


def write(environment: Path, lock: str) -> None:
    """Write the file into the environment whose lock this is."""
    (environment / REBUILD).write_bytes(encode(recipe(environment, lock)))


def recipe(environment: Path, lock: str) -> dict[str, Any]:
    """The Python that the environment is made with, its requirements, and the local files that they mean."""
    requirements, files, refusal = travelling(lock)
    return {
        "python": os.path.realpath(interpreter_in(environment)),
        "uv": uv(),
        "requirements": requirements,
        "files": [str(path) for path in files],
        "refusal": refusal,
    }


def travelling(lock: str) -> tuple[str, list[Path], str]:
    """The lock with its local files in one folder that travels, these files, and why that cannot be, or nothing."""
    lines = [line for line in lock.splitlines() if not line.startswith("#")]
    options = [line for line in lines if line.startswith("--")]
    files: dict[str, Path] = {}
    made = [line for line in lines if not links_folder(line)]
    for number, line in enumerate(made):
        if line.startswith("--") or not line.strip() or line[0].isspace():
            continue
        words = line.rstrip(" \\")
        address = re.match(r"^\S+ @ (file://\S+)", words)
        try:
            found = [Path(unquote(urlparse(address[1]).path))] if address else locks.files(_plain(words), options)
        except UserErrorException:
            continue
        if address and not found[0].is_file():
            return "", [], (
                f"{words.partition(' @ ')[0]} was installed from the folder {found[0]}, which is on this machine only: "
                "make a wheel of it (uv build --wheel) and name that file"
            )  # fmt: skip
        files.update({path.name: path for path in found})
        if address:
            made[number] = line.replace(address[1].partition("#")[0], f"file://{WHEELS}/{found[0].name}")
    if len(made) < len(lines) or files:
        made.insert(0, f"--find-links {WHEELS}")
    return "\n".join(made) + "\n", list(files.values()), ""


def _plain(line: str) -> Any:
    """The requirement of a lock's line, without its hashes."""
    return parse(line.partition(" --hash=")[0])
