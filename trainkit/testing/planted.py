"""Planted faults: scripts that fail in a known way, and what a run's verdict has to say about each.

Every script marks the line that is to be named with `# here`. Used by trainkit's own tests and by the soak.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SUM = "from mpi4py import MPI\nworld = MPI.COMM_WORLD\n"
_RANK = "import os\nrank = int(os.environ['RANK'])\n"
_CGROUP = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True)
class Planted:
    """One fault: the script, the ranks that run it, and the verdict it has to get."""

    name: str
    script: str
    kind: str
    spread: str = "fork"
    ranks: int = 2
    rank: int = 1
    exception: str | None = None
    signal: str | None = None
    exit_code: int | None = None
    needs: str = ""  # "memory cgroup" or "small disk": what only some machines have

    @property
    def line(self) -> int | None:
        """The number of the line marked `# here`."""
        marked = [n for n, text in enumerate(self.script.splitlines(), 1) if "# here" in text]
        return marked[0] if marked else None

    def wrong(self, status: str, verdict: Mapping[str, Any] | None) -> list[str]:
        """What is not as it has to be; empty where all is right."""
        if status != "Failed" or verdict is None:
            return [f"status is {status}, not Failed"]
        expected = {
            "rank": self.rank, "kind": self.kind, "exception": self.exception, "signal": self.signal,
            "exit_code": self.exit_code, "line": self.line,
        }  # fmt: skip
        ignored = {"exit_code"} if self.exit_code is None else set()
        return [
            f"{key} is {verdict.get(key)!r}, not {value!r}"
            for key, value in expected.items()
            if key not in ignored and verdict.get(key) != value
        ]


FAULTS = (
    Planted(
        "exception before the first collective",
        _SUM + "if world.rank == 1:\n    raise ValueError('no such label')  # here\nworld.allreduce(1)\n",
        "exception", spread="mpi", exception="ValueError",
    ),
    Planted(
        "exception after the first collective",
        _SUM + "world.allreduce(1)\nif world.rank == 0:\n    raise KeyError('label')  # here\nworld.allreduce(1)\n",
        "exception", spread="mpi", rank=0, exception="KeyError",
    ),
    Planted(
        "exception in a data loader's worker",
        "import torch.utils.data\nclass Broken(torch.utils.data.Dataset):\n    def __len__(self): return 8\n"
        "    def __getitem__(self, n):\n        raise IndexError('image 3 is empty')  # here\n"
        "for batch in torch.utils.data.DataLoader(Broken(), num_workers=1): pass\n",
        "exception", ranks=1, rank=0, exception="IndexError",
    ),
    Planted(
        "exception in a thread, and the exit code of one who noticed",
        _RANK + "import sys, threading\nfailed = []\ndef work():\n    try:\n        raise OSError('socket')\n"
        "    finally:\n        failed.append(1)\nt = threading.Thread(target=work); t.start(); t.join()\n"
        "if rank == 1: sys.exit(5)\nt.join(30)\n",
        "exit", exit_code=5,
    ),
    Planted("sys.exit(3)", _RANK + "import sys\nif rank == 1: sys.exit(3)\n", "exit", exit_code=3),
    Planted(
        "SIGKILL", _RANK + "import signal, time\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)\n",
        "signal", signal="SIGKILL",
    ),
    Planted(
        "SIGSEGV", _RANK + "import ctypes, time\nif rank == 1:\n    ctypes.string_at(0)  # here\ntime.sleep(60)\n",
        "signal", signal="SIGSEGV",
    ),
    Planted(
        "abort", _RANK + "import time\nif rank == 1:\n    os.abort()  # here\ntime.sleep(60)\n",
        "signal", signal="SIGABRT",
    ),
    Planted(
        "out of memory, told by Python",
        _RANK + "import resource, time\nif rank == 1:\n    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "    bytearray(1 << 32)  # here\ntime.sleep(60)\n",
        "memory", exception="MemoryError",
    ),
    Planted(
        "out of memory, killed by the kernel",
        _RANK + "import time\nif rank == 1:\n    group = os.environ['GROUP']\n"
        "    open(group + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "    held = bytearray(256 << 20)\n    held[::4096] = b'x' * len(held[::4096])\ntime.sleep(60)\n",
        "memory", signal="SIGKILL", needs="memory cgroup",
    ),
    Planted(
        "import error", _RANK + "if rank == 1:\n    import no_such_package  # here\nimport time; time.sleep(60)\n",
        "exception", exception="ModuleNotFoundError",
    ),
    Planted(
        "syntax error", "import os\nif os.name  # here\n    pass\n",
        "exception", ranks=1, rank=0, exception="SyntaxError",
    ),
    Planted(
        "missing file", _RANK + "if rank == 1:\n    open('no/such/file')  # here\nimport time; time.sleep(60)\n",
        "exception", exception="FileNotFoundError",
    ),
    Planted(
        "disk full",
        _RANK + "import time\nif rank == 1:\n    with open('outputs/model.pt', 'wb', buffering=0) as file:\n"
        "        while True: file.write(b'x' * 65536)  # here\ntime.sleep(60)\n",
        "exception", exception="OSError", needs="small disk",
    ),
)  # fmt: skip


class MemoryGroup:
    """A memory cgroup of 64 MB that a planted script puts itself into; its path is `path`."""

    def __init__(self) -> None:
        self.path = str(_CGROUP / f"trainkit-planted-{os.getpid()}")

    @staticmethod
    def possible() -> bool:
        """Whether this machine lets this user make one."""
        return os.getuid() == 0 and (_CGROUP / "memory.limit_in_bytes").exists()

    def __enter__(self) -> MemoryGroup:
        os.makedirs(self.path, exist_ok=True)
        Path(self.path, "memory.limit_in_bytes").write_text(str(64 << 20))
        return self

    def __exit__(self, *_: object) -> None:
        os.rmdir(self.path)
