"""The run directory: the only file that knows file names, and the two ways in which trainkit writes a file.

A file is either written once (`publish`, `replace`) or only appended to (`Lines`); every file has one writer. The
layout is documented in docs/architecture.md. All of a workspace's files are private to their user (mode 0600, 0700).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from trainkit.errors import WorkspaceException

PathLike = Union[str, "os.PathLike[str]"]
_HALF_MADE_SECONDS = 24 * 3600.0  # nothing is in the making for longer
TERMINAL = ("Completed", "Failed", "Canceled")


class RunDir:
    """Names of all files of one run; nothing is read or written here."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.run = self.path / "run.json"  # what the run is: written at submit
        self.job = self.path / "job.json"  # what the driver is to do: written at submit, before the driver starts
        self.cancel = self.path / "cancel.json"  # somebody asked for the end
        self.state = self.path / "state.json"  # how it ended: the first to publish it wins
        self.stages = self.path / "stages.jsonl"  # the driver's steps: {"time", "status", "details"}
        self.driver_lock = self.path / "driver.lock"
        self.driver_log = self.path / "driver.log"
        self.prepare_log = self.path / "prepare.log"  # what pip, uv or conda printed
        self.environment = self.path / "environment.json"  # what was prepared: interpreter, digests, image
        self.packages = self.path / "requirements.lock"  # the exact packages of a prepared environment
        self.conda_packages = self.path / "conda.lock"  # those of conda
        self.home = self.path / "home"  # the home directory of ranks in a container
        self.code = self.path / "code"  # the snapshot: the script's working directory
        self.outputs = self.path / "outputs"  # code/outputs links here
        self.logs = self.path / "logs"  # code/logs links here
        self.uploads = self.path / "uploads"  # files given by upload_file and log_image
        self.events = self.path / "events"
        self.properties = self.path / "properties"  # one file a property: written once
        self.once = self.path / "once"  # one file for each thing that must happen once
        self.children = self.path / "children"
        self.checkpoints = self.path / "checkpoints"  # a training loop's: one directory a checkpoint
        self.samples = self.path / "samples.jsonl"  # a training loop's: which samples each epoch's parts consumed

    def attempt(self, number: int) -> "AttemptDir":
        """Files of the `number`-th formation of a world, from 1."""
        return AttemptDir(self.path / "attempts" / str(number))

    def attempts(self) -> List["AttemptDir"]:
        """All attempts so far, oldest first."""
        numbers = [int(p.name) for p in (self.path / "attempts").glob("*") if p.name.isdigit()]
        return [self.attempt(n) for n in sorted(numbers)]

    def events_of(self, writer: str) -> Path:
        """The event file of one writer: "rank-3" or "client"."""
        return self.events / (writer + ".jsonl")

    def property(self, key: str) -> Path:
        """The file of one property; any text is a valid key."""
        import hashlib

        data = key.encode("utf-8", "surrogatepass")
        name = data.hex() if len(data) <= 100 else "long-" + hashlib.sha256(data).hexdigest()
        return self.properties / (name + ".json")


class AttemptDir:
    """Names of the files of one attempt."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.number = int(self.path.name)
        self.job = self.path / "job.json"  # trainkit.job.Job, as the agents read it
        self.key = self.path / "key"  # authenticates the agents' channel
        self.head = self.path / "head.json"  # where node 0's agent listens
        self.handle = self.path / "handle.json"
        self.nodes = self.path / "nodes"
        self.beat = self.nodes / "0.beat"  # the head agent's sign of life, where nodes are on several machines
        self.probe = self.path / "probe.json"  # a number of the head's, which the others can read where they share it
        self.hangs = self.path / "hangs.jsonl"  # ranks that held others up: {"time", "ranks", "words", "stacks", ...}
        self.preflight = self.path / "preflight.json"  # what the nodes found of each other before the ranks started
        self.ranks = self.path / "ranks"
        self.logs = self.path / "logs"

    def next(self) -> "AttemptDir":
        """The attempt after this one."""
        return AttemptDir(self.path.parent / str(self.number + 1))

    def rank_record(self, rank: int) -> Path:
        """How rank `rank` ended."""
        return self.ranks / ("%d.json" % rank)

    def notes(self, node: int) -> Path:
        """When the logs of a node's ranks had grown to which size."""
        return self.logs / ("notes-%d" % node)

    def rank_log(self, rank: int) -> Path:
        """What rank `rank` printed."""
        return self.logs / ("rank-%d.log" % rank)

    def agent_lock(self, node: int) -> Path:
        """Held by the node's agent while it lives."""
        return self.nodes / ("%d.lock" % node)

    def guard_lock(self, node: int) -> Path:
        """Held while the node's container is started, watched and removed."""
        return self.nodes / ("%d.guard.lock" % node)

    def agent(self, node: int) -> Path:
        """The node agent's identity: boot id, pid, birth."""
        return self.nodes / ("%d.agent.json" % node)

    def agent_end(self, node: int) -> Path:
        """How the node's agent ended: its commands' exit statuses and the reason."""
        return self.nodes / ("%d.end.json" % node)

    def stopped(self, node: int) -> Path:
        """Who stopped the node's container, where it was neither its job nor anybody who asked for the job's end."""
        return self.nodes / ("%d.stopped.json" % node)

    def agent_log(self, node: int) -> Path:
        """What the agent itself, mpirun or torchrun printed."""
        return self.logs / ("agent-%d.log" % node)


