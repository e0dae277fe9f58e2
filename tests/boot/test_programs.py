"""What mpirun and horovodrun find instead of ssh, and what they do not see."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot.programs import exports, options_of
from trainkit.testing import runs

_TELLS = """
import hashlib, os, torch, horovod.torch as hvd
hvd.init()
hvd.allreduce(torch.ones(1))
with open("../told-%d" % hvd.rank(), "w") as file:
    file.write(hashlib.sha256(os.environ["OF_THE_AGENT"].encode()).hexdigest())
"""


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainkit.boot.exec", "--in", "a bin", *words],
        cwd=folder, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, timeout=30,
        errors="surrogateescape",
    )  # fmt: skip


def test_a_command_finds_ours_first_and_sees_only_what_it_needs(tmp_path: Path) -> None:
    script = 'command -v ssh; mpirun a "b c"; hosts; echo $SHOWN-$SECRET; . "$0/environment"; echo "$SECRET"'
    secret = "it's $HOME\n`id` \u00e9 \udcff'"
    done = run(
        tmp_path, "--mpirun", "/bin/echo", "--hosts", "n1:2,n2:2", "--only", "PATH,SHOWN,ABSENT",
        "/bin/sh", "-c", script, str(tmp_path / "a bin"), SHOWN="shown", SECRET=secret,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/a bin/ssh\na b c\nn1:2\nn2:2\nshown-\n{secret}\n", done.stderr
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a bin").iterdir()}
    assert modes == {"ssh": 0o700, "mpirun": 0o700, "hosts": 0o700, "environment": 0o600}
    assert "`id`" not in (tmp_path / "a bin" / "environment").read_text(), "a value outlives the command"


@pytest.mark.engine
@pytest.mark.parametrize("spread", ["horovod", "horovod-mpi"])
def test_a_value_that_ranks_of_horovodrun_have_is_in_no_file_of_the_run(
    workspace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: str
) -> None:
    pytest.importorskip("horovod")
    mark = uuid.uuid4().hex
    secret = f"it's {mark}\n$HOME `id`"
    monkeypatch.setenv("OF_THE_AGENT", secret)
    run = runs.submit(workspace, tmp_path / "source", _TELLS, spread, ranks=2)
    run.wait_for_completion()
    told = [(run.directory / f"told-{rank}").read_text() for rank in range(2)]
    assert told == [hashlib.sha256(secret.encode()).hexdigest()] * 2
    files = [path for path in run.directory.rglob("*") if path.is_file()]
    assert len(files) > 10 and [path for path in files if mark.encode() in path.read_bytes()] == []


def test_without_a_list_the_command_keeps_its_environment(tmp_path: Path) -> None:
    done = run(tmp_path, "/bin/sh", "-c", "echo $PLAIN $PATH", PLAIN="plain")
    assert done.stdout == f"plain {os.environ['PATH']}\n"
    assert [path.name for path in (tmp_path / "a bin").iterdir()] == ["ssh"]


def test_the_program_knows_its_relay_where_its_caller_forgot_it(tmp_path: Path) -> None:
    run(tmp_path, "/bin/true", TRAINKIT_RELAY="trainkit-nowhere")
    done = subprocess.run(
        [tmp_path / "a bin" / "ssh", "n1", "true"], env={}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 255 and "this node's agent does not answer" in done.stderr
    assert "trainkit-nowhere" in (tmp_path / "a bin" / "ssh").read_text()


def test_options_end_where_the_command_begins() -> None:
    assert options_of(["--in", "x", "--only", "A", "mpirun", "--in", "y"]) == (
        {"--in": "x", "--only": "A"},
        ["mpirun", "--in", "y"],
    )


def test_names_that_no_shell_takes_are_left_out() -> None:
    assert exports({"BASH_FUNC_x%%": "() { :; }", "A": ""}) == "export A=''\n"
