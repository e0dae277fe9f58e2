"""`trainkit shell`: a command where a rank of a real run runs, here and through a launcher of others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.strangers import moon  # noqa: F401
from trainkit.cli import codes
from trainkit.testing import wait_until

PROGRAM = str(Path(sys.executable).parent / "trainkit")
ENDLESS = "import os, time\nopen(f'../up-{os.environ[\"RANK\"]}', 'w').close()\nwhile True:\n    time.sleep(0.1)\n"
Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("moon")


@pytest.fixture
def cli(workspace: Any, command_line: Run) -> Run:
    """The command line, in a workspace of its own."""
    Path("endless.py").write_text(ENDLESS)
    return command_line


@pytest.fixture(params=["local", "cluster"])
def running(request: pytest.FixtureRequest, cli: Run, workspace: Any) -> Iterator[tuple[str, str]]:
    """A run of two nodes with two ranks each: its id, and where it runs."""
    if request.param == "cluster":
        assert cli("compute", "add", "cluster", "--launcher", "moon", "--option", "crater=Tycho")[0] == codes.DONE
    words = ["--nodes", "2", "--ranks", "2", "--spread", "fork", "--gpu", "no"]
    code, out, err = cli("submit", "endless.py", "-t", request.param, *words)
    assert code == codes.DONE, err
    run_id = out.strip()
    folder = workspace.root / "runs" / "endless" / run_id
    wait_until(lambda: len(list(folder.glob("up-*"))) == 4, 60, "the ranks' start")
    yield run_id, request.param
    cli("cancel", run_id)


def shell(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "shell", *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def test_a_command_runs_where_the_rank_does(cli: Run, running: tuple[str, str], workspace: Any) -> None:
    run_id, where = running
    done = shell(run_id, "--rank", "3", "--", "sh", "-c", "echo $RANK $NODE_RANK $TRAINKIT_RUN_ID $PWD; exit 5")
    code = workspace.root / "runs" / "endless" / run_id / "code"
    assert (done.returncode, done.stdout) == (5, f"3 1 {run_id} {code}\n"), done.stderr
    told = json.loads(cli("shell", "last", "--rank", "2", "--json", "--", "nvidia-smi")[1])
    assert (told["node"], told["rank"], told["argv"][-2:]) == (1, 2, ["2", "nvidia-smi"])
    assert (told["argv"][:3] == ["env", "CRATER=Tycho", "NODE=1"]) == (where == "cluster")
    ended, out, err = cli("shell", run_id, "--rank", "4")
    assert (ended, "has no rank 4: its ranks are 0 to 3" in err) == (codes.NOT_FOUND, True)


def test_only_a_running_run_has_a_shell(cli: Run) -> None:
    Path("short.py").write_text("")
    assert cli("submit", "short.py", "--wait")[0] == codes.DONE
    code, _, err = cli("shell", "last")
    assert (code, " is Completed: a shell is opened where" in err) == (codes.USAGE, True)
    assert cli("shell", "nothing")[0] == codes.NOT_FOUND


def test_a_launcher_that_has_no_shell_says_so(cli: Run, moon: Path, workspace: Any) -> None:  # noqa: F811
    source = (moon / "moonbase.py").read_text()
    (moon / "moonbase.py").write_text(source.replace("def shell(", "def no_shell("))
    assert cli("compute", "add", "cluster", "--launcher", "moon", "--option", "crater=Tycho")[0] == codes.DONE
    run_id = cli("submit", "endless.py", "-t", "cluster")[1].strip()
    folder = workspace.root / "runs" / "endless" / run_id
    wait_until(lambda: (folder / "up-0").exists(), 60, "the rank's start")
    code, _, err = cli("shell", run_id)
    assert (code, "The launcher 'moon' cannot open a shell on a node" in err) == (codes.USAGE, True)
    assert cli("cancel", run_id)[0] == codes.DONE
