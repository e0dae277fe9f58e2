"""Names of new runs, and their places: one rule for submitted, interactive and offline runs.

A run's id is `{experiment}_{unix seconds}_{8 hex digits}`; its directory `<root>/runs/<experiment>/<id>`.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from trainkit.boot.rundir import make_private, read_json
from trainkit.errors import UserErrorException, WorkspaceException

SUBMITTED = "azureml.scriptrun"  # the type of a run that a driver advances
NAME_RULE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-]{0,254}")


def check_experiment_name(name: Any) -> str:
    """`name` where it may name an experiment; UserErrorException otherwise."""
    if isinstance(name, str) and NAME_RULE.fullmatch(name):
        return name
    raise UserErrorException(
        "Experiment name must be between 1 and 255 characters long. Its first character has to be alphanumeric, and "
        "the rest may contain hyphens and underscores. No whitespace is allowed. This was given: %r." % (name,)
    )


def make_root(root: Path) -> Path:
    """A workspace's root, made where it is missing: private, and ignored by git. Raises OSError."""
    if not root.is_dir():
        make_private(root)
        file = os.open(str(root / ".gitignore"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(file, b"*\n")
        os.close(file)
    return root


def experiments_dir(root: Path) -> Path:
    """The folder that holds one folder for each experiment."""
    return Path(root) / "runs"


def experiment_dir(root: Path, experiment: str) -> Path:
    """The folder of one experiment's runs; the name is checked."""
    return experiments_dir(root) / check_experiment_name(experiment)


def new_id(experiment: str) -> str:
    """An id that no other run has; it is a file's name, so a very long experiment's is cut."""
    return "%s_%d_%s" % (check_experiment_name(experiment)[:200], time.time(), os.urandom(4).hex())


def is_run_id(name: Any) -> bool:
    """Whether a text can be a run's id; what can, is safe as a file name."""
    return isinstance(name, str) and len(name) <= 255 and re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*", name) is not None


def find_run(root: Path, run_id: Any) -> Optional[Path]:
    """The directory of the run with this id, in whatever experiment; None where there is none."""
    if not is_run_id(run_id):
        return None
    likely: Path = experiments_dir(root) / run_id.rsplit("_", 2)[0] / run_id
    if (likely / "run.json").is_file():
        return likely
    for path in experiments_dir(root).glob("*/" + run_id):
        if (path / "run.json").is_file():
            return path
    return None


def run_dirs(root: Path, experiment: str) -> List[Path]:
    """The directories of an experiment's runs, in no order; runs in the making have hidden names and are left out."""
    try:
        with os.scandir(experiment_dir(root, experiment)) as entries:
            return [Path(e.path) for e in entries if e.name[0] != "." and e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def read_record(path: Path) -> Dict[str, Any]:
    """The content of a run's run.json; WorkspaceException where it is damaged or missing."""
    found = read_json(path / "run.json", "id", "experiment", "type", "created", "number")
    if found is None:
        raise WorkspaceException("%s is missing: the run was deleted, or its disk is not here." % (path / "run.json"))
    return dict(found)


def listed(path: Path) -> Dict[str, Any]:
    """`read_record`, for lists: of a damaged run, which must not keep them from the others, what its id says."""
    try:
        return read_record(path)
    except (WorkspaceException, OSError) as error:
        seconds = path.name.rpartition("_")[0].rpartition("_")[2]
        created = float(seconds) if seconds.isdigit() else 0.0
        return {"id": path.name, "experiment": path.parent.name, "created": created, "number": 0, "damaged": str(error)}


def next_number(root: Path, experiment: str) -> int:
    """The next of the experiment's run numbers: 1, 2, ... , each given once, whoever asks at the same time."""
    folder = make_private(experiment_dir(root, experiment))
    handle = os.open(str(folder / ".number"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        given = os.read(handle, 32)
        if given.isdigit():
            last = int(given)
        else:
            last = _highest_number(root, experiment)
            os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d" % (last + 1), 0)
        return last + 1
    finally:
        os.close(handle)


def _highest_number(root: Path, experiment: str) -> int:
    """The highest number of the experiment's runs, where the file that counts them is new or damaged."""
    return max((int(listed(path)["number"]) for path in run_dirs(root, experiment)), default=0)


def record(
    root: Path, experiment: str, run_id: str, kind: str, workspace_name: str, parent: Optional[str], **more: Any
) -> Dict[str, Any]:
    """The values of run.json that every kind of run has; `more` are added."""
    import getpass
    import socket
    import sys

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    values = {
        "id": run_id,
        "experiment": experiment,
        "type": kind,
        "created": time.time(),
        "display_name": run_id,
        "number": next_number(root, experiment),
        "parent": parent,
        "workspace": {"name": workspace_name, "root": str(root)},
        "tags": {},
        "user": user,
        "host": socket.gethostname(),
        "trainkit": getattr(sys.modules.get("trainkit"), "__version__", ""),
        "python": "%d.%d.%d" % sys.version_info[:3],
    }
    values.update(more)
    return values
