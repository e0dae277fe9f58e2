"""What `trainkit doctor` looks at: each check is a function that says what it found and, if need be, what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainkit.boot.ranks import without_ranks
from trainkit.boot.rundir import TERMINAL, RunDir
from trainkit.errors import TrainkitError
from trainkit.job import Job, Node, rank_command

_LIMIT_SECONDS = 120.0
_LEAST_DISK, _GOOD_DISK = 500_000_000, 5_000_000_000
_LEAST_SHM, _GOOD_SHM = 64_000_000, 1_000_000_000
_TORCH = """
import torch, torchvision
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {', '.join(gpus) or 'CPU'}")
"""
_WORLD = "from mpi4py import MPI; print(MPI.COMM_WORLD.Get_size())"


@dataclass(frozen=True)
class Check:
    """One finding: `state` is ok, warn (jobs run, with a limit) or bad (some can't)."""

    name: str
    state: str
    words: str
    remedy: str = ""


def checks() -> Iterator[Check]:
    """All checks, as they come to an end."""
    yield _python()
    yield _torch()
    yield from _plugins()
    yield _mpi()
    yield _installer()
    yield _shared_memory()
    yield from _workspace()


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", "ok", f"{version} at {sys.executable}")


def _run(argv: list[str]) -> tuple[int, str, str]:
    """Exit code, output and error output of a program that must end by itself."""
    try:
        done = subprocess.run(
            argv, env=without_ranks(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_LIMIT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, "", f"did not end within {_LIMIT_SECONDS:.0f} s"
    except OSError as e:
        return -1, "", str(e)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def _last_line(text: str) -> str:
    return text.splitlines()[-1].strip() if text else "no message"


def _torch() -> Check:
    code, out, err = _run([sys.executable, "-c", _TORCH])
    if code == 0:
        return Check("PyTorch", "ok", out)
    remedy = "Install a matching pair: pip install --force-reinstall torch torchvision"
    return Check("PyTorch", "bad", _last_line(err), remedy)


def _plugins() -> Iterator[Check]:
    from trainkit.boot import plugins

    for title, group, load in (
        ("launchers", plugins.LAUNCHERS, plugins.launcher),
        ("spreads", plugins.SPREADS, plugins.spread),
    ):
        names = sorted(plugins.found(group))
        broken = []
        for name in names:
            try:
                load(name)
            except TrainkitError as e:
                broken.append(e.message)
        if broken or not names:
            words = broken[0] if broken else "none are installed"
            yield Check(title, "bad", words, "Reinstall trainkit: its entry points are missing." if not names else "")
        else:
            yield Check(title, "ok", ", ".join(names))


def _mpi() -> Check:
    from trainkit.boot import plugins

    job = Job("doctor", "doctor", "/", 1, sys.executable, nodes=1, ranks_per_node=2, spread="mpi")
    try:
        command = plugins.spread("mpi")(job, Node(0, ("localhost",), "127.0.0.1", 0))[0]
    except TrainkitError as e:
        return Check("MPI", "warn", e.message, "Only jobs with --spread mpi need it.")
    words = command.environment.get("TRAINKIT_MPI", command.argv[0])
    mpirun = command.argv[: len(command.argv) - len(rank_command(job))]
    settings = [f"{name}={value}" for name, value in command.environment.items()]
    code, out, err = _run(["env", *settings, *mpirun, sys.executable, "-c", _WORLD])
    if code != 0:
        return Check(
            "MPI",
            "bad",
            f"{words}: {_last_line(err)}",
            "Take both from the Python registry: pip install 'trainkit[mpi]'",
        )
    if out.split() != ["2", "2"]:
        words = f"two ranks of {words} see worlds of {' and '.join(out.split())}"
        return Check(
            "MPI", "bad", words, "mpi4py loads another MPI than mpirun's: pip install --force-reinstall 'trainkit[mpi]'"
        )
    other = shutil.which("mpirun")
    if other and os.path.realpath(other) != os.path.realpath(command.argv[0]):
        remedy = "Jobs use the right one; a plain `mpirun` in a shell does not."
        return Check("MPI", "warn", f"{words}; PATH has another one first: {other}", remedy)
    return Check("MPI", "ok", words)


def _installer() -> Check:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        return Check("uv", "warn", "not found", "Jobs with pip_packages need it: pip install uv")
    code, out, err = _run([uv, "--version"])
    return (
        Check("uv", "ok", out)
        if code == 0
        else Check("uv", "warn", _last_line(err), "pip install --force-reinstall uv")
    )


def _room(name: str, path: Path, least: int, good: int, remedy: str) -> Check:
    from trainkit.cli.output import size

    free = shutil.disk_usage(path).free
    words = f"{size(free)} free in {path}"
    if free >= good:
        return Check(name, "ok", words)
    return Check(name, "warn" if free >= least else "bad", words, remedy)


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check(
            "/dev/shm", "bad", "missing", "Data loader workers and gloo need it; in a container use --shm-size."
        )
    remedy = "Data loader workers pass batches through it; in a container use --shm-size=2g."
    return _room("/dev/shm", path, _LEAST_SHM, _GOOD_SHM, remedy)


def _workspace() -> Iterator[Check]:
    from trainkit.cli import find

    try:
        root = find.root()
    except TrainkitError as e:
        yield Check("workspace", "warn", e.message)
        return
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        yield Check("workspace", "bad", f"{nearest} cannot be written to by you", 'Set another "root" in config.json.')
        return
    runs = list(find.run_dirs(root))
    yield Check("workspace", "ok", f"{root}: {len(runs)} run(s)")
    yield _room("disk", nearest, _LEAST_DISK, _GOOD_DISK, 'Delete old runs, or set another "root" in config.json.')
    yield orphans(runs)


def orphans(runs: list[Path]) -> Check:
    """Runs without a driver get one (`find.status`); processes of a run that has ended should not be."""
    from trainkit.cli import find

    alive = _processes_of_runs()
    active, left = [], []
    for path in runs:
        if find.status(path)[0] not in TERMINAL:
            active.append(path.name)
        elif RunDir(path).job.exists():
            left += [(path.name, pid) for pid in alive.get(path.name, ())]
    if left:
        words = ", ".join(f"{pid} of {name}" for name, pid in left[:5])
        pids = " ".join(str(pid) for _, pid in left)
        return Check("orphans", "bad", f"processes of ended runs: {words}", f"End them: kill {pids}")
    return Check("orphans", "ok", f"none; {len(active)} run(s) not ended" if active else "none")


def _processes_of_runs() -> dict[str, list[int]]:
    """Living processes of jobs, by run id."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for line in environment:
            if line.startswith(b"TRAINKIT_RUN_ID="):
                found.setdefault(line.partition(b"=")[2].decode(errors="replace"), []).append(int(entry.name))
    return found
