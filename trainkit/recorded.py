"""What can be read of a run, in any process and while it runs: the half of `trainkit.Run` that changes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.boot.context import RunContext
from trainkit.boot.rundir import make_private, read_json
from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.environment import Environment
    from trainkit.experiment import Experiment
    from trainkit.run import Run
    from trainkit.workspace import Workspace


class RecordedRun(RunContext):
    """A run's identity, status, metrics, tags, files and logs."""

    _experiment: Experiment | None = None

    def _collect(self) -> None:
        """Bring the run's files up to date, where this process keeps the run."""

    @property
    def _inside(self) -> bool:
        """Whether this process is one of the run's ranks."""
        return self._writer.startswith("rank-")

    # --- identity

    @property
    def experiment(self) -> Experiment:
        """The experiment that the run belongs to."""
        if self._experiment is None:
            from trainkit.experiment import Experiment

            record = self._record
            self._experiment = Experiment(_workspace_of(record["workspace"], self._root), record["experiment"])
        return self._experiment

    @property
    def _root(self) -> Path:
        """The workspace's root, where the run is now: a workspace may be moved."""
        return self._dir.path.absolute().parents[2]

    @property
    def workspace(self) -> Workspace:
        """The workspace that the run belongs to."""
        return self.experiment.workspace

    @property
    def name(self) -> str:
        """The run's name for people."""
        return str(self._record.get("display_name") or self.id)

    @property
    def display_name(self) -> str:
        """The run's name for people."""
        return self.name

    @property
    def number(self) -> int:
        """The run's number in its experiment, from 1."""
        return int(self._record["number"])

    @property
    def type(self) -> str:
        """The kind of run: "azureml.scriptrun" for a submitted job, "azureml.interactive", or "offline"."""
        return str(self._record["type"])

    @property
    def parent(self) -> Run | None:
        """The run that this one is a child of."""
        from trainkit.run import Run

        parent = self._record.get("parent")
        return Run.get(self.workspace, parent) if parent else None

    @property
    def directory(self) -> Path:
        """Where the run's files are."""
        return self._dir.path

    def get_portal_url(self) -> str:
        """The run's directory as a file URL."""
        from trainkit.rundetails import url

        return url(self._dir)

    def __repr__(self) -> str:
        return f"Run(Experiment: {self._record['experiment']}, Id: {self.id}, Type: {self.type}, Status: {self.status})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecordedRun) and other._dir.path == self._dir.path

    def __hash__(self) -> int:
        return hash(self._dir.path)

    # --- status

    @property
    def status(self) -> str:
        """The status now: NotStarted, Preparing, Queued, Running, ..., Completed, Failed or Canceled."""
        return self.get_detailed_status()["status"]

    def get_status(self) -> str:
        """The status now. Whoever asks has a run that lost its driver taken over."""
        return self.status

    def get_detailed_status(self) -> dict[str, str]:
        """The status, and in `details` what the run waits for, or why it failed."""
        from trainkit import outcome
        from trainkit.rundetails import look

        if self._inside:  # a job's own nodes do not look after its driver
            status, details = outcome.status_of(self._dir.path)
        else:
            status, details = look(self._dir)
        return {"status": status, "details": details}

    def get_details(self) -> dict[str, Any]:
        """Everything about the run: target, times, definition, properties, logs and, where it failed, the error."""
        from trainkit.rundetails import details

        return details(self._dir, self._record, self.get_detailed_status())

    def get_details_with_logs(self) -> dict[str, Any]:
        """`get_details`, with the logs' texts in place of their addresses."""
        from trainkit import runfiles
        from trainkit.rundetails import log_text

        logs = {name: log_text(path) for name, path in runfiles.log_files(self._dir).items()}
        return {**self.get_details(), "logFiles": logs}

    def get_all_logs(self, destination: str | os.PathLike[str] | None = None) -> list[str]:
        """Copy all logs into a directory (the current one); their paths there."""
        from trainkit import runfiles

        names = [name for name in self.get_file_names() if name.startswith(("azureml-logs/", "logs/"))]
        base = Path(destination or ".")
        return [str(runfiles.download(self._dir, name, base / name)) for name in names]

    def get_environment(self) -> Environment:
        """The environment that the run was submitted with. UserErrorException where it was not submitted."""
        from trainkit.environments.used import environment_used

        return environment_used(self._dir)

    # --- metrics, tags, properties

    def get_metrics(
        self,
        name: str | None = None,
        recursive: bool = False,
        run_type: str | None = None,
        populate: bool = False,
        rank: int | str = 0,
    ) -> dict[str, Any]:
        """Metrics by name: one value as it is, several as a list, a table as a dict of columns.

        These are rank 0's and the client's; `rank="all"` gives `{rank: {name: value}}`. With `recursive` the children's
        too (of `run_type`, if given): `{run id: {name: value}}`. Always complete, so `populate` changes nothing.
        """
        from trainkit import events

        own = events.metrics(self._dir.path, rank, name)
        if not recursive:
            return own
        from trainkit import children

        found = {self.id: own}
        for child in children.below(self, recursive=True, type=run_type):
            found[child.id] = events.metrics(child._dir.path, rank, name)
        return found

    def get_tags(self) -> dict[str, Any]:
        """The run's tags."""
        from trainkit import events

        return events.tags(self._dir.path)

    @property
    def tags(self) -> dict[str, Any]:
        """The run's tags."""
        return self.get_tags()

    def get_properties(self) -> dict[str, Any]:
        """The run's properties: what was added, and what submitting recorded of git and the snapshot."""
        from trainkit import events
        from trainkit.rundetails import recorded_properties

        return {**recorded_properties(self._record), **events.properties(self._dir.path)}

    @property
    def properties(self) -> dict[str, Any]:
        """The run's properties."""
        return self.get_properties()

    # --- files

    def get_file_names(self) -> list[str]:
        """Names of all files: `outputs/...`, `logs/...`, uploads under their own names, `azureml-logs/...`."""
        from trainkit import runfiles

        self._collect()
        return list(runfiles.listing(self._dir))

    def download_file(
        self, name: str, output_file_path: str | os.PathLike[str] | None = None, _validate_checksum: bool = False
    ) -> str:
        """Copy one file to a path, or into the current directory; its new path. UserErrorException if there is none."""
        from trainkit import runfiles

        self._collect()
        return str(runfiles.download(self._dir, name, output_file_path))

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
        output_paths: Sequence[str] | None = None,
        batch_size: int = 100,
        append_prefix: bool = True,
        timeout_seconds: float | None = None,
    ) -> list[str]:
        """Copy all files whose names start with `prefix` into a directory, keeping their names; their new paths.

        `append_prefix=False` leaves the prefix's folder out of the new names. Files are copied one after the other.
        """
        from trainkit import runfiles

        self._collect()
        copied = runfiles.download_all(self._dir, prefix, output_directory, output_paths, append_prefix)
        return [str(path) for path in copied]

    # --- the snapshot

    def get_snapshot_id(self) -> str:
        """The id of the recorded source. UserErrorException where the run has none."""
        found = (self._record.get("snapshot") or {}).get("id") or (
            read_json(self._dir.property("ContentSnapshotId")) or {}
        ).get("value")
        if not found:
            raise UserErrorException(f"Run {self.id} has no snapshot: it was started without a source directory.")
        return str(found)

    def restore_snapshot(self, snapshot_id: str | None = None, path: str | os.PathLike[str] | None = None) -> str:
        """Write the recorded source as a zip file `<snapshot id>.zip` into a directory; the file's path."""
        import shutil

        from trainkit import snapshot
        from trainkit.runfiles import copy

        wanted = snapshot_id or self.get_snapshot_id()
        store = self._root / "snapshots"
        making = make_private(self._dir.once / f".restore-{os.urandom(4).hex()}")
        try:
            snapshot.restore(store, wanted, making / "source")
            made = Path(shutil.make_archive(str(making / "source"), "zip", making / "source"))
            target = Path(path or ".") / f"{wanted}.zip"
            copy(made, target)
        except UnicodeEncodeError as error:
            raise UserErrorException(
                f"The snapshot {wanted} holds the name {error.object!r}, which no zip file can: take its files from "
                f"{self._dir.code}."
            ) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return str(target)


def _workspace_of(record: dict[str, Any], root: Path) -> Workspace:
    """The workspace whose files are below `root`; without its config.json one with only what a run's record says."""
    from trainkit.boot.config import Config, find_config, load_config
    from trainkit.workspace import Workspace

    path = find_config(root)
    if path is not None:
        try:
            config = load_config(path)
        except UserErrorException:  # some other program's config.json
            config = None
        if config is not None and config.root == root:
            return Workspace._of(config)
    local = str(record.get("subscription_id") or "local"), str(record.get("resource_group") or "local")
    return Workspace._of(Config(root.parent / "config.json", str(record["name"]), *local, root))
