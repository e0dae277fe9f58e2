"""`python -m trainkit.azureml script.py [arguments]`, or `-m module`: runs what was written for the Azure ML SDK v1.

The program runs as Python would run it, and so do Python programs that it starts; only the names of the SDK are
trainkit's. Where the SDK is installed, it is used, and one line says so (`import trainkit.azureml` writes it).
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import TracebackType

from trainkit.boot import oldnames, script

USAGE = "usage: python -m trainkit.azureml [-m MODULE | SCRIPT] [ARGUMENTS ...]"
_WRONG_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments name; the exit code, where the program does not end this process itself."""
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        name, rest = arguments[1], arguments[2:]
        return _run(lambda: script.run_module(name, rest))
    if not arguments or arguments[0].startswith("-"):
        print(f"{USAGE}\n\n{__doc__}", file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else _WRONG_USAGE
    if not os.path.isfile(arguments[0]):
        print(f"{USAGE}\ntrainkit.azureml: there is no file {os.path.abspath(arguments[0])}.", file=sys.stderr)
        return _WRONG_USAGE
    return _run(lambda: script.run_script(arguments[0], arguments[1:]))


def _run(program: Callable[[], None]) -> int:
    oldnames.install(os.environ)
    try:
        program()
    except SystemExit as ended:
        sys.exit(ended.code)  # so that the program's own run, which watches this call, hears of it
    except BaseException as error:  # as Python shows it, without what has only started the program
        trace = _programs(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            atexit._run_exitfuncs()
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _programs(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that is the program's own."""
    starters = {__file__, script.__file__, "<frozen runpy>"}
    while trace is not None and trace.tb_frame.f_code.co_filename in starters:
        trace = trace.tb_next
    return trace


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
