"""How often a fit is saved, and how many checkpoints are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trainkit.boot.rundir import make_private
from trainkit.errors import CheckpointError, UserErrorException


@dataclass(frozen=True)
class Saving:
    """When checkpoints are written, and how many stay.

    After every `every_epochs` epochs and, where given, every `every_steps` optimizer steps; the last `keep` stay. They
    lie in the run's own `checkpoints/`, or in `folder`: a fit that finds some of its own there goes on from them.
    """

    every_epochs: int = 1
    every_steps: int | None = None
    keep: int = 3
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        counts = (self.every_epochs, 1 if self.every_steps is None else self.every_steps, self.keep)
        if not all(type(each) is int and each >= 1 for each in counts):
            raise UserErrorException(f"Saving: every_epochs, every_steps and keep are numbers from 1, not {self}.")
        if self.folder is not None and not (isinstance(self.folder, (str, Path)) and str(self.folder)):
            raise UserErrorException(f"Saving: folder is a path, or None for the run's own, not {self.folder!r}.")


def refuse_unwritable(folder: Path) -> None:
    """Raises CheckpointError where no checkpoint could be put into a folder, before hours are spent on the first."""
    try:
        make_private(folder)
    except OSError as error:
        raise CheckpointError(
            f"The folder for checkpoints, {folder}, cannot be made ({error.strerror}); name another one."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CheckpointError(f"Checkpoints cannot be written to {folder}: it is read-only; name another folder.")
