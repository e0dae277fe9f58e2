"""The exit codes, documented in docs/reference/exit-codes.md, and which error ends with which."""

from __future__ import annotations

from trainkit.errors import (
    ActivityFailedException,
    ComputeTargetException,
    EnvironmentBuildError,
    ExperimentExecutionException,
    LaunchError,
    ModelNotFoundException,
    ModelPathNotFoundException,
    RunConfigurationException,
    RunEnvironmentException,
    SnapshotException,
    TrainingException,
    TrainkitError,
    UserErrorException,
    WebserviceException,
    WorkspaceException,
)

DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
CANCELED = 4
OUTSIDE = 5
FAULT = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

OF_STATUS = {"Completed": DONE, "Failed": FAILED, "Canceled": CANCELED}


class NotFound(UserErrorException):
    """No run, file or target has the name that was typed."""


# The first match counts, so special cases stand before what they are special cases of.
_OF_ERROR: tuple[tuple[type[TrainkitError], int], ...] = (
    (NotFound, NOT_FOUND),
    (ModelNotFoundException, NOT_FOUND),
    (ModelPathNotFoundException, NOT_FOUND),
    (ActivityFailedException, FAILED),
    (UserErrorException, USAGE),
    (ComputeTargetException, USAGE),
    (TrainingException, USAGE),
    (RunConfigurationException, USAGE),
    (SnapshotException, USAGE),
    (WebserviceException, USAGE),
    (RunEnvironmentException, USAGE),
    (ExperimentExecutionException, USAGE),
    (EnvironmentBuildError, OUTSIDE),
    (LaunchError, OUTSIDE),
    (WorkspaceException, OUTSIDE),
)


def code_of(error: TrainkitError) -> int:
    """The exit code for an error that was raised on purpose."""
    return next((code for kind, code in _OF_ERROR if isinstance(error, kind)), OUTSIDE)
