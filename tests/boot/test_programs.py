"""What mpirun and horovodrun find instead of ssh, and what they do not see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainkit.boot.programs import exports, options_of


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainkit.boot.exec", "--in", "a bin", *words],
        cwd=folder, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def test_a_command_finds_ours_first_and_sees_only_what_it_needs(tmp_path: Path) -> None:
    script = 'command -v ssh; mpirun a "b c"; hosts; echo $SHOWN-$SECRET; . "$0/environment"; echo "$SECRET"'
    secret = "it's $HOME\n`id`"
    done = run(
        tmp_path, "--mpirun", "/bin/echo", "--hosts", "n1:2,n2:2", "--only", "PATH,SHOWN,ABSENT",
        "/bin/sh", "-c", script, str(tmp_path / "a bin"), SHOWN="shown", SECRET=secret,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/a bin/ssh\na b c\nn1:2\nn2:2\nshown-\n{secret}\n", done.stderr
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a bin").iterdir()}
    assert modes == {"ssh": 0o700, "mpirun": 0o700, "hosts": 0o700, "environment": 0o600}


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
