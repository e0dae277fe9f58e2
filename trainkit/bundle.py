"""The boot zip: what an agent or a rank needs to run where trainkit is not installed, as one file that Python executes.

It holds trainkit.boot, job, errors, what installs the old import names, and the packages of the one spread and the one
container engine that a job names, with their entry points.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import sys
import zipfile
from pathlib import Path

from trainkit.boot.plugins import ENGINES, SPREADS, found
from trainkit.boot.rundir import make_private
from trainkit.errors import UnsupportedJob

MOST_BYTES = 4 << 20  # of an entry point's package
_MAIN = """
import importlib
import importlib.util
import sys

bundle = sys.path.pop(0)
installed = importlib.util.find_spec("trainkit")  # never hide it, nor a checkout that is installed as it is
if installed is None or installed.origin is None:
    sys.path.insert(0, bundle)
else:
    import trainkit

    if trainkit.__version__ != %r:
        sys.exit(
            "trainkit " + trainkit.__version__ + " is installed in " + sys.executable + ", but %s submitted the job: "
            "install that version there, or none."
        )
command = sys.argv[1]
if command not in ("agent", "rank", "exec", "enter", "guard", "inside"):
    sys.exit("trainkit's boot zip knows no " + repr(command))
sys.exit(importlib.import_module("trainkit.boot." + command).main(sys.argv[2:]))
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
    kind = AttributeError if name.startswith("_") else ImportError  # whose words `from trainkit import x` shows
    raise kind("trainkit.%%s is not part of what travels with a job: install trainkit in its environment." %% name)
'''


def contents(spread: str = "", engine: str = "") -> dict[str, str]:
    """The zip's files: name to text; with the packages of the spread and the container engine that are named."""
    import trainkit

    home, version = Path(trainkit.__file__).parent, trainkit.__version__
    files = {"__main__.py": _MAIN % (version, version), "trainkit/__init__.py": _PACKAGE % version}
    for name in ("job.py", "errors.py", "azureml/__init__.py"):
        files["trainkit/" + name] = (home / name).read_text(encoding="utf-8")
    for path in sorted((home / "boot").rglob("*.py")):
        files["trainkit/" + path.relative_to(home).as_posix()] = path.read_text(encoding="utf-8")
    for group, name in ((SPREADS, spread), (ENGINES, engine)):
        for owner, point in found(group).get(name, [])[:1]:
            files.update(_package_of(point.value.partition(":")[0], name))
            information = f"{owner.replace('-', '_')}-{version}.dist-info/"
            files[information + "METADATA"] = f"Metadata-Version: 2.1\nName: {owner}\nVersion: {version}\n"
            points = files.get(information + "entry_points.txt", "")
            files[information + "entry_points.txt"] = points + f"[{group}]\n{name} = {point.value}\n"
    return files


def _package_of(module: str, name: str) -> dict[str, str]:
    """The sources of the package, or the single file, that an entry point's module belongs to."""
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if spec is None or not (folders or spec.origin):
        raise UnsupportedJob(f"{name!r} is in {module}, which cannot be found here: install it again.")
    if not folders:
        return {f"{top}.py": Path(str(spec.origin)).read_text(encoding="utf-8")}
    files = {}
    for path in sorted(Path(folders[0]).rglob("*.py")):
        files[f"{top}/{path.relative_to(folders[0]).as_posix()}"] = path.read_text(encoding="utf-8")
    if sum(map(len, files.values())) > MOST_BYTES:
        raise UnsupportedJob(
            f"{name!r} is in the package {top}, which has over {MOST_BYTES >> 20} MB of Python files: "
            "too much to travel to nodes. Put it into a small package of its own."
        )
    return files


def _compiled(text: str, name: str) -> bytes:
    """A source as this version of Python runs it, which else would compile forty of them anew with each rank.

    In the form of a .pyc file that is not compared with its source; another version takes the source. Nothing where the
    text is none of Python's.
    """
    try:
        code = compile(text, name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return b""
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(text.encode())
    return head + marshal.dumps(code)


def bundle(directory: Path, spread: str = "", engine: str = "") -> Path:
    """The zip's path in `directory`, written once for each of its contents."""
    files = contents(spread, engine)
    digest = hashlib.sha256(repr((sys.implementation.cache_tag, sorted(files.items()))).encode()).hexdigest()[:16]
    path = make_private(directory) / (f"trainkit-{digest}.zip")
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with zipfile.ZipFile(str(partial), "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
                if name.endswith(".py") and (compiled := _compiled(text, f"{path}/{name}")):
                    archive.writestr(zipfile.ZipInfo(name + "c"), compiled, zipfile.ZIP_DEFLATED)
        os.replace(str(partial), str(path))
    return path