def make_private(path: PathLike) -> Path:
    """The directory `path`, made with its parents where missing, readable by its user only."""
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):  # makedirs would give only the last one its mode
        folder.mkdir(mode=0o700, exist_ok=True)
    return path


def sweep(folder: PathLike, directories: bool) -> None:
    """Remove what killed processes left half made in `folder`: its hidden directories, or files, of yesterday."""
    import shutil

    with os.scandir(folder) as found:
        hidden = [entry for entry in found if entry.name[0] == "."]
    for entry in hidden:
        try:
            old = entry.stat(follow_symlinks=False).st_mtime < time.time() - _HALF_MADE_SECONDS
            if old and entry.is_dir(follow_symlinks=False) == directories:
                shutil.rmtree(entry.path) if directories else os.unlink(entry.path)
        except OSError:  # another process was faster
            continue


def read_json(path: PathLike, *keys: str) -> Optional[Any]:
    """The file's JSON object, or None where there is no such file; it has at least these keys.

    Raises WorkspaceException where it was damaged: cut short, overwritten, or by another's hand.
    """
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())  # of bytes: takes every text that `encode` writes
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(path, "it holds no object in braces")
    missing = [key for key in keys if key not in value]
    if missing:
        raise _damaged(path, "it lacks %s" % ", ".join(missing))
    return value


def _damaged(path: PathLike, why: str) -> WorkspaceException:
    return WorkspaceException("%s is damaged (%s). Restore it from a copy, or remove it." % (path, why))


def _temporary(path: Path, data: bytes) -> str:
    """A synced file with `data` beside `path`."""
    import tempfile

    make_private(path.parent)
    handle, name = tempfile.mkstemp(prefix=".", dir=str(path.parent))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name)
        raise
    return name


def encode(value: Any) -> bytes:
    """JSON as trainkit stores it; what JSON has no form for is stored as its text."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def publish(path: PathLike, value: Any) -> bool:
    """Write `value` as JSON unless the file exists; atomic, and of several writers the first wins.

    Returns whether this call wrote it.
    """
    path = Path(path)
    if path.exists():
        return False
    name = _temporary(path, encode(value))
    try:
        os.link(name, path)
        return True
    except FileExistsError:
        return False
    finally:
        os.unlink(name)


def replace(path: PathLike, value: Any) -> None:
    """Write `value` as JSON in one step, over what was there; for files of one writer."""
    path = Path(path)
    name = _temporary(path, encode(value))
    os.replace(name, path)


class Lines:
    """An append-only file of JSON lines with one writer: a line is in the kernel's hands when `append` returns.

    So it survives the death of the process at once; `sync` makes it survive the machine's.
    """

    def __init__(self, path: PathLike) -> None:
        make_private(Path(path).parent)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._repair()

    def _repair(self) -> None:
        """End a line that a killed writer left half written, so that the next one starts on its own."""
        size = os.fstat(self._fd).st_size
        if size:
            with open("/proc/self/fd/%d" % self._fd, "rb") as file:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    os.write(self._fd, b"\n")

    def append(self, value: Any) -> None:
        """Add one line. Raises OSError where the disk is full; a partial line is ended by the next writer."""
        data = encode(value) + b"\n"
        written = os.write(self._fd, data)
        while written < len(data):
            written += os.write(self._fd, data[written:])

    def sync(self) -> None:
        """Force what was appended onto the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        os.close(self._fd)


def read_lines(path: PathLike) -> Iterator[Dict[str, Any]]:
    """The objects of a JSON lines file; a torn line (of a writer that was killed) is passed over."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value
