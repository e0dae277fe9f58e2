"""The import names of the Azure ML SDK v1: a table, and a finder by which `from azureml.core import Run` is trainkit's.

The finder comes last, so that an installed SDK is found first and stays what it is; where only a part of it is
installed (azureml-mlflow), the rest of the names is trainkit's. In a job's interpreter without the whole of trainkit,
the names that travel are there: Run, the exceptions, and those that only say what to do instead. It imports nothing,
and trainkit's modules only when a name of theirs is asked for.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any, Dict, List, MutableMapping, NoReturn, Optional, Sequence

from trainkit.boot.oldtable import HOMES, MODULES, REMEDIES, VERSION
from trainkit.errors import UserErrorException

TOP = "azureml"
_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "path")  # has an azureml that makes way
_TRAVELS = {"run": "boot.context:RunContext"}  # what stands for a module of trainkit where only the boot zip is


def refuse(name: str, remedy: str) -> NoReturn:
    """Raise the error of a name that can be imported but not used."""
    raise UserErrorException("%s cannot be used with trainkit; %s." % (name, remedy))


class _Later(type):
    """Of classes that stand for what trainkit has not: any use of one is an error that says what to do instead."""

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(cls.__name__, REMEDIES[cls.__name__])

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):  # Python's own questions
            raise AttributeError("%s has no attribute %r" % (cls.__name__, name))
        refuse("%s.%s" % (cls.__name__, name), REMEDIES[cls.__name__])


_made: Dict[str, Any] = {}  # one class for a name, wherever it is imported from


def value(module: str, name: str) -> Any:
    """What `name` of an old module is. Raises ImportError where only the whole of trainkit has it."""
    if name in ("VERSION", "__version__"):
        return "%s+trainkit.%s" % (VERSION, importlib.import_module("trainkit").__version__)
    if name in REMEDIES:
        return _made.setdefault(name, _Later(name, (), {"__module__": module, "__doc__": REMEDIES[name]}))
    home, _, other = HOMES[name].partition(":")
    try:
        found = importlib.import_module("trainkit." + home)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("trainkit."):
            raise
        home, _, other = _TRAVELS.get(home, "").partition(":")
        if not home:
            raise ImportError(
                "%s.%s needs the whole of trainkit, of which only a part travels with a job: install trainkit in this "
                "image or environment (%s)." % (module, name, sys.executable)
            ) from None
        found = importlib.import_module("trainkit." + home)
    return getattr(found, other or name)


def _inside(module: str) -> List[str]:
    """The names and the modules in an old module."""
    return MODULES[module] + [found.rpartition(".")[2] for found in MODULES if found.rpartition(".")[0] == module]


def unknown(module: str, name: str) -> str:
    """What is said of a name that trainkit does not have: where it is instead, or the nearest one."""
    import difflib

    every = {word: found for found, names in MODULES.items() for word in names}
    if name in every:
        hint = "it is in %s." % every[name]
    elif near := difflib.get_close_matches(name, _inside(module), 1):
        hint = "did you mean %s.%s?" % (module, near[0])
    elif near := difflib.get_close_matches(name, every, 1, 0.75):
        hint = "did you mean %s.%s?" % (every[near[0]], near[0])
    else:
        hint = "no name is like it. %s has %s." % (module, ", ".join(MODULES[module] or _inside(module)))
    return "trainkit has no %s.%s: %s" % (module, name, hint)


class _Names:
    """`__getattr__` of one old module: fetches a name when it is first asked for, and keeps it."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __call__(self, name: str) -> Any:
        module = self.module.__name__
        if module + "." + name in MODULES:
            return importlib.import_module(module + "." + name)
        if name not in MODULES[module]:
            raise AttributeError(unknown(module, name) if not name.startswith("__") else name)
        found = value(module, name)
        setattr(self.module, name, found)
        return found


class OldNames:
    """Finds and makes the modules of the table; Python asks it after all its other finders."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        """The module's specification; None for others. Raises ModuleNotFoundError for what a module of ours lacks."""
        top, _, _ = fullname.partition(".")
        if top != TOP or (fullname != TOP and installed()):
            return None
        if fullname in MODULES:
            return importlib.machinery.ModuleSpec(fullname, self, origin="trainkit", is_package=True)  # type: ignore[arg-type]
        parent, _, name = fullname.rpartition(".")
        if not _is_ours(parent) or name.startswith("__") or name in MODULES[parent]:
            return None
        raise ModuleNotFoundError(unknown(parent, name))  # without its `name`: else Python hides it, in `from x import`

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Python makes the module itself."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module: its names are fetched when they are asked for."""
        name = module.__name__
        module.__doc__ = "Names of the Azure ML SDK v1 that are trainkit's."
        module.__all__ = [word for word in MODULES[name] if not word.startswith("_")]  # type: ignore[attr-defined]
        module.__dir__ = lambda: _inside(name)  # type: ignore[method-assign]
        module.__getattr__ = _Names(module)  # type: ignore[method-assign]


def _is_ours(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return isinstance(getattr(spec, "loader", None), OldNames)


def installed() -> str:
    """Where the SDK itself is installed; empty where nothing of it is, or only a part."""
    if TOP in sys.modules:
        path = getattr(sys.modules[TOP], "__path__", None)
    else:
        found = _found(TOP, [entry for entry in sys.path if entry != _FOLDER])
        path = found.submodule_search_locations if found is not None else None
    core = _found(TOP + ".core", path) if path is not None else None
    return core.origin or "" if core is not None else ""


def _found(name: str, path: Sequence[str]) -> Optional[importlib.machinery.ModuleSpec]:
    """What other finders know of a module; nothing where it is an empty folder, or the table's."""
    for finder in sys.meta_path:
        if not isinstance(finder, OldNames) and hasattr(finder, "find_spec"):
            spec: Optional[importlib.machinery.ModuleSpec] = finder.find_spec(name, path)
            if spec is not None and (spec.origin is not None or name == TOP):
                return spec
    return None


def install(environment: Optional[MutableMapping[str, str]] = None) -> None:
    """Make the old names importable here and in processes that multiprocessing spawns.

    With an `environment`, also in every Python program that is started with it. In a job, the log ends with a line
    where the script has used the SDK itself, which records nothing here.
    """
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
    if _FOLDER not in sys.path:
        sys.path.append(_FOLDER)
    if environment is not None:
        entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
        if _FOLDER not in entries:
            environment["PYTHONPATH"] = os.pathsep.join([*entries, _FOLDER])
        if "TRAINKIT_RUN_DIR" in environment:
            atexit.register(_say_whose)


def _say_whose() -> None:
    if TOP + ".core" in sys.modules and not _is_ours(TOP + ".core"):
        sys.stderr.write(
            "trainkit: this script has used the Azure ML SDK in %s, which is not trainkit's: what it logged is not in "
            "this run. Take azureml-core out of the job's environment.\n" % installed()
        )
