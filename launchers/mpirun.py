"""The MPI library that a job's interpreter loads, and the mpirun that belongs to it.

Ranks started by one MPI's mpirun that load another's library do not fail: each is a world of one. So the library is
asked for its own path, and only an mpirun of the same family and version is taken.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainkit.errors import LaunchError

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
    """An MPI: `kind` is openmpi, mpich or intel, `library` the file that ranks load (empty: they load none)."""

    kind: str
    version: str
    library: str
    mpirun: str

    @property
    def words(self) -> str:
        """For messages: version, library and mpirun."""
        return f"{self.version} (library {self.library or 'not loaded by ranks'}, mpirun {self.mpirun})"

    @property
    def dialect(self) -> str:
        """Which words its mpirun understands: openmpi4, openmpi5, mpich or intel."""
        if self.kind != "openmpi":
            return self.kind
        major = re.search(r"(\d+)\.\d", self.version)
        return "openmpi4" if major and int(major.group(1)) < 5 else "openmpi5"


def find_mpi(interpreter: str) -> Mpi:
    """The mpirun of the MPI library that mpi4py loads in `interpreter`, else one beside it or on PATH.

    Raises LaunchError naming what to install where there is none, or where the library's own mpirun is missing, and one
    that is transient where a program does not answer in time or cannot be started.
    """
    probe = _run([interpreter, "-c", _PROBE], 60.0)
    if probe.returncode == 0:
        version, library = (probe.stdout.splitlines() + ["", ""])[:2]
        kind = _kind(version)
        mpirun = _belonging(kind, Path(os.path.realpath(library)), version)
        if not mpirun:
            raise LaunchError(
                f"The job's mpi4py loads {library} ({version}), and no mpirun that belongs to it was found. Install it "
                f"(Debian: {'openmpi-bin' if kind == 'openmpi' else 'mpich'}), or take both from the Python registry: "
                "pip install 'trainkit[mpi]'."
            )
        return Mpi(kind, version, library, mpirun)
    beside = shutil.which("mpirun", path=os.path.dirname(interpreter) + os.pathsep + os.environ.get("PATH", ""))
    if not beside:
        raise LaunchError(
            f"No mpirun was found beside {interpreter} or on PATH, and it has no mpi4py: pip install 'trainkit[mpi]' "
            "brings both, or use another spread (fork, torchrun)."
        )
    version = _version(beside)
    return Mpi(_kind(version), version, "", beside)


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        why = f"has not said within {seconds:g} s which MPI it has"
    except OSError as error:
        why = f"cannot be started: {error.strerror or error}"
    raise LaunchError(f"{command[0]} {why}.", command=command, transient=True)


def _kind(version: str) -> str:
    words = version.lower()
    return "openmpi" if "open mpi" in words or "openrte" in words else "intel" if "intel" in words else "mpich"


def _version(mpirun: str) -> str:
    """The first line of what it says of itself. Raises LaunchError where it cannot even do that."""
    shown = _run([mpirun, "--version"], 20.0)
    if shown.returncode != 0:
        words = (shown.stderr.strip() or shown.stdout.strip()).splitlines()
        raise LaunchError(f"{mpirun} does not work here: {words[0] if words else f'exit code {shown.returncode}'}")
    return shown.stdout.strip().splitlines()[0] if shown.stdout.strip() else ""


def _belonging(kind: str, library: Path, version: str) -> str | None:
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
