"""How ranks find each other where their launcher names no address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainkit import RunEnvironmentException
from trainkit_recipes.birds.world import join, leave

MPIRUN = str(Path(sys.executable).parent / "mpirun")
MEET = """
import os
from trainkit_recipes.birds.world import join, leave
here = join({**os.environ, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})  # as if each rank had a machine of its own
print(f"rank {here.rank} of {here.size}, sum {here.total(here.rank + 1)[0]:g}, file {here.meeting}")
leave(here)
"""


def test_a_process_on_its_own_needs_nobody() -> None:
    here = join({"OMP_NUM_THREADS": "1"})
    assert (here.rank, here.size, here.meeting) == (0, 1, None)
    assert here.total(2.0, 3) == [2.0, 3.0]
    leave(here)


def test_a_contradiction_is_an_error() -> None:
    with pytest.raises(RunEnvironmentException, match="RANK=5 and WORLD_SIZE=2 contradict"):
        join({"RANK": "5", "WORLD_SIZE": "2"})


@pytest.mark.engine
def test_ranks_on_several_machines_meet_through_mpi(tmp_path: Path) -> None:
    command = [MPIRUN, "--oversubscribe", "-np", "2", sys.executable, "-c", MEET]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} of 2, sum 3, file None" for rank in range(2)]


@pytest.mark.engine
def test_a_folder_that_others_can_write_to_is_no_meeting_place(tmp_path: Path) -> None:
    open_to_all = tmp_path / f"trainkit-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    script = "import os; from trainkit_recipes.birds.world import join; join(os.environ)"
    command = [MPIRUN, "--oversubscribe", "-np", "2", sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode != 0 and "but others can write there" in done.stderr
