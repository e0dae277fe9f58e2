"""An experiment: a name under which runs are kept.

experiment = Experiment(ws, "birds")
run = experiment.submit(config)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.boot import newrun
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import make_private, read_json, replace
from trainkit.boot.worlds import World
from trainkit.errors import ExperimentExecutionException, UserErrorException, WorkspaceException
from trainkit.run import Run
from trainkit.summaries import newest, summaries

__all__ = ["Experiment", "fits", "matches", "record_source", "start_interactive", "summaries"]

if TYPE_CHECKING:
    from trainkit.workspace import Workspace

_RECORD = ".experiment.json"  # what is said of the experiment itself: {"tags", "archived"}


class Experiment:
    """A named collection of runs; getting one makes it. Raises UserErrorException where the name is not possible."""

    def __init__(self, workspace: Workspace, name: str, **kwargs: Any) -> None:
        if not isinstance(getattr(workspace, "root", None), Path):
            raise UserErrorException(
                f"Experiment needs a workspace, as Workspace.from_config() returns it, not {workspace!r}."
            )
        self.workspace = workspace
        self.name = newrun.check_experiment_name(name)

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name}, Workspace: {self.workspace.name})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and (other.name, other.workspace) == (self.name, self.workspace)

    def __hash__(self) -> int:
        return hash((self.name, self.workspace))

    @property
    def id(self) -> str:
        """The experiment's id: its name, which is unique in its workspace."""
        return self.name

    @property
    def directory(self) -> Path:
        """Where the experiment's runs are."""
        return newrun.experiment_dir(self.workspace.root, self.name)

    def submit(
        self, config: Any, tags: Mapping[str, Any] | None = None, show_output: bool = False, **kwargs: Any
    ) -> Run:
        """Submit a job and return its run at once; the job goes on without this process.

        `config` is a ScriptRunConfig or an Estimator. What is wrong with it is raised before anything starts. With
        `show_output` the run is waited for and its log printed.
        """
        from trainkit.submit import submit

        run = submit(self, config, tags=tags, **kwargs)
        if show_output:
            run.wait_for_completion(show_output=True)
        return run

    def start_logging(
        self,
        outputs: str | os.PathLike[str] | bool | None = None,
        snapshot_directory: str | os.PathLike[str] | None = ".",
        display_name: str | None = None,
        **kwargs: Any,
    ) -> Run:
        """A run that this process records itself, until `complete()`; as a context manager it completes or fails.

        The source in `snapshot_directory` is recorded with it (None: nothing is), and when it ends the folder
        `outputs`: of "./outputs", which is made for it, what is new since it began; of another folder all; of False
        nothing.
        """
        if kwargs:
            raise UserErrorException(f"start_logging does not take {', '.join(kwargs)}.")
        everything = outputs is not None and outputs is not True
        if not everything:
            outputs = "outputs"
            with suppress(OSError):
                os.makedirs(outputs, exist_ok=True)
        kept = None if isinstance(outputs, bool) else outputs
        return start_interactive(
            self, name=display_name, outputs=kept, source=snapshot_directory, all_outputs=everything
        )

    def get_portal_url(self) -> str:
        """The directory of the experiment's runs as a file URL."""
        return self.directory.absolute().as_uri()

    def get_runs(
        self,
        type: str | None = None,
        tags: Any = None,
        properties: Any = None,
        include_children: bool = False,
    ) -> Generator[Run, None, None]:
        """The runs of this type, with these tags and properties ("key", or {"key": "value"}), newest first."""
        for path, record in newest(self.workspace.root, self.name):
            run = Run._at(path)
            run._experiment = self
            if (include_children or not record.get("parent")) and lists(run, record, type, tags, properties):
                yield run

    @staticmethod
    def list(
        workspace: Workspace, experiment_name: str | None = None, view_type: str = "ActiveOnly", tags: Any = None
    ) -> list[Experiment]:
        """All experiments that have runs, by name; archived ones with `view_type` "All" or "ArchivedOnly"."""
        if view_type not in ("ActiveOnly", "ArchivedOnly", "All"):
            raise UserErrorException(f"view_type={view_type!r}: one of 'ActiveOnly', 'ArchivedOnly', 'All'.")
        folder = newrun.experiments_dir(workspace.root)
        names = sorted(p.name for p in folder.glob("*") if newrun.NAME_RULE.fullmatch(p.name) and p.is_dir())
        found = [Experiment(workspace, name) for name in names if experiment_name in (None, name)]
        archived = {"ActiveOnly": (False,), "ArchivedOnly": (True,), "All": (False, True)}[view_type]
        return [e for e in found if bool(e._record().get("archived")) in archived and matches(e.tags, tags)]

    @staticmethod
    def delete(workspace: Workspace, experiment_id: str) -> None:
        """Remove an experiment that has no runs. Raises UserErrorException where it has some."""
        folder = newrun.experiment_dir(workspace.root, experiment_id)
        runs = newrun.run_dirs(workspace.root, experiment_id)
        if runs:
            raise UserErrorException(f"Experiment {experiment_id} has {len(runs)} runs; only an empty one is deleted.")
        if not folder.is_dir():
            raise UserErrorException(f"There is no experiment {experiment_id!r} in {workspace.root}.")
        shutil.rmtree(folder)

    def archive(self) -> None:
        """Leave the experiment out of lists; its runs stay."""
        self._edit(archived=True)

    def reactivate(self, new_name: str | None = None) -> None:
        """Undo `archive`."""
        if new_name not in (None, self.name):
            raise UserErrorException(f"Experiment {self.name} cannot become {new_name!r}: its runs' ids hold its name.")
        self._edit(archived=False)

    @property
    def archived_time(self) -> None:
        """Not recorded."""
        return None

    @property
    def tags(self) -> dict[str, Any]:
        """The experiment's tags."""
        return dict(self._record().get("tags") or {})

    def tag(self, key: str, value: Any = None) -> None:
        """Set one tag."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set several tags."""
        self._edit(tags={**self.tags, **{str(k): None if v is None else str(v) for k, v in tags.items()}})

    def remove_tags(self, tags: Iterable[str]) -> None:
        """Remove tags by key."""
        gone = {tags} if isinstance(tags, str) else set(tags)
        self._edit(tags={key: value for key, value in self.tags.items() if key not in gone})

    def _record(self) -> dict[str, Any]:
        return read_json(self.directory / _RECORD) or {}

    def _edit(self, **values: Any) -> None:
        replace(self.directory / _RECORD, {**self._record(), **values})


