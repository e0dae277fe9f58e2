"""Found by processes that a script starts, through the path that they inherit: the old names are trainkit's there too.

This module takes itself away: in its place comes the Azure ML SDK's own, where that is installed, else the table's.
"""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path


def _make_way() -> None:
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    others = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec(__name__, others)
    if spec is None or spec.loader is None:
        try:
            from trainkit.boot import oldnames
        except ImportError:  # where trainkit is not installed, it is in the zip that this file is in
            sys.path.append(str(Path(here).parents[2]))
            from trainkit.boot import oldnames
        oldnames.install()
        spec = oldnames.OldNames().find_spec(__name__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[__name__] = module
    spec.loader.exec_module(module)


_make_way()
