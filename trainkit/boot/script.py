"""Runs the user's script as Python itself would, and tells how it failed: the exception and the user's own line."""

from __future__ import annotations

import io
import os
import re
import sys
import sysconfig
import threading
import time
import traceback
import types
from typing import Any, Dict, List, Optional, Sequence, Tuple

_LIMIT = 8000  # characters kept of any one text: a record must fit into its reserved space
_FILE = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:,)?(?: in (?P<function>.+))?$', re.MULTILINE)
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate")

_OWN = os.path.dirname((lambda: None).__code__.co_filename)  # where the code of this package says that it comes from

threads: List[Dict[str, Any]] = []  # exceptions that ended a thread, kept until the process ends


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Execute the file as `__main__`, with `sys.argv` and `sys.path` as `python path arguments` sets them."""
    sys.argv = [path, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    main = types.ModuleType("__main__")
    main.__file__ = file_name = os.path.abspath(path)
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    with io.open_code(path) as file:
        code = compile(file.read(), file_name, "exec", dont_inherit=True)
    exec(code, main.__dict__)


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Execute a module as `python -m name arguments` does: the current directory comes first where it imports."""
    import runpy

    sys.argv = [name, *arguments]
    sys.path[0] = os.getcwd()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def watch_threads() -> None:
    """Remember the uncaught exceptions of threads; Python prints them and goes on."""
    shown = threading.excepthook

    def hook(args: Any) -> None:
        if args.exc_value is not None:
            threads.append(describe(args.exc_value, here()))
            threads[-1]["thread"] = args.thread.name if args.thread else ""
            del threads[16:]
        shown(args)

    threading.excepthook = hook


def here() -> str:
    """The current directory; the root where that was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return os.sep


def _installed(file: str) -> bool:
    """Whether a file belongs to Python, an installed package or trainkit itself rather than to the user."""
    roots = {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.add(os.path.dirname(_OWN))
    return (
        file.startswith(tuple(os.path.join(root, "") for root in roots))
        or "site-packages" in file
        or "dist-packages" in file
        or file.startswith("<")
    )


def users_place(places: Sequence[Tuple[str, int, str]], code: str) -> Optional[Tuple[str, int, str]]:
    """Of (file, line, function), outermost first: the innermost in the run's own code, else in no installed package."""
    own = os.path.join(os.path.abspath(code), "")
    for test in (lambda f: os.path.abspath(f).startswith(own), lambda f: not _installed(f)):
        for place in reversed(places):
            if not place[0].startswith("<") and test(place[0]):
                return place
    return places[-1] if places else None


def places_in(text: str) -> List[Tuple[str, int, str]]:
    """The (file, line, function) of a printed traceback, in its order."""
    return [(m["file"], int(m["line"]), (m["function"] or "").strip()) for m in _FILE.finditer(text)]


def without_own_frames(stack: str) -> str:
    """A printed stack without the frames that only started the script."""
    return "".join(
        line
        for line in stack.splitlines(keepends=True)
        if 'File "' + _OWN not in line and 'File "<frozen runpy>"' not in line
    )


def describe(error: BaseException, code: str) -> Dict[str, Any]:
    """An exception as a rank records it: type, message, the user's own file and line, traceback, time."""
    message = _text(error)
    found = {"exception": _name(type(error)), "message": message[:_LIMIT], "failed": time.time()}
    found["memory"] = isinstance(error, MemoryError) or any(words in message.lower() for words in _OUT_OF_MEMORY)
    try:
        found.update(_place(error, message, code))
    except Exception as other:  # an exception of a strange kind, or the current directory is gone
        found["traceback"] = "%s: %s\n(no more can be said: %r)\n" % (found["exception"], found["message"], other)
    return found


def _place(error: BaseException, message: str, code: str) -> Dict[str, Any]:
    """Where an exception comes from, and its traceback; of a data loader's worker, its own and its message."""
    extracted = traceback.extract_tb(error.__traceback__)
    frames = [f for f in extracted if os.path.dirname(f.filename) != _OWN and f.filename != "<frozen runpy>"]
    places = [(f.filename, f.lineno or 0, f.name) for f in frames]
    found: Dict[str, Any] = {}
    if "Original Traceback (most recent call last):" in message:  # re-raised from a data loader's worker process
        inner = message.split("Original Traceback (most recent call last):", 1)[1]
        places += places_in(inner)
        found["message"] = (inner.strip().splitlines()[-1].partition(": ")[2] or message)[:_LIMIT]
    place = users_place(places, code)
    if isinstance(error, SyntaxError) and error.filename:
        place = (error.filename, error.lineno or 0, "")
    shown = traceback.TracebackException.from_exception(error)
    shown.stack = traceback.StackSummary.from_list(frames)
    found.update(zip(("file", "line", "function"), place or (None, None, None)))
    found["traceback"] = "".join(shown.format())[-_LIMIT:]
    return found


def _name(kind: type) -> str:
    """An exception's type by the name that users know it by."""
    module = kind.__module__
    known = isinstance(module, str) and module not in ("builtins", "__main__")
    return "%s.%s" % (module, kind.__name__) if known else kind.__name__


def _text(error: BaseException) -> str:
    """The exception's message; an exception whose own __str__ fails still gets a record."""
    try:
        return str(error)
    except BaseException:  # whatever that raises, it is not what ended the script
        return "(its message could not be read)"
