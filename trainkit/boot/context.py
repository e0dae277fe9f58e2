"""The run that a process is part of: what a training script calls to record metrics, tags, files.

Ranks never talk to anybody: every call appends a line or writes a file in the run's directory, from where any process
reads it at once. Any rank may call anything: metrics are kept for each rank; what must happen once, happens once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ContextManager, Dict, Mapping, Optional, Sequence, Tuple, Type, TypeVar

from trainkit.boot import files
from trainkit.boot.metriclog import MetricLog
from trainkit.boot.ranks import Rank, rank_from
from trainkit.boot.rundir import PathLike, RunDir, publish, read_json
from trainkit.boot.worlds import RUN_DIR
from trainkit.boot.writer import EventWriter
from trainkit.errors import RunEnvironmentException, UserErrorException

Context = TypeVar("Context", bound="RunContext")
_current: Dict[Any, "RunContext"] = {}  # (class, run directory, rank) to this process's one object
# What needs more than the standard library, or more than one process: of the whole trainkit only.
_WHOLE: Tuple[str, ...] = (
    "get_metrics",
    "get_tags",
    "get_properties",
    "get_file_names",
    "download_file",
    "register_model",
)
_WHOLE += ("get_status", "get_details", "wait_for_completion", "cancel", "experiment", "parent", "child_run")
_WHOLE += ("tags", "properties", "number", "name", "type", "status", "display_name", "get_environment")
_WHOLE += ("get_portal_url", "get_all_logs", "get_details_with_logs", "get_children", "create_children", "submit_child")
_WHOLE += ("get_snapshot_id", "take_snapshot", "restore_snapshot", "download_files", "list")


class RunContext(MetricLog):
    """One process's view of a run, for writing. `trainkit.Run` adds reading, waiting and registering."""

    def __init__(self, path: PathLike, writer: str = "client", attempt: int = 0, rank: Rank = Rank()) -> None:  # noqa: B008
        self._dir = RunDir(path)
        self._writer, self._attempt, self._rank = writer, attempt, rank
        self._events = EventWriter(self._dir.events_of(writer))
        self._append = self._events.add
        self._uploaded: Dict[str, int] = {}  # names that this process has stored, or found stored by another rank
        self._asked: Dict[str, int] = {}  # what must happen once for all ranks, and how often this one asked for it
        self._facts: Optional[Dict[str, Any]] = None

    @classmethod
    def get_context(cls: Type[Context], allow_offline: bool = True) -> Context:
        """The run of the job that this process is a rank of. Raises RunEnvironmentException outside a job."""
        context = cls._in_job()
        if context is None:
            raise RunEnvironmentException(
                "This process is not part of a job, so there is no run here: submit the script with "
                "Experiment.submit or `trainkit submit`."
                + (" Runs outside a job need the whole of trainkit: install it here." if allow_offline else "")
            )
        return context

    @classmethod
    def _in_job(cls: Type[Context]) -> Optional[Context]:
        """The one object of this process for the job's run; None outside a job."""
        path = os.environ.get(RUN_DIR, "")
        if not path:
            return None
        if not os.path.isdir(path):
            raise RunEnvironmentException(
                "%s names %s, which does not exist: the run was deleted, or its disk is not here." % (RUN_DIR, path)
            )
        rank = rank_from(os.environ)
        key = (cls, path, rank.rank)
        found = _current.get(key)
        if found is None:
            found = cls.__new__(cls)
            RunContext.__init__(found, path, "rank-%d" % rank.rank, int(os.environ.get("TRAINKIT_ATTEMPT", "1")), rank)
            found = _current.setdefault(key, found)
        return found  # type: ignore[return-value]

    @classmethod
    def get_submitted_run(cls: Type[Context]) -> Context:
        """The older name of `get_context(allow_offline=False)`."""
        return cls.get_context(allow_offline=False)

    def __getattr__(self, name: str) -> Any:
        if name in _WHOLE and type(self) is RunContext:
            raise AttributeError(
                "Run.%s needs the whole of trainkit: install trainkit in this job's environment." % name
            )
        raise AttributeError("Run has no attribute %r" % name)

    def __reduce__(self) -> Any:
        """A data loader's worker process may be handed the run: it writes as the same rank."""
        return _same_place, (type(self), str(self._dir.path), self._writer, self._attempt, self._rank)

    @property
    def _record(self) -> Dict[str, Any]:
        """run.json: written once, so read once."""
        if self._facts is None:
            from trainkit.boot.newrun import read_record

            self._facts = read_record(self._dir.path)
        return self._facts

    @property
    def id(self) -> str:
        """The run's id: `{experiment}_{unix seconds}_{8 hex digits}`."""
        return self._dir.path.name

    @property
    def rank(self) -> int:
        """This process's place in its job, from 0."""
        return self._rank.rank

    @property
    def world_size(self) -> int:
        """How many ranks the job has."""
        return self._rank.world_size

    # --- what this rank does now

    def phase(self, name: str) -> None:
        """Say what this rank does from now on, such as "tokenise": told where the others wait for it too long."""
        from trainkit.boot.pulse import current

        current().declare(str(name))

    def waiting(self) -> ContextManager[None]:
        """`with run.waiting():` around a barrier of the script's own: the rank that others wait for is named."""
        from trainkit.boot.pulse import current

        return current().waiting()

    # --- tags and properties

    def tag(self, key: str, value: Any = None) -> None:
        """Set one tag; the last value counts."""
        if not isinstance(key, str):
            raise UserErrorException("A tag's key must be a text; this was given: %r." % (key,))
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set several tags; the last value of each counts."""
        for key, value in _texts("tag", tags).items():
            self._event("tag", key, value)

    def remove_tags(self, tags: Any) -> None:
        """Remove tags by key, given as one text or several."""
        try:
            keys = dict.fromkeys([tags] if isinstance(tags, str) else tags)
        except TypeError:
            raise UserErrorException("Tags are removed by their keys, texts; this was given: %r." % (tags,)) from None
        for key in _texts("tag", keys):
            self._event("untag", key, None)

    def add_properties(self, properties: Mapping[str, Any]) -> None:
        """Add properties, which are written once; UserErrorException where one exists with another value.

        Of several ranks that add a property the first one's value counts.
        """
        for key, value in _texts("property", properties).items():
            entry = {"key": key, "value": value, "time": time.time(), "by": self._writer}
            if publish(self._dir.property(key), entry):
                continue
            found = read_json(self._dir.property(key)) or {}
            other_rank = self._rank.world_size > 1 and found.get("by") not in ("client", self._writer)
            if found.get("value") != value and not other_rank:
                raise UserErrorException(
                    "The property %r of run %s is %r already; a property is written once: use a tag for what changes."
                    % (key, self.id, found.get("value"))
                )

    # --- files

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: Optional[str] = None) -> files.Stored:
        """Store a copy of a file, or of what an open file yields, under `name` in the run.

        A name is given once: UserErrorException where it is taken. Ranks that store the same name store one file, rank
        0's if it is one of them; give each rank a name of its own to keep all.
        """
        if datastore_name is not None:
            raise UserErrorException("datastore_name=%r: files are kept with their run; leave it out." % datastore_name)
        name = files.checked_name(name)
        own = name in self._uploaded
        again = self._attempt > 1 and not own  # a restarted job does what it did before
        first_rank = self._rank.world_size > 1 and self._rank.rank == 0 and not own
        uploads = self._dir.uploads in files.place(self._dir, name).parents
        if files.put(self._dir, name, path_or_stream, replace=again or (first_rank and uploads)):
            self._event("file", name, None)
        elif files.same(self._dir, name, path_or_stream):
            pass
        elif own or not uploads or self._rank.world_size == 1:
            raise UserErrorException(
                "Run %s has a file named %r already; a file is stored once: choose another name." % (self.id, name)
            )
        self._uploaded[name] = 1
        return files.Stored(name)

    def upload_files(self, names: Sequence[str], paths: Sequence[Any], datastore_name: Optional[str] = None) -> None:
        """`upload_file` for each name and path; nothing is stored where one of them cannot be."""
        if isinstance(names, str) or isinstance(paths, str) or len(names) != len(paths):
            raise UserErrorException("upload_files needs as many names as paths, each in a list.")
        checked = [files.checked_name(name) for name in names]
        for name, path in zip(checked, paths):
            files.regular(name, path)
        for name, path in zip(checked, paths):
            self.upload_file(name, path, datastore_name)

    def upload_folder(self, name: str, path: Any, datastore_name: Optional[str] = None) -> None:
        """`upload_file` for every file below the folder `path`, under `name`/..."""
        if not isinstance(path, (str, os.PathLike)):
            raise UserErrorException("%r cannot be uploaded as %r: give a folder's path." % (path, name))
        folder = Path(path)
        if not os.path.isdir(str(folder)):
            raise UserErrorException(
                "%s cannot be uploaded as %r: there is no such folder (the current directory is %s)."
                % (path, name, os.getcwd())
            )
        found = sorted(p for p in folder.rglob("*") if p.is_file())
        names = ["%s/%s" % (name, p.relative_to(folder).as_posix()) for p in found]
        self.upload_files(names, found, datastore_name)

    # --- the run's end, and what surrounds it

    def flush(self, timeout_seconds: float = 300) -> None:
        """Force what this process has recorded onto the disk. Readers see it without this call."""
        self._events.flush()

    def complete(self, _set_status: bool = True) -> None:
        """In a job: flush; the job's end decides the status."""
        self.flush()

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """In a job: record the details and flush; the job's end decides the status."""
        if error_details is not None or error_code is not None:
            self._event("fail", str(error_code or ""), str(error_details or ""))
        self.flush()

    def __enter__(self: Context) -> Context:
        return self

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> None:
        if error is None:
            self.complete()
        else:
            self.fail(error)

    def get_secret(self, name: str) -> str:
        """A secret by reference: the environment variable `name` (or NAME_IN_CAPITALS), else the machine's keyring.

        Secrets are in no file of trainkit. Raises UserErrorException where there is none.
        """
        for variable in (str(name), str(name).upper().replace("-", "_")):
            if os.environ.get(variable):
                return os.environ[variable]
        found = _from_keyring(str(name))
        if found is None:
            raise UserErrorException(
                "There is no secret %r: set an environment variable of this name in the job, or store it with "
                "`keyring set trainkit %s`." % (name, name)
            )
        return found

    def get_secrets(self, secrets: Sequence[str]) -> Dict[str, str]:
        """Several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}


def _same_place(kind: Type[Context], path: str, writer: str, attempt: int, rank: Rank) -> Context:
    run = kind.__new__(kind)
    RunContext.__init__(run, path, writer, attempt, rank)
    return run


def _from_keyring(name: str) -> Optional[str]:
    try:
        import keyring  # type: ignore[import-not-found, unused-ignore]

        found: Optional[str] = keyring.get_password("trainkit", name)
        return found
    except Exception:  # not installed, or no keyring on this machine
        return None


def _texts(what: str, entries: Any) -> Dict[str, Optional[str]]:
    """Keys and values as texts; None stays None."""
    if not isinstance(entries, Mapping):
        raise UserErrorException("A dict of texts was expected, not a %s." % type(entries).__name__)
    for key in entries:
        if not isinstance(key, str) or not key:
            raise UserErrorException("A %s's key must be a text that is not empty; this was given: %r." % (what, key))
    return {str(key): None if value is None else str(value) for key, value in entries.items()}
