"""The boot zip: what a rank needs to run where trainkit is not installed, as one small file that Python executes."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from trainkit.boot.rundir import make_private

_MAIN = """
import importlib.machinery
import sys

bundle = sys.path[0]
if importlib.machinery.PathFinder.find_spec("trainkit", [p for p in sys.path if p != bundle]):
    sys.path.remove(bundle)  # never hide an installed trainkit
from trainkit.boot.rank import main

sys.exit(main())
"""

_PACKAGE = '''"""What travels of trainkit: the in-job run. For everything else, install trainkit here."""

__version__ = %r


def __getattr__(name):
    if name == "Run":
        from trainkit.boot.context import RunContext

        return RunContext
    from trainkit import errors

    if hasattr(errors, name):
        return getattr(errors, name)
    raise AttributeError(
        "trainkit.%%s is not part of what travels to jobs: install trainkit in this job's environment." %% name
    )
'''


def contents() -> dict[str, str]:
    """The zip's files: name to text."""
    import trainkit

    home = Path(trainkit.__file__).parent
    files = {"__main__.py": _MAIN, "trainkit/__init__.py": _PACKAGE % trainkit.__version__}
    for name in ("job.py", "errors.py"):
        files["trainkit/" + name] = (home / name).read_text(encoding="utf-8")
    for path in sorted((home / "boot").glob("*.py")):
        files["trainkit/boot/" + path.name] = path.read_text(encoding="utf-8")
    return files


def bundle(directory: Path) -> Path:
    """The zip's path in `directory`, written once for each of its contents."""
    files = contents()
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    path = make_private(directory) / (f"trainkit-{digest}.zip")
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with zipfile.ZipFile(str(partial), "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name), text)
        os.replace(str(partial), str(path))
    return path
