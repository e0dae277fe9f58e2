"""An image as a file in its entry of `envs/`, written once: for machines whose engine lacks the image."""

from __future__ import annotations

import os
from pathlib import Path

from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.entries import Record, lock_of, locked
from trainkit.prepare.resolving import Source

ARCHIVE = "image.tar"


def archive_of(entry: Path, record: Record, source: Source) -> str:
    """The path of the file, written where it is not there yet. Raises EnvironmentBuildError."""
    archive = entry / ARCHIVE
    if archive.exists():
        return str(archive)
    with locked(lock_of(entry), source.installer):
        if not archive.exists():
            partial = entry / f".{ARCHIVE}.{os.getpid()}"
            try:
                source.installer.say(f"saving image {record['image'].removeprefix('sha256:')[:12]} for other machines")
                result = source.installer.run(source.engine.save(record["image"], str(partial)), Path("/"))
                if result.code:
                    raise EnvironmentBuildError(
                        f"{source.kind} could not save the image for other machines, in {entry}.", result.output
                    )
                partial.chmod(0o600)
                os.replace(partial, archive)
            finally:
                partial.unlink(missing_ok=True)
    return str(archive)
