"""A world that is not the size asked for is an error, not a wrong result.

Ranks started by one MPI's mpirun that load another's library do not fail by themselves: each is a world of one. The
check runs in the rank, right after its script has imported mpi4py.MPI.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from typing import Any, Callable, Optional, Sequence

from trainkit.errors import RunEnvironmentException


class _CheckWorld(importlib.abc.MetaPathFinder):
    """Checks the size of MPI's world right after the script has imported mpi4py.MPI."""

    def __init__(self, size: int, words: str) -> None:
        self.size, self.words = size, words

    def find_spec(self, name: str, path: Optional[Sequence[str]], target: Any = None) -> Any:
        """The others' spec of mpi4py and mpi4py.MPI, with a step after their loading; other modules are left alone."""
        if name == "mpi4py":  # it puts a finder of its own for mpi4py.MPI at the front
            return self._followed(name, path, lambda module: self._to_the_front())
        if name == "mpi4py.MPI":
            return self._followed(name, path, self._check)
        return None

    def _to_the_front(self) -> None:
        sys.meta_path.remove(self)
        sys.meta_path.insert(0, self)

    def _followed(self, name: str, path: Optional[Sequence[str]], then: Callable[[Any], None]) -> Any:
        for finder in [f for f in sys.meta_path if f is not self]:
            spec = finder.find_spec(name, path) if hasattr(finder, "find_spec") else None
            if spec is not None and spec.loader is not None:
                load = spec.loader.exec_module

                def exec_module(module: Any, load: Callable[[Any], None] = load) -> None:
                    load(module)
                    then(module)

                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
                return spec
        return None

    def _check(self, module: Any) -> None:
        if module.Is_initialized() and module.COMM_WORLD.Get_size() != self.size:
            raise RunEnvironmentException(
                "mpi4py sees a world of %d where the job has %d ranks: it loads %s, but the ranks were started by %s. "
                "Use one MPI for both: pip install --force-reinstall 'trainkit[mpi]' in the job's environment."
                % (module.COMM_WORLD.Get_size(), self.size, module.Get_library_version().splitlines()[0], self.words)
            )


def check_world(size: int) -> None:
    """From now on an import of mpi4py.MPI in this process fails unless its world has `size` ranks."""
    words = os.environ.get("TRAINKIT_MPI", "")
    if words:
        sys.meta_path.insert(0, _CheckWorld(size, words))
