"""horovodrun gets one host list, one interface, few variables; ranks get all of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trainkit.errors import LaunchError
from trainkit.job import Job, Node
from trainkit_launchers.spreads.horovod import horovod, horovod_elastic

NAMES = ("a", "b")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose interpreter has a horovodrun beside it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "horovodrun").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "horovodrun").chmod(0o755)
    return Job(
        "r", "e", str(tmp_path / "it's a run"), 1, str(tmp_path / "bin/python"), nodes=2, ranks_per_node=2, min_nodes=1
    )


def test_over_two_machines(job: Job, tmp_path: Path) -> None:
    (command,) = horovod(job, Node(0, NAMES, "10.0.0.1", 29500, "eth0", (0, 1)))
    own = ("-np", "4", "--disable-cache", "--network-interfaces", "eth0", "--gloo", "-H", "a:2,b:2")
    start = command.argv.index(str(tmp_path / "bin" / "horovodrun"))
    assert command.argv[start + 1 : start + 1 + len(own)] == own
    assert command.argv[-3:] == (job.interpreter, "-m", "trainkit.boot.rank")
    assert command.argv[:5] == (job.interpreter, "-m", "trainkit.boot.exec", "--in", "attempts/1/bin")


def test_on_one_machine(job: Job) -> None:
    (command,) = horovod(job, Node(0, NAMES, "127.0.0.1", 29500))
    words = " ".join(command.argv)
    assert "-H localhost:4" in words and "--network-interfaces lo" in words


@pytest.mark.parametrize(("names", "machines"), [(("a",), (0,)), (NAMES, (0, 0))])
def test_on_one_machine_of_a_network(job: Job, names: tuple[str, ...], machines: tuple[int, ...]) -> None:
    (command,) = horovod(job, Node(0, names, "10.0.0.1", 29500, "eth0", machines))
    assert command.argv[command.argv.index("--network-interfaces") + 1] == "lo"


def test_only_the_head_runs_one(job: Job) -> None:
    assert horovod(job, Node(1, NAMES, "10.0.0.1", 29500, "eth0", (0, 1))) == []


def test_elastic_asks_who_lives(job: Job) -> None:
    (command,) = horovod_elastic(job, Node(0, NAMES, "10.0.0.1", 29500, "eth0", (0, 1)))
    words = " ".join(command.argv)
    assert "--hosts a:2,b:2" in words and "--min-np 2 --max-np 4" in words and "-H" not in command.argv
    script = command.argv[command.argv.index("--host-discovery-script") + 1]
    done = subprocess.run(["/bin/sh", "-c", f"printf %s {script}"], capture_output=True, text=True, timeout=10)
    assert done.stdout == f"{job.run_dir}/attempts/1/bin/hosts"


def test_a_rank_has_the_whole_environment_and_not_our_path(job: Job) -> None:
    (command,) = horovod(job, Node(0, NAMES, "10.0.0.1", 29500, "eth0", (0, 1)))
    shell, option, begin, file = command.argv[-7:-3]
    folder = Path(job.run_dir) / "attempts" / "1" / "bin"
    folder.mkdir(parents=True)
    (folder / "environment").write_text("export FOUND=all\n")
    words = [shell, option, begin, file, "/bin/sh", "-c", "echo $FOUND-$PATH"]
    path = {"PATH": f"{folder}:/bin:/usr/bin"}
    local = subprocess.run(words, env=path, capture_output=True, text=True, timeout=10)
    assert local.stdout == "all-/bin:/usr/bin\n", local.stderr
    elsewhere = subprocess.run(words, env={**path, "TRAINKIT_RUN_ID": "r"}, capture_output=True, text=True, timeout=10)
    assert elsewhere.stdout == "-/bin:/usr/bin\n"


def test_without_horovod_it_says_what_to_install(job: Job) -> None:
    bare = Job("r", "e", job.run_dir, 1, "/usr/bin/python3", nodes=2)
    with pytest.raises(LaunchError, match="no horovodrun beside /usr/bin/python3: install Horovod"):
        horovod(bare, Node(0, NAMES, "10.0.0.1", 29500, "eth0", (0, 1)))
