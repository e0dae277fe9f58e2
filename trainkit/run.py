"""A run: one execution of a script, recorded. The same object in a job, in a notebook, and hours later elsewhere.

run = experiment.submit(config)
run.wait_for_completion(show_output=True)
run.register_model("birds", "outputs/")
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainkit.boot.rundir import TERMINAL, make_private, publish, read_json
from trainkit.errors import (
    ActivityFailedException,
    ExperimentExecutionException,
    RunEnvironmentException,
    UserErrorException,
)
from trainkit.recorded import RecordedRun
from trainkit.sentences import describe

if TYPE_CHECKING:
    from trainkit.experiment import Experiment
    from trainkit.model import Model
    from trainkit.offline import Session
    from trainkit.workspace import Workspace


class Run(RecordedRun):
    """One run. `Run(experiment, run_id)` attaches to an existing one, from any process."""

    _session: Session | None = None  # where this very process is what runs

    def __init__(self, experiment: Experiment, run_id: str, outputs: str | None = None, **kwargs: Any) -> None:
        """Attach to a run of the experiment. Raises UserErrorException where there is none of this id."""
        from trainkit.boot.newrun import find_run

        path = find_run(experiment.workspace.root, run_id)
        if path is None or path.parent.name != experiment.name:
            elsewhere = f"; experiment {path.parent.name} has it" if path is not None else ""
            raise UserErrorException(f"Experiment {experiment.name} has no run with the id {run_id!r}{elsewhere}.")
        super().__init__(path)
        self._experiment = experiment

    @classmethod
    def _at(cls, path: str | os.PathLike[str], session: Session | None = None, **place: Any) -> Run:
        """The run in a directory that is known to be one."""
        run = cls.__new__(cls)
        RecordedRun.__init__(run, path, **place)
        run._session = session
        return run

    @classmethod
    def get(cls, workspace: Workspace, run_id: str) -> Run:
        """The run of this id in a workspace. Raises UserErrorException where there is none."""
        from trainkit.boot.newrun import find_run

        path = find_run(workspace.root, run_id)
        if path is None:
            raise UserErrorException(
                f"There is no run {run_id!r} in the workspace {workspace.name} ({workspace.root}); `trainkit runs` "
                "lists them."
            )
        return cls._at(path)

    @classmethod
    def get_context(cls, allow_offline: bool = True, **kwargs: Any) -> Run:
        """The run that this process is part of.

        In a job, the job's run. In a script that was started by hand, a new run of type "offline" with the whole API,
        one for all ranks of an mpirun, torchrun or srun; with `allow_offline=False` RunEnvironmentException instead.
        """
        found = cls._in_job()
        if found is not None:
            return found
        if not allow_offline:
            raise RunEnvironmentException(
                "This process is not part of a job, so there is no run here: submit the script with Experiment.submit "
                "or `trainkit submit`, or allow an offline run with allow_offline=True."
            )
        from trainkit.byhand import context

        return context()

    @classmethod
    def list(
        cls,
        experiment: Experiment,
        type: str | None = None,
        tags: Any = None,
        properties: Any = None,
        status: str | None = None,
        include_children: bool = False,
    ) -> Generator[Run, None, None]:
        """The experiment's runs that fit, newest first."""
        for run in experiment.get_runs(type, tags, properties, include_children):
            if status in (None, run.status):
                yield run

    # --- waiting and ending

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = True, raise_on_error: bool = True
    ) -> dict[str, Any]:
        """Wait until the run has ended and all its files are readable; `get_details()`.

        `show_output` prints its logs as they are written. Raises ActivityFailedException, with the verdict, where the
        run failed (unless `raise_on_error` is False); a canceled run raises nothing. Ctrl-C ends the waiting, not the
        run, and raises ExperimentExecutionException.
        """
        from trainkit import console

        part = self._inside or (self._session is not None and not self._session.ended)
        if part and not self._dir.state.exists():
            raise UserErrorException(f"Run {self.id} cannot be waited for here: this process is part of it.")
        try:
            if show_output:
                shown = console.Console(self._dir, sys.stdout)
                shown.begin()
                console.wait(self._dir, shown.step)
                shown.end()
            else:
                console.wait(self._dir)
        except KeyboardInterrupt:
            raise ExperimentExecutionException(
                f"Waiting for run {self.id} was interrupted; the run goes on. Look again with "
                f'Workspace.from_config().get_run("{self.id}").wait_for_completion(show_output=True) or '
                f"`trainkit logs -f {self.id}`; end it with run.cancel() or `trainkit cancel {self.id}`."
            ) from None
        state = read_json(self._dir.state, "status") or {}
        if state.get("status") == "Failed" and raise_on_error:
            verdict = state.get("verdict") or {}
            raise ActivityFailedException(describe(verdict), verdict)
        return self.get_details()

    def cancel(self) -> None:
        """Ask for the run's end: every process of it is gone within seconds, logs and outputs stay.

        Nothing happens to a run that has ended. An interactive run is only recorded as canceled.
        """
        if self.status in TERMINAL:
            return
        try:
            publish(self._dir.cancel, {"time": time.time(), "by": f"process {os.getpid()}"})
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._dir.cancel.touch(0o600)  # what fills the disk can be ended: that the file is there is enough
        if self._dir.job.exists():
            if self._inside:  # the job's own nodes start no driver
                return
            from trainkit.drivers import ensure

            ensure(self._dir.path)
        else:
            from trainkit import offline

            offline.cancel(self._dir)

    def complete(self, _set_status: bool = True) -> None:
        """End an offline or interactive run as Completed; in a job, flush: the job's end decides."""
        self.flush()
        if self._session is not None:
            self._session.end()
        elif not self._inside and not self._dir.job.exists():
            from trainkit import offline

            offline.end(self._dir, "Completed", None, [])

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """End an offline or interactive run as Failed, for a reason; in a job, record the reason and flush."""
        super().fail(error_details, error_code)
        if self._dir.job.exists() or self._dir.state.exists() or (self._inside and self._session is None):
            return
        facts = _reason(error_details, error_code)
        if self._session is not None:
            self._session.end(1, **facts)
        else:
            from trainkit import offline, outcome

            record = {"rank": 0, "node": 0, "exit_code": 1, "ended": time.time(), **facts}
            offline.end(self._dir, "Failed", outcome.of_rank(record), [record])

    def _collect(self) -> None:
        """Bring the run's files up to date, where this process keeps the run."""
        if self._session is not None:
            self._session.collect()

    # --- models, children, snapshots

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        description: str | None = None,
        datasets: Sequence[tuple[str, object]] | None = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Any = None,
        **kwargs: Any,
    ) -> Model:
        """Register a file or a folder of the run ("outputs/model.pt", "outputs/") as the next version of a model.

        Works while the run goes on. Ranks that make the same call register one model, which rank 0 does. Raises
        ModelPathNotFoundException where the run has no such file; without `model_path` the name is looked for.
        """
        refused = {"sample_input_dataset": sample_input_dataset, "sample_output_dataset": sample_output_dataset,
                   "resource_configuration": resource_configuration, **kwargs}  # fmt: skip
        given = [key for key, value in refused.items() if value is not None]
        if given:
            raise UserErrorException(f"register_model does not take {', '.join(given)}; leave that out, or use a tag.")
        self._collect()
        from trainkit.registering import register
        from trainkit.registry.facts import data_of

        facts = {"tags": tags, "properties": properties, "description": description, "framework": model_framework,
                 "framework_version": model_framework_version, "lineage": data_of(datasets)}  # fmt: skip
        return register(self, model_name, model_path, facts)

    def child_run(
        self, name: str | None = None, run_id: str | None = None, outputs: str | None = None, **kwargs: Any
    ) -> Run:
        """A new interactive run below this one; a context manager that completes it, or fails it by an exception."""
        from trainkit import children

        return children.start(self, name, run_id, outputs)

    def create_children(
        self, count: int | None = None, tag_key: str | None = None, tag_values: Sequence[Any] | None = None
    ) -> Sequence[Run]:
        """Several new children, by number or one for each value of a tag."""
        from trainkit import children

        return children.start_several(self, count, tag_key, tag_values)

    def get_children(
        self,
        recursive: bool = False,
        tags: Any = None,
        properties: Any = None,
        type: str | None = None,
        status: str | None = None,
    ) -> Generator[Run, None, None]:
        """The runs below this one that fit, newest first."""
        from trainkit import children

        yield from children.below(self, recursive, tags, properties, type, status)

    def submit_child(self, config: Any, tags: Mapping[str, Any] | None = None, **kwargs: Any) -> Run:
        """Submit a job as a child of this run."""
        from trainkit import children
        from trainkit.submit import submit

        child = submit(self.experiment, config, tags=tags, parent=self.id, **kwargs)
        children.record(self._dir, child.id)
        return child

    def take_snapshot(self, file_or_folder_path: str | os.PathLike[str]) -> str:
        """Record a source directory; the snapshot's id. It is the run's own where that has none yet, and else one more
        of the workspace's, which `restore_snapshot(id)` gives back.
        """
        from trainkit.experiment import record_source

        if self._dir.code.exists():
            making = make_private(self._dir.once / f".snapshot-{os.urandom(4).hex()}")
            try:
                return str(record_source(self.workspace, file_or_folder_path, making / "code")["id"])
            finally:
                shutil.rmtree(making, ignore_errors=True)
        taken = record_source(self.workspace, file_or_folder_path, self._dir.code)
        self.add_properties({"ContentSnapshotId": taken["id"]})
        return str(taken["id"])


def _reason(details: Any, code: Any) -> dict[str, Any]:
    """What a rank's record says of a failure that was declared, not suffered."""
    if isinstance(details, BaseException):
        from trainkit.boot.script import describe, here

        return describe(details, here())
    message = str(details or "") + (f" (code {code})" if code is not None else "")
    return {"exception": "run.fail()", "message": message.strip() or "no reason was given"}


ScriptRun = Run  # the Azure ML SDK v1's name for a submitted run