def matches(found: Mapping[str, Any], wanted: Any) -> bool:
    """Whether tags or properties hold what is wanted: a key, several keys, or keys with values."""
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return wanted in found
    if isinstance(wanted, Mapping):
        return all(key in found and found[key] == (v if v is None else str(v)) for key, v in wanted.items())
    return all(key in found for key in wanted)


def fits(run: Run, type: str | None = None, tags: Any = None, properties: Any = None) -> bool:
    """Whether a run is of this type and has these tags and properties."""
    return (
        type in (None, run.type)
        and (tags is None or matches(run.get_tags(), tags))
        and (properties is None or matches(run.get_properties(), properties))
    )


def lists(run: Run, record: Mapping[str, Any], type: str | None, tags: Any, properties: Any) -> bool:
    """Whether a list shows a run: where it fits, or is damaged and nothing was asked, so that nobody misses it."""
    try:
        return fits(run, type, tags, properties) if "damaged" not in record else (type, tags, properties) == (None,) * 3
    except WorkspaceException:
        return False


def record_source(workspace: Workspace, source: str | os.PathLike[str], code: Path) -> dict[str, Any]:
    """Record a source directory as `code`; what a run's record says of it."""
    from trainkit import snapshot

    config = workspace.config
    make_private(code.parent)
    taken = snapshot.take(
        Path(source),
        code,
        workspace.root / "snapshots",
        config.snapshot_limit_bytes or snapshot.DEFAULT_LIMIT_BYTES,
        config.snapshot_limit_files,
        workspace.root,
    )
    return {"id": taken.id, "files": taken.files, "bytes": taken.bytes, "left_out": list(taken.left_out)}


def start_interactive(
    experiment: Experiment,
    parent: str | None = None,
    name: str | None = None,
    run_id: str | None = None,
    outputs: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    all_outputs: bool = True,
) -> Run:
    """A new run of type "azureml.interactive" that this process keeps alive; nothing is left where that fails.

    Of the folder `outputs` it keeps all, or what is new since it began.
    """
    from trainkit import exits, offline

    workspace = experiment.workspace
    run_id = run_id or newrun.new_id(experiment.name)
    if newrun.find_run(workspace.root, run_id) is not None:
        raise UserErrorException(f"There is a run {run_id} already; leave run_id out, or choose another one.")
    code = newrun.experiment_dir(workspace.root, experiment.name) / f".{run_id}.code"
    try:
        facts: dict[str, Any] = {"outputs": os.path.abspath(outputs) if outputs is not None else None}
        facts["all_outputs"] = all_outputs
        if source is not None:
            facts["snapshot"] = record_source(workspace, source, code)
        if name is not None:
            facts["display_name"] = str(name)
        record = newrun.record(
            workspace.root, experiment.name, run_id, offline.INTERACTIVE, workspace.name, parent, **facts
        )
        session = offline.begin(workspace.root, run_id, record, World(Rank(), "", ""))
        if session is None:
            raise ExperimentExecutionException(f"Run {run_id} was started by another process at the same time.")
        if source is not None:
            code.rename(session.run_dir.code)
    finally:
        shutil.rmtree(code, ignore_errors=True)
    exits.watch(session)
    run = Run._at(session.run_dir.path, session)
    run._experiment = experiment
    return run
