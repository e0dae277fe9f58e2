"""An image as a file in its entry of `envs/`, written once: for machines whose engine lacks the image.

The file is named by the image, so that its path never comes to mean another one: runs remember it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trainkit.boot.rundir import make_private
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.engines import ASK_SECONDS, ask
from trainkit.prepare.entries import Record, lock_of, locked
from trainkit.prepare.resolving import Source, facts
from trainkit.sentences import last_line

_SAVING = ".saving"  # a folder in the entry: an engine may put files of its own beside the one it writes


def archive_of(entry: Path, record: Record, source: Source) -> str:
    """The path of the file, written where it is not there yet. Raises EnvironmentBuildError."""
    archive = _place(entry, record)
    if archive.exists():
        return str(archive)
    with locked(lock_of(entry), source.installer):
        if not archive.exists():
            saving = entry / _SAVING
            shutil.rmtree(saving, ignore_errors=True)  # of a process that was killed
            partial = make_private(saving) / archive.name
            try:
                source.installer.say(f"saving image {_short(record)} for other machines")
                result = source.installer.run(source.engine.save(record["image"], str(partial)), Path("/"))
                if result.code:
                    said = last_line(result.output).rstrip(".") or f"it ended with {result.code}"
                    raise EnvironmentBuildError(
                        f"{source.kind} could not save the image for other machines, in {entry}: {said}.",
                        result.output,
                    )
                partial.chmod(0o600)
                os.replace(partial, archive)
            finally:
                shutil.rmtree(saving, ignore_errors=True)
    return str(archive)


def restored(entry: Path, record: Record, source: Source) -> bool:
    """Whether the engine has an image again that it had lost: from its file, under the name that trainkit gave it.

    The entry's lock is held. Raises EnvironmentBuildError where nobody wants it any more.
    """
    archive, image = _place(entry, record), str(record["image"])
    if not archive.exists():
        return False
    source.installer.say(f"loading image {_short(record)} from {archive}")
    result = source.installer.run(source.engine.load(str(archive)), Path("/"))
    if result.code or facts(source.engine, image) is None:
        source.installer.say(f"{source.kind} could not load it")
        return False
    return all(ask(source.engine.tag(image, tag), ASK_SECONDS).code == 0 for tag in record["tags"][:1])


def _place(entry: Path, record: Record) -> Path:
    return entry / f"image-{str(record['image']).removeprefix('sha256:')}.tar"


def _short(record: Record) -> str:
    return str(record["image"]).removeprefix("sha256:")[:12]
