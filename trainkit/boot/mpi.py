"""The MPI library that a job's interpreter loads, and the mpirun that belongs to it.

Ranks started by one MPI's mpirun that load another's library do not fail: each is a world of one. So the library is
asked for its own path, and a rank whose world turns out to have another size says which two libraries met.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

from trainkit.errors import LaunchError, RunEnvironmentException

_PROBE = """
import mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
libraries = [line.split()[-1] for line in open("/proc/self/maps") if "/libmpi" in line]
print(MPI.Get_library_version().split(chr(0))[0].splitlines()[0])
print(libraries[0] if libraries else "")
"""


@dataclass(frozen=True)
class Mpi:
    """An MPI: `kind` is openmpi or mpich, `library` the file that ranks load (empty: they load none)."""

    kind: str
    version: str
    library: str
    mpirun: str

    @property
    def words(self) -> str:
        """For messages: version, library and mpirun."""
        return "%s (library %s, mpirun %s)" % (self.version, self.library or "not loaded by ranks", self.mpirun)


def find_mpi(interpreter: str) -> Mpi:
    """The mpirun of the MPI library that mpi4py loads in `interpreter`, else one beside it or on PATH.

    Raises LaunchError naming what to install where there is none, or where the library's own mpirun is missing.
    """
    probe = subprocess.run([interpreter, "-c", _PROBE], capture_output=True, text=True, timeout=60)
    if probe.returncode == 0:
        version, library = (probe.stdout.splitlines() + ["", ""])[:2]
        kind = "openmpi" if "open mpi" in version.lower() else "mpich"
        mpirun = _belonging(kind, Path(os.path.realpath(library)), version)
        if not mpirun:
            raise LaunchError(
                "The job's mpi4py loads %s (%s), and no mpirun that belongs to it was found. Install it (Debian: "
                "%s), or take both from the Python registry: pip install 'trainkit[mpi]'."
                % (library, version, "openmpi-bin" if kind == "openmpi" else "mpich")
            )
        return Mpi(kind, version, library, mpirun)
    beside = shutil.which("mpirun", path=os.path.dirname(interpreter) + os.pathsep + os.environ.get("PATH", ""))
    if not beside:
        raise LaunchError(
            "No mpirun was found beside %s or on PATH, and it has no mpi4py: pip install 'trainkit[mpi]' brings both, "
            "or use another spread (fork, torchrun)." % interpreter
        )
    version = _version(beside)
    return Mpi("openmpi" if "open" in version.lower() else "mpich", version, "", beside)


def _version(mpirun: str) -> str:
    shown = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=20).stdout.strip()
    return shown.splitlines()[0] if shown else ""


def _belonging(kind: str, library: Path, version: str) -> Optional[str]:
    """The mpirun in the prefix of an MPI library; Debian has several, told apart by their suffix."""
    for prefix in library.parents:
        for name in ("mpirun." + kind, "mpirun"):
            path = prefix / "bin" / name
            if path.is_file() and os.access(str(path), os.X_OK) and _same(kind, _version(str(path)), version):
                return str(path)
    return None


def _same(kind: str, program: str, library: str) -> bool:
    """Whether an mpirun's words and a library's name one MPI: the same family and major version."""
    if kind == "openmpi":
        major = library.lower().replace(",", " ").partition("open mpi v")[2].partition(".")[0]
        return "open" in program.lower() and (not major or program.split()[-1].startswith(major + "."))
    return "open" not in program.lower()


class _CheckWorld(importlib.abc.MetaPathFinder):
    """Checks the size of MPI's world right after the script has imported mpi4py.MPI."""

    def __init__(self, size: int, words: str) -> None:
        self.size, self.words = size, words

    def find_spec(self, name: str, path: Optional[Sequence[str]], target: Any = None) -> Any:
        """Wrap the loader of mpi4py.MPI; every other module is left alone."""
        if name != "mpi4py.MPI":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            if module.Is_initialized() and module.COMM_WORLD.Get_size() != self.size:
                raise RunEnvironmentException(
                    "mpi4py sees a world of %d where the job has %d ranks: it loads %s, but the ranks were started by "
                    "%s. Use one MPI for both: pip install --force-reinstall 'trainkit[mpi]' in the job's environment."
                    % (
                        module.COMM_WORLD.Get_size(),
                        self.size,
                        module.Get_library_version().splitlines()[0],
                        self.words,
                    )
                )

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def check_world(size: int) -> None:
    """From now on an import of mpi4py.MPI in this process fails unless its world has `size` ranks."""
    words = os.environ.get("TRAINKIT_MPI", "")
    if words:
        sys.meta_path.insert(0, _CheckWorld(size, words))
