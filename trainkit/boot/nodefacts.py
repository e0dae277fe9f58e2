"""What one node can say of itself before ranks start: its Python and packages, code, clock, room, limits and GPUs.

Plain JSON, gathered in less than a second without importing what the job needs; `trainkit.boot.findings` compares it.
Runs the job's interpreter once, and nvidia-smi where there are GPUs; changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

from trainkit.boot import gpuhealth, gpus, processes
from trainkit.boot.ranks import without_ranks
from trainkit.boot.rundir import AttemptDir, RunDir, read_json
from trainkit.errors import WorkspaceException
from trainkit.job import Job

SINGLED_OUT = ("torch", "horovod", "mpi4py", "numpy", "trainkit")
_PROBE_SECONDS = 2.0  # for what the head has written to be seen through a network's file system
_PYTHON_SECONDS = 20.0
_DRIVER = Path("/proc/driver/nvidia/version")
_LISTED_FILES = 200  # so many are told one by one: the finding can name those that differ
_FULL_BYTES = 4 << 20  # larger files are known by their size, beginning and end
_PART_BYTES = 1 << 16
# Runs in the job's interpreter, whatever its version: names and versions by the folders' names, no file is read.
_LIST_PACKAGES = """
def listed():
    import os, sys
    found = {}
    for folder in sys.path:
        if folder in ("", os.getcwd()):
            continue
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            stem, _, kind = name.rpartition(".")
            if kind in ("dist-info", "egg-info") and name[0] != "~":
                package, _, version = stem.partition("-")
                package = package.lower().replace("_", "-").replace(".", "-")
                found.setdefault(package, version.partition("-py")[0])
    return ["%d.%d.%d" % sys.version_info[:3], found]
"""
_TELL = _LIST_PACKAGES + "import json\nprint(json.dumps(listed()))\n"


def facts(job: Job, attempt: AttemptDir, node: int) -> Dict[str, Any]:
    """What this node says of itself, as plain values."""
    has_gpus = gpus.installed()
    asked = gpuhealth.ask() if has_gpus else None
    found: Dict[str, Any] = {
        "node": node,
        "host": socket.gethostname(),
        "machine": processes.boot_id(),
        "python": python(job.interpreter, job.environment),
        "code": code(RunDir(job.run_dir).code, job.attempt > 1),
        "probe": probe(attempt) if job.shared else None,
        "boot": not job.boot or os.path.isfile(job.boot),
        "disk_free": _free(job.run_dir),
        "shm_free": _free("/dev/shm"),
        "shm_size": _size("/dev/shm"),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": len(has_gpus),
        "driver": driver(),
    }
    found["gpu_health"] = asked.answer()._asdict() if asked else None
    found["time"] = time.time()
    return found


def python(interpreter: str, environment: Mapping[str, str]) -> Dict[str, Any]:
    """The interpreter's version and packages, or the `problem` that it has here."""
    if not os.path.exists(interpreter):
        return {"path": interpreter, "problem": "is missing"}
    if interpreter == sys.executable and not any(name.startswith("PYTHON") for name in environment):
        own: Dict[str, Any] = {}
        exec(_LIST_PACKAGES, own)
        return _told(interpreter, *own["listed"]())
    try:
        done = subprocess.run(
            [interpreter, "-B", "-c", _TELL], env={**without_ranks(os.environ), **environment}, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=_PYTHON_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"path": interpreter, "problem": "did not start within %g s" % _PYTHON_SECONDS}
    except OSError as error:
        return {"path": interpreter, "problem": "cannot be executed (%s)" % error.strerror}
    try:
        version, packages = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["exit code %d" % done.returncode]
        return {"path": interpreter, "problem": "does not start (%s)" % last[0][:200]}
    return _told(interpreter, version, packages)


def _told(interpreter: str, version: str, packages: Mapping[str, str]) -> Dict[str, Any]:
    return {
        "path": interpreter,
        "version": version,
        "digest": packages_digest(packages),
        "packages": packages,
        "main": {name: packages[name] for name in SINGLED_OUT if name in packages},
    }


def packages_digest(packages: Mapping[str, str]) -> str:
    """One short text for a set of packages and their versions."""
    return hashlib.sha256(json.dumps(sorted(packages.items())).encode()).hexdigest()[:16]


def code(folder: Path, modules_only: bool) -> Optional[Dict[str, Any]]:
    """A digest of the script's directory; None where there is none.

    After an attempt the directory may hold what ranks wrote there, each node its own: then modules alone count.
    """
    if not folder.is_dir():
        return None
    each = {}
    for path, name in _files(folder):
        if not modules_only or name.endswith(".py"):
            each[name] = _file_digest(path)
    digest = hashlib.sha256(json.dumps(sorted(each.items())).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    few = len(each) <= _LISTED_FILES
    return {"digest": digest, "files": len(each), **({"each": each} if few else {})}


def _files(folder: Path) -> Iterator[Tuple[str, str]]:
    """Path and relative name of every regular file; links (to the run's own folders) are not followed."""
    for parent, folders, names in os.walk(str(folder)):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for name in sorted(names):
            path = os.path.join(parent, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path, os.path.relpath(path, str(folder))


def _file_digest(path: str) -> str:
    """A short digest of a file's content."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _FULL_BYTES:
                data = file.read()
            else:
                data = file.read(_PART_BYTES)
                file.seek(-_PART_BYTES, os.SEEK_END)
                data += file.read()
    except OSError as error:
        return "unreadable: %s" % error.strerror
    return hashlib.sha256(b"%d:" % size + data).hexdigest()[:12]


def probe(attempt: AttemptDir) -> str:
    """What the head has written into the attempt's folder, as this node sees it; empty if it sees nothing."""
    deadline = time.monotonic() + _PROBE_SECONDS
    while True:
        try:
            found = read_json(attempt.probe)
        except (OSError, WorkspaceException):
            found = None
        if found:
            return str(found.get("nonce", ""))
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.05)


def driver() -> str:
    """The version of the NVIDIA driver; empty where there is none."""
    try:
        text = _DRIVER.read_text(errors="replace")
    except OSError:
        return ""
    match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return match.group(0) if match else ""


def _free(path: str) -> Optional[int]:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _size(path: str) -> Optional[int]:
    try:
        return shutil.disk_usage(path).total
    except OSError:
        return None
