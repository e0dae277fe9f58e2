"""What a Python interpreter has: its package folders, and the packages in them.

The interpreter itself is asked, in a process that imports nothing but the standard library, so that any interpreter
can be asked: another virtual environment's, the system's, conda's.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from trainkit.errors import EnvironmentBuildError

# -E keeps PYTHONPATH out; the first entry of the path is the current directory, which is not a package folder.
_FACTS = """
import json, os, site, sys
sys.path[:] = [p for p in sys.path if p not in ("", os.getcwd())]
sites = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
folders, packages = [p for p in sys.path if os.path.isdir(p)], []
for folder in folders:
    packages += sorted(n for n in os.listdir(folder) if n.endswith((".dist-info", ".egg-info")))
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "sites": [s for s in sites if os.path.isdir(s)],
                  "prefix": sys.prefix, "packages": packages, "folders": folders,
                  "real": os.path.realpath(sys.executable)}))
"""


@dataclass(frozen=True)
class Base:
    """An interpreter's version, package folders and the names of its installed packages' records.

    `folders` is all that it imports from, in order.
    """

    interpreter: str
    real: str
    prefix: str
    version: str
    sites: tuple[str, ...]
    packages: tuple[str, ...]
    folders: tuple[str, ...] = ()

    @property
    def minor(self) -> str:
        """Its version as "3.11"."""
        return ".".join(self.version.split(".")[:2])


def ask(interpreter: str, code: str, *arguments: str) -> str:
    """What `code` prints when the interpreter runs it; raises EnvironmentBuildError where it can't."""
    try:
        done = subprocess.run(
            [interpreter, "-E", "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise EnvironmentBuildError(f"The Python interpreter {interpreter} cannot be run: {e}.") from e
    if done.returncode:
        raise EnvironmentBuildError(f"The Python interpreter {interpreter} does not work.", done.stderr)
    return done.stdout


def base_of(interpreter: str) -> Base:
    """The facts of an interpreter, in about 50 ms."""
    facts = json.loads(ask(interpreter, _FACTS))
    lists = (tuple(facts[name]) for name in ("sites", "packages", "folders"))
    return Base(interpreter, facts["real"], facts["prefix"], facts["version"], *lists)
