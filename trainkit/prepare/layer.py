"""Virtual environments that stand on another interpreter's packages.

`--system-site-packages` shows an environment the packages of the Python that it was made from, never those of the
virtual environment that one works in. So the layer names the base's package folders in a .pth file, through
`site.addsitedir`, so that the base's own .pth files (editable installs, further layers) are followed too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from trainkit.boot.rundir import make_private
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.base import Base
from trainkit.prepare.installer import Installer, uv
from trainkit.requirements import normalised

PTH = "_trainkit_base.pth"
_VIEWS = ".views"
_UNUSED_SECONDS = 7 * 24 * 3600.0


def interpreter_in(environment: Path) -> Path:
    """The environment's own Python program."""
    return environment / "bin" / "python"


def python_of(environment: Path) -> str:
    """The full version of a virtual environment's Python, as its maker wrote it down; "" where it is none."""
    try:
        text = (environment / "pyvenv.cfg").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    match = re.search(r"^version(?:_info)? = (\d+\.\d+\.\d+)", text, re.MULTILINE)
    return match[1] if match else ""


def site_packages(environment: Path, base: Base) -> Path:
    """The package folder of an environment over a base. Raises EnvironmentBuildError where it has another Python."""
    folder = environment / "lib" / f"python{base.minor}" / "site-packages"
    if not folder.is_dir():
        raise EnvironmentBuildError(f"{environment} has no package folder of Python {base.minor} to layer over a base.")
    return folder


def pth_lines(sites: Sequence[str]) -> str:
    """The .pth file's text; its lines that start with `import` are executed."""
    return "".join(f"import site; site.addsitedir({json.dumps(path)})\n" for path in sites)


def make_venv(installer: Installer, environment: Path, python: str) -> None:
    """An empty virtual environment of the Python `python` (a program, or a version such as 3.12)."""
    argv = [uv(), "venv", "--color", "never", "--no-progress", "--no-project", "--no-python-downloads", "--quiet"]
    result = installer.ask([*argv, "--python", python, str(environment)], environment.parent)
    if result.code:
        raise EnvironmentBuildError(
            f"No virtual environment could be made with Python {python}: {' '.join(result.output.split())[-400:]} "
            "Ask for a python_version that is installed here, or leave it out.",
            result.output,
        )


@contextmanager
def seen(environment: Path, base: Base, taken: Path) -> Iterator[None]:
    """While it lasts, the installer takes the base's packages for packages of the environment.

    It finds their records there, so that it installs what they lack, and nothing of theirs a second time. The folder of
    records, from `take`, has the place of the environment's package folder, and gives it back what was installed.
    """
    site, view, own = site_packages(environment, base), environment / "view", environment / "own"
    taken.rename(view)
    records = frozenset(os.listdir(view))
    first = {_key(entry.name) for entry in site.glob("*.dist-info")}  # conda's: they go before the base's
    for name in records:
        if _key(name) in first:
            shutil.rmtree(view / name)
    for entry in list(site.iterdir()):
        entry.rename(view / entry.name)
    site.rename(own)
    view.rename(site)
    try:
        yield
    finally:
        site.rename(view)
        own.rename(site)
        for entry in list(view.iterdir()):
            if entry.name not in records or _key(entry.name) in first or (entry / "INSTALLER").exists():
                entry.rename(site / entry.name)
        _give_back(view, _stored(base, environment.parent), records, base)


def _stored(base: Base, envs: Path) -> Path:
    """Where the records of the base in its present state are kept between uses."""
    state = json.dumps([base.interpreter, base.folders, base.packages])
    return make_private(envs / _VIEWS) / hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def take(environment: Path, base: Base) -> Path:
    """A folder with what each of the base's packages says of itself, for one build: the one that is kept, or a new one.

    It can be made before the environment is there.
    """
    stored = _stored(base, environment.parent)
    taken = stored.with_name(f"{environment.name}.taken")
    shutil.rmtree(taken, ignore_errors=True)  # of a builder that was killed
    try:
        stored.rename(taken)
    except FileNotFoundError:  # there was none, or another process has it
        taken.mkdir(0o700)
        _complete(taken, base)
    return taken


def _complete(view: Path, base: Base) -> None:
    """Write the records that the folder lacks.

    None names a file outside its own folder: one that is replaced loses nothing but itself.
    """
    there = set(os.listdir(view))
    for name, metadata in _records(base):
        if name not in there:
            (view / name).mkdir()
            (view / name / "METADATA").symlink_to(metadata)
            (view / name / "RECORD").write_text(f"{name}/METADATA,,\n{name}/RECORD,,\n")


def _give_back(view: Path, stored: Path, records: Set[str], base: Base) -> None:
    """Keep the folder for the next taker; what nobody has taken for long is removed."""
    if set(os.listdir(view)) != records:  # packages were replaced
        _complete(view, base)
    os.utime(view)
    try:
        view.rename(stored)
    except OSError:  # another process was faster
        shutil.rmtree(view, ignore_errors=True)
    for other in stored.parent.iterdir():
        with suppress(FileNotFoundError):  # another process took it, or did the same
            if time.time() - other.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(other, ignore_errors=True)


def _records(base: Base) -> Iterator[tuple[str, Path]]:
    """The names of the base's packages' records, of several of a package the one that is imported; each's text."""
    found = set()
    for entry in (Path(folder, name) for folder in base.folders for name in _names(folder)):
        if entry.suffix not in (".dist-info", ".egg-info") or entry.name.startswith("~"):
            continue
        metadata = next((path for path in (entry / "METADATA", entry / "PKG-INFO", entry) if path.is_file()), None)
        version = entry.stem.partition("-")[2].partition("-py")[0] or (_version(metadata) if metadata else "")
        key = _key(entry.name)
        if metadata and version and key not in found:
            found.add(key)
            yield f"{key}-{version}.dist-info", metadata


def _names(folder: str) -> list[str]:
    with suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def _key(record: str) -> str:
    return normalised(record.rpartition(".")[0].partition("-")[0]).replace("-", "_")


def _version(metadata: Path) -> str:
    match = re.search(r"^Version: (\S+)", metadata.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return match[1] if match else ""


def stand_on(environment: Path, base: Base) -> None:
    """Let the environment see the base's packages, after its own."""
    (site_packages(environment, base) / PTH).write_text(pth_lines(base.sites), encoding="utf-8")
    _link_libraries(environment, Path(base.prefix))


def lacks_trainkit(environment: Path, base: Base, inherit: bool) -> bool:
    """Whether neither the environment nor, where it stands on one, its base has trainkit in this version."""
    from trainkit import __version__

    records = {path.name for path in environment.glob("lib/python*/site-packages/trainkit-*.dist-info")}
    return f"trainkit-{__version__}.dist-info" not in records.union(base.packages if inherit else ())


def _link_libraries(environment: Path, prefix: Path) -> None:
    """The base's shared libraries under the environment's own prefix, where packages such as mpi4py look for them."""
    if prefix == Path("/usr"):  # the loader looks there by itself
        return
    for there in (prefix / "lib").iterdir():
        here = environment / "lib" / there.name
        if not there.name.startswith("python") and not here.is_symlink() and not here.exists():
            here.symlink_to(there)
