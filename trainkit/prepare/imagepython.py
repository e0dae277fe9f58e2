"""Which Python an image has: it is run there once, without network, with nothing of this machine in sight."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.engines import ImageEngine, ask

OLDEST = (3, 8)  # what runs trainkit's boot zip
PROBE_SECONDS = 120.0
_ENGINES_OWN = (124, 125, 126, 127)  # exit codes that are not a program's in the image
_ABSENT = re.compile(r"executable file not found|no such file or directory|not found in \$PATH", re.IGNORECASE)
_MARK = "trainkit-python:"
# Python 2.7 reads it too, so that an old image is told from one without Python.
_FACTS = """
import json, os, sys
sys.path[:] = [p for p in sys.path if p]
facts = {"path": sys.executable, "version": list(sys.version_info[:3]), "trainkit": "", "pip": False, "conda": ""}
if sys.version_info >= (3, 8):
    import shutil
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec
    try:
        facts["trainkit"] = version("trainkit")
    except PackageNotFoundError:
        pass
    facts["pip"] = find_spec("pip") is not None
    if os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        there = [os.path.join(sys.prefix, "bin", "conda"), "/opt/conda/bin/conda"]
        found = [path for path in map(shutil.which, ["micromamba", "mamba", "conda"] + there) if path]
        facts["conda"], facts["prefix"] = (found or [""])[0], sys.prefix
print(sys.argv[1] + json.dumps(facts))
"""


@dataclass(frozen=True)
class Python:
    """An image's Python: `path` is absolute; `trainkit` is the version of trainkit that it has, "" for none.

    `conda` is the program that installs into `prefix`, where the image's Python is conda's and there is such a program.
    """

    path: str
    version: str
    trainkit: str
    pip: bool
    conda: str = ""
    prefix: str = ""


def names_for(interpreter: str) -> tuple[str, ...]:
    """What to look for, in this order: where nothing but "python" was said, images that call it python3 do as well."""
    return ("python", "python3") if interpreter == "python" else (interpreter,)


def python_in(engine: ImageEngine, image: str, name: str, interpreter: str) -> Python:
    """The Python called `interpreter` in the image of this id; people know the image as `name`.

    Raises EnvironmentBuildError where there is none, or it is too old.
    """
    old, said = "", ""
    for program in names_for(interpreter):
        answer = ask(engine.probe(image, program, ["-E", "-c", _FACTS, _MARK]), PROBE_SECONDS)
        facts = _facts(answer.output)
        if facts is None:
            if answer.code in _ENGINES_OWN and not _ABSENT.search(answer.error):
                raise EnvironmentBuildError(f"{engine.program} could not run the {name}: {answer.words}", answer.error)
            said = answer.error
            continue
        version = ".".join(map(str, facts["version"]))
        if tuple(facts["version"][:2]) >= OLDEST:
            return Python(
                path=str(facts["path"] or program),
                version=version,
                trainkit=str(facts["trainkit"]),
                pip=bool(facts["pip"]),
                conda=str(facts["conda"]),
                prefix=str(facts.get("prefix", "")),
            )
        old = old or version
    asked = " or ".join(names_for(interpreter))
    lowest = ".".join(map(str, OLDEST))
    if old:
        raise EnvironmentBuildError(
            f"The {name} has Python {old} as {asked}, but a job needs Python {lowest} or later: take a "
            "newer image, or name another Python in it with python.interpreter_path."
        )
    raise EnvironmentBuildError(
        f"The {name} has no Python {lowest} or later that runs as {asked}: add one to it, or name it with "
        "python.interpreter_path.",
        said,
    )


def _facts(output: str) -> dict[str, Any] | None:
    """What the image's Python said; None where there was none to say anything."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            return dict(json.loads(line[len(_MARK) :]))
    return None
