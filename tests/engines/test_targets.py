"""Clusters attached on the command line, jobs on their nodes, and shells where the ranks run: real ssh, real Slurm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.engines.commands import call
from tests.engines.slurmd import missing as no_slurm
from tests.engines.testbed import Testbed, missing
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
SCRIPT = """
import os, time
open(os.path.join("..", "up-" + os.environ["RANK"]), "w").close()
time.sleep(300)
"""
REACHED = {
    "ssh": ("--option", "hosts=node1,node2"),
    "slurm": ("--option", "time=10", "--option", "extra=--overcommit"),
}


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Two nodes with Slurm on them, and a workspace that all see."""
    reason = missing() or no_slurm()
    if reason:
        pytest.skip(reason)
    with Testbed(nodes=2) as made:
        made.slurm()
        (made.shared / "work").mkdir()
        (made.shared / "work" / "train.py").write_text(SCRIPT)
        assert trainkit(made, "init").returncode == 0
        yield made


def trainkit(bed: Testbed, *words: str) -> subprocess.CompletedProcess[str]:
    """One command line on ctl, in the workspace."""
    return call(bed, bed.shared / "work", *words, timeout=90)


@pytest.mark.parametrize("launcher", sorted(REACHED))
def test_a_shell_opens_on_the_ranks_own_node(bed: Testbed, launcher: str) -> None:
    done = trainkit(bed, "compute", "add", launcher, "--launcher", launcher, *REACHED[launcher], "--max-nodes", "2")
    assert done.returncode == 0, done.stderr
    words = ("submit", "train.py", "-t", launcher, "--nodes", "2", "--ranks", "2", "--spread", "fork", "--gpu", "no")
    told = trainkit(bed, *words, "--dry-run")
    assert (told.returncode, f"the launcher '{launcher}' sends" in told.stdout) == (0, True), told.stderr
    submitted = trainkit(bed, *words)
    assert submitted.returncode == 0, submitted.stderr
    run_id = submitted.stdout.strip()
    try:
        folder = bed.shared / "work" / ".trainkit" / "runs" / "train" / run_id
        wait_until(lambda: len(list(folder.glob("up-*"))) == 4, 90, "the ranks' start")
        shown = lambda: json.loads(trainkit(bed, "show", run_id, "--json").stdout)["status"]  # noqa: E731
        wait_until(lambda: shown() == "Running", 30, "the scheduler's word that it runs")
        for rank, node in ((0, "node1"), (3, "node2")):
            command = "echo $RANK $LOCAL_RANK $(hostname) $PWD; exit 6"
            done = trainkit(bed, "shell", run_id, "--rank", str(rank), "--", "sh", "-c", command)
            assert done.stdout.strip() == f"{rank} {rank % 2} {node} {folder}/code", done.stderr
            assert done.returncode == 6
        named = json.loads(trainkit(bed, "compute", "show", launcher, "--json").stdout)
        assert (named["launcher"], named["currentNodeCount"]) == (launcher, 2)
    finally:
        assert trainkit(bed, "cancel", run_id).returncode == 0
    ended = trainkit(bed, "shell", run_id)
    assert (ended.returncode, "is Canceled" in ended.stderr) == (2, True)
    assert trainkit(bed, "compute", "detach", launcher).returncode == 0
