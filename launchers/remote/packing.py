"""A run directory as archives for another machine, and which files of it come back."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from trainkit.job import Job

BOOT = "boot/trainkit.zip"  # where the boot zip is put
_CHECKPOINTS_SENT = 2  # the newest, and the one before it should the newest be damaged
_STEP = re.compile(r"step-(\d+)")
# Written on this machine: they do not travel, and what comes back under their names is not taken.
_HERE = (
    "code", "boot", "home", "run.json", "job.json", "environment.json", "cancel.json", "state.json", "stages.jsonl",
    "prepare.log",
)  # fmt: skip
_HERE_IN_ATTEMPT = ("job.json", "key", "handle.json")
_OURS = ("outputs", "logs")  # of the code directory: links to the run's own


def code_files(code: Path) -> Iterator[tuple[str, Path]]:
    """Everything in a code directory, in order, but for the two links to the run's own folders."""
    for folder, folders, files in os.walk(code):
        folders.sort()
        relative = os.path.relpath(folder, code)
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        plain = [name for name in folders if name not in linked]
        for name in sorted(files + folders):
            if relative == "." and name in _OURS and name not in plain:
                continue
            yield os.path.normpath(os.path.join(relative, name)), Path(folder, name)


def code_digest(code: Path) -> str:
    """A name for exactly this code: paths, contents, links, and what may be executed."""
    digest = hashlib.sha256()
    for name, path in code_files(code):
        if path.is_symlink():
            kind, content = "link", os.readlink(path).encode("utf-8", "surrogateescape")
        elif path.is_dir():
            kind, content = "directory", b""
        else:
            kind = "program" if path.stat().st_mode & 0o100 else "file"
            content = _file_digest(path)
        digest.update(b"%s\0%s\0%s\0" % (name.encode("utf-8", "surrogateescape"), kind.encode(), content))
    return digest.hexdigest()[:32]


def _file_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def pack_code(code: Path, file: BinaryIO) -> None:
    """Append the code's archive to a file."""
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for name, path in code_files(code):
            tar.add(path, name, recursive=False)


def pack_run(job: Job, file: BinaryIO) -> None:
    """Append the archive of what an attempt needs there: its job and key, what ranks read, the newest checkpoints."""
    run, attempt = Path(job.run_dir), f"attempts/{job.attempt}"
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for name in sorted(os.listdir(run)):
            if name.startswith((".", "driver.")) or (name in _HERE and name != "run.json") or name == "attempts":
                continue
            tar.add(run / name, name, filter=_needed(run))
        for folder in ("logs", "nodes", "ranks"):
            if (run / attempt / folder).is_dir():
                tar.add(run / attempt / folder, f"{attempt}/{folder}", recursive=False)
        for name in ("job.json", "key"):
            tar.add(run / attempt / name, f"{attempt}/{name}")
        if job.boot:
            tar.add(job.boot, BOOT)


def _needed(run: Path) -> Any:
    """A filter for tarfile: neither old checkpoints, nor the client's own events, nor links that lead away."""
    spare = _old_checkpoints(run / "checkpoints")

    def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        leaves = member.issym() and (
            os.path.isabs(member.linkname)
            or os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname)).startswith("..")
        )
        odd = not (member.isreg() or member.isdir() or member.issym())
        return None if odd or leaves or member.name in spare or member.name == "events/client.jsonl" else member

    return keep


def _old_checkpoints(checkpoints: Path) -> set[str]:
    """The checkpoints, as paths in the run directory, that are not among the newest of their fit."""
    old: set[str] = set()
    for folder in (checkpoints, *checkpoints.glob("fit-*")):
        steps = sorted(
            (int(match[1]), path)
            for path in folder.glob("step-*")
            if (match := _STEP.fullmatch(path.name)) and (path / "manifest.json").exists()
        )
        old |= {str(path.relative_to(checkpoints.parent)) for _, path in steps[:-_CHECKPOINTS_SENT]}
    return old


def is_welcome(name: str, attempt: int) -> bool:
    """Whether a file of this path may come back: not over one that this machine writes, not out of the directory."""
    parts = name.split("/")
    if os.path.isabs(name) or ".." in parts or name != os.path.normpath(name) or "\0" in name:
        return False
    if parts[0] == "attempts":
        return len(parts) > 2 and parts[1] == str(attempt) and parts[2] not in _HERE_IN_ATTEMPT
    return parts[0] not in _HERE and not parts[0].startswith("driver.") and name != "events/client.jsonl"


def put_run_request(job: Job, directory: str, digest: str) -> Mapping[str, Any]:
    """What precedes a run's archive."""
    return {
        "act": "put_run",
        "directory": directory,
        "name": f"{re.sub(r'[^A-Za-z0-9_.-]', '_', job.run_id)}.{job.attempt}",
        "attempt": job.attempt,
        "boot": BOOT if job.boot else "",
        "image": job.container.image if job.container and job.container.archive else "",
        "code": digest,
    }
