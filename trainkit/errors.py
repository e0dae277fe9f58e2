"""Every error that trainkit raises on purpose, as one tree.

TrainkitError
├── UserErrorException             what was asked cannot be; the message says what can
│   ├── UnsupportedJob             this job cannot run on this target
│   ├── MissingPackage             an optional package is needed; the message names the install command
│   └── AuthenticationException    (never raised)
├── WorkspaceException             a workspace's files are missing or damaged
├── ComputeTargetException         a compute target is unknown or cannot be made
├── TrainingException              an estimator's arguments contradict each other
├── RunConfigurationException      a run configuration's values are wrong
├── ExperimentExecutionException   a run could not be submitted, or waiting for it was interrupted
├── SnapshotException              the source directory cannot be recorded
├── EnvironmentBuildError          the job's Python environment could not be made
├── LaunchError                    a launcher could not start, see or end a job
├── RunEnvironmentException        there is no run here
├── ActivityFailedException        the run failed; carries its verdict
├── WebserviceException            the model registry refused
│   └── ModelNotFoundException
├── ModelPathNotFoundException     a run has no such file
├── CheckpointError                no checkpoint verifies, it cannot be written, or it does not fit the model
├── ExportError                    a model could not be exported, or disagrees with its export
├── ProjectSystemException         (never raised)
├── ActivityCanceledException      (never raised)
├── ServiceException               (never raised)
│   └── DiscoveryUrlNotFoundException
├── AzureMLAggregatedException     (never raised)
└── HyperDriveConfigException      (never raised)

The names ending in Exception are those of the Azure ML SDK v1, whose scripts catch them; some name what cannot happen
here, and exist for the except clauses of such scripts. This module imports nothing but the standard library: it travels
to nodes where trainkit is not installed.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence


class TrainkitError(Exception):
    """Root of all errors raised on purpose; `message` is the whole sentence that a user should read."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UserErrorException(TrainkitError):
    """What was asked cannot be done as asked."""


class UnsupportedJob(UserErrorException):
    """The job and the target do not fit each other; raised before anything starts."""


class MissingPackage(UserErrorException):
    """An optional package is needed here; the message names the command that installs it."""


class AuthenticationException(UserErrorException):
    """Never raised: there is no account to log in to."""


class WorkspaceException(TrainkitError):
    """The workspace's own files are missing or damaged."""


class ComputeTargetException(TrainkitError):
    """A compute target is unknown, or was described wrongly."""


class TrainingException(TrainkitError):
    """The arguments of an estimator contradict each other or are out of range."""


class RunConfigurationException(TrainkitError):
    """A value in a run configuration is wrong."""


class ExperimentExecutionException(TrainkitError):
    """A run could not be submitted, or waiting for it was interrupted."""


class SnapshotException(TrainkitError):
    """The source directory cannot be recorded."""


class EnvironmentBuildError(TrainkitError):
    """The job's Python environment could not be made; `output` holds the installer's last lines."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class LaunchError(TrainkitError):
    """A launcher could not start, see or end a job.

    `command` and `output` are those of the program that refused, `transient` tells whether trying again can help,
    `available` how many nodes could be had where fewer answered than were asked for (None: nobody counted).
    """

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str] = (),
        output: str = "",
        transient: bool = False,
        available: int | None = None,
    ) -> None:
        super().__init__(message)
        self.command = tuple(command)
        self.output = output
        self.transient = transient
        self.available = available


class RunEnvironmentException(TrainkitError):
    """No run was found in this process's environment."""


class ActivityFailedException(TrainkitError):
    """A run ended as Failed; `verdict` is its recorded cause (see `trainkit.outcome`)."""

    def __init__(self, message: str, verdict: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.verdict = dict(verdict or {})


class WebserviceException(TrainkitError):
    """The model registry refused a request."""


class ModelNotFoundException(WebserviceException):
    """No registered model has this name, version or tags."""


class ModelPathNotFoundException(TrainkitError):
    """A run has no file or folder of this name."""


class CheckpointError(TrainkitError):
    """No checkpoint verifies, one could not be written, or it does not fit the model."""


class ExportError(TrainkitError):
    """A model could not be exported, or its export disagrees with it."""


class ProjectSystemException(TrainkitError):
    """Never raised: there are no project files beside config.json."""


class ActivityCanceledException(TrainkitError):
    """Never raised: a canceled run raises nothing."""


class ServiceException(TrainkitError):
    """Never raised: there is no service to fail."""


class DiscoveryUrlNotFoundException(ServiceException):
    """Never raised: there is no service to look for."""


class AzureMLAggregatedException(TrainkitError):
    """Never raised: several errors are never one."""


class HyperDriveConfigException(TrainkitError):
    """Never raised: sweeps are not built yet."""
