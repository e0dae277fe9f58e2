"""The run of a script that was started by hand: `python train.py`, `mpirun python train.py`, `torchrun train.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.boot import worlds
from trainkit.boot.config import DEFAULT_ROOT, find_config, load_config, read_values
from trainkit.boot.newrun import make_root
from trainkit.errors import UserErrorException, WorkspaceException

if TYPE_CHECKING:
    from trainkit.run import Run

_current: dict[str, Run] = {}  # this process's one offline run; a forked child goes on with it
_NO_WORKSPACE = "offline"


def context() -> Run:
    """This process's offline run, made at the first call; one for all ranks of a launch."""
    from trainkit.run import Run

    if _current:
        return _current["run"]
    world = worlds.here()
    place: dict[str, Any] = {"writer": f"rank-{world.rank.rank}", "attempt": 1, "rank": world.rank}
    family = worlds.parents_run()
    if family and Path(family).is_dir():
        run = Run._at(family, **place)
    else:
        from trainkit import exits, offline

        root, name = workspace_here(Path.cwd())
        facts = {"script": script(), "arguments": list(sys.argv[1:]), "outputs": str(Path("outputs").absolute())}
        session = offline.join(root, experiment_name(sys.argv[:1]), name, world, **facts)
        exits.watch(session)
        worlds.adopt_children(str(session.run_dir.path))
        run = Run._at(session.run_dir.path, session, **place)
    return _current.setdefault("run", run)


def workspace_here(start: Path) -> tuple[Path, str]:
    """Root and name of the workspace around a directory; without one, `.trainkit` in it.

    A config.json of some other program (with none of a workspace's keys) is passed over. Raises UserErrorException
    where the workspace's own is wrong.
    """
    path = find_config(start)
    if path is not None:
        try:
            values = read_values(path)
        except UserErrorException:
            if path.parent.name in (".azureml", "aml_config"):
                raise
            values = {}
        if any(key in values for key in ("subscription_id", "resource_group", "workspace_name", "Scope", "root")):
            config = load_config(path)
            return _made(config.root), config.name
    return _made(start.absolute() / DEFAULT_ROOT), _NO_WORKSPACE


def _made(root: Path) -> Path:
    """The root, made as a workspace makes it. Raises WorkspaceException where it cannot be."""
    try:
        return make_root(root)
    except OSError as error:
        raise WorkspaceException(
            f"This script was started by hand, and {root} cannot be made for its run ({error.strerror}). Start it in a "
            "directory that you can write to."
        ) from error


def script() -> str:
    """The script's path as it was started; empty in a notebook or with -c."""
    first = sys.argv[0] if sys.argv else ""
    return "" if first in ("", "-c", "-m") or "ipykernel" in first else first


def experiment_name(argv: list[str]) -> str:
    """An experiment's name from the script's: "train" for ./code/train.py."""
    stem = Path(script()).stem if argv else ""
    name = re.sub(r"[^a-zA-Z0-9_\-]+", "-", stem).strip("-_")
    return name[:100] or _NO_WORKSPACE
