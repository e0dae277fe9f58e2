"""A run's files as users name them, and their downloads.

`outputs/...` and `logs/...` are the script's folders, uploads have their own names, `azureml-logs/...` are what ranks
and the preparation printed. All can be read while the run is still writing them.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from trainkit.boot.files import DRIVER_LOGS, checked_name
from trainkit.boot.rundir import RunDir
from trainkit.errors import UserErrorException
from trainkit.ranklog import readable

BUILD_LOG = f"{DRIVER_LOGS}/20_image_build_log.txt"
DRIVER_LOG = f"{DRIVER_LOGS}/70_driver_log.txt"
_NAMED = 20  # of the files that there are, in an error


def below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Readable regular files below a folder, by relative name; a link counts as what it leads to."""
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory, name)
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    yield path.relative_to(folder).as_posix(), path
            except OSError:  # a broken link, or gone meanwhile
                continue


def log_files(run_dir: RunDir) -> dict[str, Path]:
    """The logs of the preparation and of the last launched attempt's ranks, by their names for users."""
    found: dict[str, Path] = {}
    if run_dir.prepare_log.exists():
        found[BUILD_LOG] = run_dir.prepare_log
    for attempt in readable(run_dir)[-1:]:
        ranks = (path.stem.removeprefix("rank-") for path in attempt.logs.glob("rank-*.log"))
        for rank in sorted(int(name) for name in ranks if name.isdecimal()):
            name = DRIVER_LOG if rank == 0 else f"{DRIVER_LOGS}/70_driver_log_{rank}.txt"
            found[name] = attempt.rank_log(rank)
    return found


def listing(run_dir: RunDir) -> dict[str, Path]:
    """All files of the run by name, in the order of names."""
    found = log_files(run_dir)
    for prefix, folder in (("outputs/", run_dir.outputs), ("logs/", run_dir.logs), ("", run_dir.uploads)):
        found.update((prefix + name, path) for name, path in below(folder))
    return dict(sorted(found.items()))


def locate(run_dir: RunDir, name: str) -> Path:
    """Where the file with this name is. UserErrorException where the name cannot be one, or there is none."""
    name = checked_name(name)
    first, _, rest = name.partition("/")
    folders = {"outputs": run_dir.outputs, "logs": run_dir.logs}
    path = folders[first] / rest if first in folders else run_dir.uploads / name
    if first == DRIVER_LOGS:
        path = log_files(run_dir).get(name, path)
    if path.is_file():
        return path
    names = list(listing(run_dir))
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    raise UserErrorException(f"Run {run_dir.path.name} has no file named {name!r}. It has: {shown or 'no files yet'}.")


def copy(source: Path, target: Path) -> None:
    """Copy a file in one step: whoever looks at `target` sees nothing, what was there before, or the whole copy."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".download-", dir=target.parent)
    except OSError as error:
        raise UserErrorException(f"{target} cannot be written: {error.strerror} ({error.filename}).") from error
    try:
        with os.fdopen(handle, "wb") as file, source.open("rb") as given:
            _copy_data(given, file)
        os.replace(temporary, target)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise UserErrorException(f"{target} cannot be written: {error.strerror}.") from error
        raise


def _copy_data(given: BinaryIO, file: BinaryIO) -> None:
    """Copy what there is; holes, which a log over its limit has, stay holes."""
    size, at = os.fstat(given.fileno()).st_size, 0
    while at < size:
        try:
            begin = os.lseek(given.fileno(), at, os.SEEK_DATA)
            at = min(size, os.lseek(given.fileno(), begin, os.SEEK_HOLE))
        except OSError:  # nothing but a hole is left
            break
        file.seek(begin)
        while begin < at and (copied := os.sendfile(file.fileno(), given.fileno(), begin, at - begin)):
            begin += copied
    file.truncate(size)


def download(run_dir: RunDir, name: str, output_file_path: str | os.PathLike[str] | None) -> Path:
    """Copy one file; without a path, into the current directory under its last name; its new place."""
    source = locate(run_dir, name)
    last = checked_name(name).rpartition("/")[2]
    target = Path(last if output_file_path is None else output_file_path)
    if target.is_dir() or str(output_file_path or "").endswith("/"):
        target = target / last
    copy(source, target)
    return target


def download_all(
    run_dir: RunDir,
    prefix: str | None,
    output_directory: str | os.PathLike[str] | None,
    output_paths: Sequence[str] | None,
    append_prefix: bool,
) -> list[Path]:
    """Copy all files whose names start with `prefix`; nothing is copied where a name or path is wrong."""
    if prefix:
        checked_name(_without_slash(prefix))
    found = {name: path for name, path in listing(run_dir).items() if name.startswith(prefix or "")}
    if output_paths is None:
        base = Path(output_directory or ".")
        plan = {path: base / (name if append_prefix else _without(prefix or "", name)) for name, path in found.items()}
    else:
        if len(output_paths) != len(found):
            raise UserErrorException(
                f"{len(output_paths)} output_paths were given for {len(found)} files: {', '.join(found) or 'none'}."
            )
        plan = dict(zip(found.values(), map(Path, output_paths), strict=True))
    for source, target in plan.items():
        copy(source, target)
    return list(plan.values())


def _without_slash(name: object) -> object:
    """A folder's name as a file's; anything that is no text, and a lone slash, as it is."""
    return (name.rstrip("/") or name) if isinstance(name, str) else name


def _without(prefix: str, name: str) -> str:
    """A name without the folder that its prefix is, or ends in."""
    for folder in (prefix.rstrip("/"), prefix.rpartition("/")[0]):
        if folder and name.startswith(folder + "/"):
            return name[len(folder) + 1 :]
    return name


def of_model(run_dir: RunDir, model_path: str) -> Mapping[str, Path]:
    """The run's files that a model of this path is made of, by their names in the model; none where there is none.

    A file goes by its last name, a folder's files below the folder's: "outputs/" gives "outputs/model.pt".
    """
    name = checked_name(_without_slash(model_path))
    files = listing(run_dir)
    last = name.rpartition("/")[2]
    if name in files and not model_path.endswith("/"):
        return {last: files[name].resolve()}
    below_it = {other[len(name) + 1 :]: path for other, path in files.items() if other.startswith(name + "/")}
    return {f"{last}/{other}": path.resolve() for other, path in below_it.items()}  # a link: what it leads to
