"""The ssh launcher on real hosts: its laws, every way in which a host can refuse, and what faults leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import commands, pages
from tests.engines.testbed import Testbed, missing
from trainkit import outcome
from trainkit.boot.processes import with_environment
from trainkit.boot.rundir import RunDir
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parents[2]
SLEEP = "import subprocess, time\nsubprocess.Popen(['sleep', '300'])\ntime.sleep(300)\n"
WRITE = "import os\nopen('outputs/' + os.environ['RANK'], 'w').write(os.environ['SSH_CONNECTION'])\n"


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Three nodes for this module; a test that breaks one mends it."""
    if missing():
        pytest.skip(missing())
    with Testbed(nodes=3) as made:
        (made.home() / ".cache").mkdir()
        yield made


def call(bed: Testbed, act: str, options: dict[str, Any], timeout: float = 90, **values: Any) -> dict[str, Any]:
    """One act of jobs_in_ctl."""
    asked = json.dumps({"act": act, "launcher": "ssh", "options": options, **values})
    done = bed.run("ctl", [sys.executable, "-m", "tests.engines.jobs_in_ctl", asked], timeout=timeout, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def folder(bed: Testbed, name: str) -> Path:
    """A new run directory that all nodes see; the folders that a driver makes in it are there."""
    run = RunDir(bed.shared / name)
    (run.code).mkdir(parents=True)
    for own in (run.outputs, run.logs):
        own.mkdir()
        (run.code / own.name).symlink_to(own)
    return run.path


def started(bed: Testbed, options: dict[str, Any], name: str, script: str, nodes: int = 2) -> dict[str, Any]:
    """A job that could be started."""
    told = call(bed, "start", options, directory=str(folder(bed, name)), script=script, job={"nodes": nodes})
    assert "handle" in told, told
    return {**told, "directory": bed.shared / name}


def refused(bed: Testbed, options: dict[str, Any], name: str, nodes: int = 1) -> dict[str, Any]:
    """A job that could not be started, and of which nothing is left anywhere."""
    told = call(bed, "start", options, directory=str(folder(bed, name)), script=SLEEP, job={"nodes": nodes})
    assert "handle" not in told, told
    for node in bed.names:
        assert not bed.processes(node, str(bed.shared / name)), told
    return told


def ends(bed: Testbed, options: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """How the job ended, seen from another process than the one that started it."""
    told = call(bed, "watch", options, handle=job["handle"], phases=["ended", "lost"], seconds=60)
    assert told["done"], told
    return told


def records(job: dict[str, Any]) -> list[bool]:
    """Whether each rank ended well, by its own record."""
    return [outcome.ok(record) for record in outcome.records_of(RunDir(job["directory"]).attempt(1))]


def running(job: dict[str, Any], processes: int) -> bool:
    """Whether at least so many processes of the job's ranks are there."""
    return len(with_environment("TRAINKIT_RUN_ID", job["run_id"])) >= processes


def nothing_left(job: dict[str, Any], seconds: float) -> None:
    """Wait until no process of the job's ranks is on any node."""
    wait_until(lambda: not running(job, 1), seconds, "the end of all processes")


# --- the laws ---


def test_the_laws_of_a_launcher_on_a_shared_disk(bed: Testbed) -> None:
    _laws(bed, "shared")


def test_the_laws_of_a_launcher_without_a_shared_disk(bed: Testbed) -> None:
    (bed.shared / "laws-staged").mkdir()
    hidden = (bed.shared, bed.home() / ".cache")
    for node in bed.names:
        for path in hidden:
            bed.hide(node, path)
    try:
        _laws(bed, "staged")
        left = bed.run("node1", ["find", str(bed.home() / ".cache/trainkit/runs"), "-mindepth", "1"])
        assert left.stdout == ""
        job = started(bed, {"hosts": ["node1", "node2"], "shared_disk": False}, "law-of-code", WRITE)
        assert ends(bed, {"hosts": ["node1", "node2"], "shared_disk": False}, job)["phase"] == "ended"
        assert records(job) == [True, True]
        assert [(job["directory"] / f"outputs/{rank}").exists() for rank in range(2)] == [True, True]
    finally:
        for node in bed.names:
            for path in hidden:
                bed.show(node, path)


def _laws(bed: Testbed, name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/engines/laws_of_ssh.py"]
    base = bed.shared / f"laws-{name}"
    done = bed.run(
        "ctl", [*command, "--basetemp", str(base)], timeout=240, cwd=ROOT, env={"LAWS_OF_SSH": name, "CI": "true"}
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_hosts_may_share_the_home_that_files_are_sent_to(bed: Testbed) -> None:
    options = {"hosts": ["node1", "node2"], "shared_disk": False}
    for node in bed.names:
        bed.hide(node, bed.shared)
    try:
        job = started(bed, options, "one-home", WRITE)
        assert ends(bed, options, job)["phase"] == "ended"
    finally:
        for node in bed.names:
            bed.show(node, bed.shared)
    assert records(job) == [True, True]
    assert sorted(path.name for path in (job["directory"] / "outputs").iterdir()) == ["0", "1"]


def test_the_pages_example_runs(bed: Testbed) -> None:
    printed = pages.run_example(bed, "ssh.md", bed.shared / "page", {})
    assert "rank 1 on node2" in printed
    assert "0.5" in printed


# --- ways in, and refusals ---


@pytest.mark.parametrize(
    ("host", "options", "words", "transient"),
    [
        ("nowhere", [], ["nowhere", "no machine has this name"], False),
        ("node1", ["UserKnownHostsFile={none}"], ["node1", "its host key is not known here", "ssh node1"], False),
        ("node1", ["UserKnownHostsFile={changed}"], ["node1", "has changed", "ssh-keygen -R node1"], False),
        ("node1", ["IdentityFile={other}", "IdentitiesOnly=yes"], ["node1", "refuses", "ssh-copy-id"], False),
        ("node1:2222", [], ["node1:2222", "does not answer", "Connection refused"], True),
    ],
    ids=["unknown name", "unknown key", "changed key", "refused key", "closed port"],
)
def test_a_host_that_refuses_is_named_with_the_remedy(
    bed: Testbed, host: str, options: list[str], words: list[str], transient: bool, request: pytest.FixtureRequest
) -> None:
    name = "refused-" + request.node.callspec.id.replace(" ", "-")
    keys = bed.shared / f"{name}-keys"
    keys.mkdir()
    (keys / "none").write_text("")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "other")], check=True)
    (keys / "changed").write_text(f"node1 {(keys / 'other.pub').read_text()}")
    given = [option.format(none=keys / "none", changed=keys / "changed", other=keys / "other") for option in options]
    told = refused(bed, {"hosts": [host], "options": given}, name)
    assert (told["kind"], told["transient"], told["available"]) == ("LaunchError", transient, 0)
    for word in words:
        assert word in told["message"], told["message"]


def test_an_interpreter_that_a_host_lacks_is_named_with_the_remedy(bed: Testbed) -> None:
    values = {"directory": str(folder(bed, "no-python")), "script": "", "options": {"hosts": ["node1"]}}
    hidden = Path(sys.prefix)
    bed.hide("node1", hidden)
    try:
        told = call(bed, "start", **values)
    finally:
        bed.show("node1", hidden)
    assert f"node1: it has no {sys.executable}" in told["message"]
    assert "inherit=False" in told["message"]


def test_a_path_that_is_not_shared_is_named_with_the_remedy(bed: Testbed) -> None:
    bed.hide("node2", bed.shared)
    try:
        told = call(
            bed, "start", {"hosts": ["node1", "node2"]}, directory=str(folder(bed, "not-shared")), script=SLEEP,
            job={"nodes": 2},
        )  # fmt: skip
    finally:
        bed.show("node2", bed.shared)
    assert "node2: it does not see" in told["message"]
    assert "shared_disk=False" in told["message"]
    assert told["available"] == 1
    assert not bed.processes("node1", str(bed.shared / "not-shared"))


def test_a_spare_host_stands_in_for_one_that_is_down(bed: Testbed) -> None:
    bed.kill("node2")
    try:
        options = {"hosts": ["node1", "node2", "node3"], "connect_timeout_seconds": 3}
        job = started(bed, options, "spare", "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\n")
        seen = call(bed, "watch", options, handle=job["handle"], words="instead of node2", seconds=30)
        Path(job["directory"], "code/go").touch()
        assert ends(bed, options, job)["words"] == ""
        told = refused(bed, options, "no-spare", nodes=3)
    finally:
        bed.boot("node2")
    assert "node2: it does not answer" in seen["words"]
    assert records(job) == [True, True]
    assert (told["transient"], told["available"]) == (True, 2)
    assert "2 of 3 node(s)" in told["message"]
    assert "node2: it does not answer" in told["message"]


def test_a_job_goes_through_a_gateway(bed: Testbed) -> None:
    options = {"hosts": ["node2"], "options": ["ProxyJump=node1"]}
    job = started(bed, options, "gateway", WRITE, nodes=1)
    assert ends(bed, options, job)["phase"] == "ended"
    assert (job["directory"] / "outputs/0").read_text().split()[0] == bed.address("node1")


def test_connections_that_ssh_shares_hold_nobody_up(bed: Testbed) -> None:
    path = f"{bed.home()}/.ssh/master-%h"
    options = {"hosts": ["node1"], "options": [f"ControlPath={path}", "ControlMaster=auto", "ControlPersist=60"]}
    job = started(bed, options, "master", WRITE, nodes=1)
    assert ends(bed, options, job)["phase"] == "ended"
    assert records(job) == [True]
    done = bed.run("ctl", ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "node1"])
    assert done.returncode == 0, done.stderr


def test_a_login_script_that_prints_is_passed_over_or_named(bed: Testbed) -> None:
    script = bed.home() / ".bashrc"
    before = script.read_text()
    script.write_text(before + "echo Welcome to this machine\n")
    try:
        options = {"hosts": ["node1"]}
        job = started(bed, options, "noise", WRITE, nodes=1)
        assert ends(bed, options, job)["phase"] == "ended"
        told = refused(bed, {"hosts": ["node1"], "shared_disk": False}, "noise-staged")
    finally:
        script.write_text(before)
    assert records(job) == [True]
    assert "node1: rsync cannot bring results, because a login script there prints something." in told["message"]


def test_a_host_without_rsync_is_named_with_the_remedy(bed: Testbed) -> None:
    bed.run("node2", ["mount", "--bind", "/dev/null", "/usr/bin/rsync"], check=True)
    try:
        told = refused(bed, {"hosts": ["node1", "node2"], "shared_disk": False}, "no-rsync", nodes=2)
    finally:
        bed.run("node2", ["umount", "/usr/bin/rsync"], check=True)
    assert "node2: it has no rsync" in told["message"]


def test_odd_names_stay_words(bed: Testbed) -> None:
    options = {"hosts": ["node1", "node2"]}
    job = started(bed, options, 'it\'s a "run" of $(touch x) `id` & more', WRITE)
    assert ends(bed, options, job)["phase"] == "ended"
    assert records(job) == [True, True]


# --- ends and faults ---


def test_a_job_is_canceled_from_another_process(bed: Testbed) -> None:
    options = {"hosts": ["node1", "node2"]}
    job = started(bed, options, "canceled", SLEEP)
    wait_until(lambda: running(job, 4), 30, "the ranks' start")
    call(bed, "cancel", options, handle=job["handle"])
    call(bed, "cancel", options, handle=job["handle"])
    assert ends(bed, options, job)["phase"] == "ended"
    nothing_left(job, 10)
    call(bed, "cancel", options, handle=job["handle"])


def test_a_head_that_dies_is_lost_and_named_and_leaves_nothing(bed: Testbed) -> None:
    options = {"hosts": ["node1", "node2"], "connect_timeout_seconds": 4}
    job = started(bed, options, "head-dies", SLEEP)
    wait_until(lambda: running(job, 4), 30, "the ranks' start")
    bed.kill("node1", silently=True)
    try:
        begun = time.monotonic()
        told = ends(bed, options, job)
        nothing_left(job, 15)
    finally:
        bed.boot("node1")
    assert told["phase"] == "lost"
    assert told["words"].startswith("node1 cannot be reached (")
    assert time.monotonic() - begun < 60


def test_a_head_that_was_restarted_is_lost_and_named(bed: Testbed) -> None:
    options = {"hosts": ["node1"]}
    job = started(bed, options, "head-restarts", SLEEP, nodes=1)
    wait_until(lambda: running(job, 2), 30, "the ranks' start")
    bed.kill("node1")
    bed.boot("node1")
    told = ends(bed, options, job)
    assert (told["phase"], told["words"]) == ("lost", "node1 was restarted")


def test_a_node_that_is_cut_off_ends_the_job(bed: Testbed) -> None:
    options = {"hosts": ["node1", "node2"], "connect_timeout_seconds": 4}
    job = started(bed, options, "cut", SLEEP)
    wait_until(lambda: running(job, 4), 30, "the ranks' start")
    bed.cut("node2")
    try:
        nothing_left(job, 20)  # the head hears nothing for 8 s, asks its ranks to end, and so does the cut node
        told = ends(bed, options, job)
    finally:
        bed.heal("node2")
    assert told["phase"] == "ended"
    assert "node2 has not answered for 10 s" in told["words"]


def test_a_client_that_is_cut_off_ends_nothing(bed: Testbed) -> None:
    options = {"hosts": ["node1", "node2"], "connect_timeout_seconds": 2}
    script = "import os, time\nwhile not os.path.exists('../go'):\n    time.sleep(0.05)\n"
    job = started(bed, options, "client-cut", script)
    bed.cut("ctl")
    try:
        told = call(bed, "watch", options, handle=job["handle"], words="no host can be reached", seconds=60)
    finally:
        bed.heal("ctl")
    assert told["done"], told
    assert told["phase"] == "running"
    (job["directory"] / "go").touch()
    assert ends(bed, options, job)["phase"] == "ended"
    assert records(job) == [True, True]


def test_results_come_while_a_job_without_a_shared_disk_runs_and_its_code_travels_once(bed: Testbed) -> None:
    options = {"hosts": ["node1", "node2"], "shared_disk": False}
    script = (
        "import os, time\nrank = os.environ['RANK']\nopen('outputs/early-' + rank, 'w').write('x')\n"
        "while not os.path.exists('/run/go'):\n    time.sleep(0.05)\nopen('outputs/late-' + rank, 'w').write('y')\n"
    )
    hidden = (bed.shared, bed.home() / ".cache")
    for node in bed.names:
        for path in hidden:
            bed.hide(node, path)
    try:
        job = started(bed, options, "while", script)
        outputs = job["directory"] / "outputs"
        told = {}
        with bed.start(
            "ctl",
            [sys.executable, "-m", "tests.engines.jobs_in_ctl",
             json.dumps({"act": "watch", "launcher": "ssh", "options": options, "handle": job["handle"],
                         "phases": ["ended", "lost"], "seconds": 60})],
            cwd=ROOT, stdout=subprocess.PIPE,
        ) as watching:  # fmt: skip
            wait_until(lambda: all((outputs / f"early-{rank}").exists() for rank in range(2)), 40, "results")
            for node in ("node1", "node2"):
                bed.run(node, ["touch", "/run/go"], check=True)
            told = json.loads(watching.communicate(timeout=60)[0])
        assert told["phase"] == "ended", told
        assert sorted(path.name for path in outputs.iterdir()) == ["early-0", "early-1", "late-0", "late-1"]
        assert records(job) == [True, True]
        there = f"{bed.home()}/.cache/trainkit"
        before = bed.run("node1", ["bash", "-c", f"ls -i {there}/code; ls {there}/runs"], check=True).stdout
        again = started(bed, options, "again", script)
        assert ends(bed, options, again)["phase"] == "ended"
        assert records(again) == [True, True]
        assert bed.run("node1", ["bash", "-c", f"ls -i {there}/code; ls {there}/runs"], check=True).stdout == before
    finally:
        for node in bed.names:
            bed.run(node, ["rm", "-f", "/run/go"])
            for path in hidden:
                bed.show(node, path)


# --- whole runs: submitted, watched and restarted by the driver ---

TWICE = """
import json, os, pathlib, sys, time
rank, attempt = os.environ["RANK"], os.environ["TRAINKIT_ATTEMPT"]
kept = pathlib.Path("outputs", "kept-" + rank)
print("attempt", attempt, "finds", kept.exists(), flush=True)
if attempt == "1":
    kept.write_text("x")
    time.sleep(300)
"""


def trainkit(bed: Testbed, work: Path, *words: str, code: int = 0) -> str:
    """What a command of trainkit prints in ctl."""
    done = commands.call(bed, work, *words, timeout=110)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "staged"])
def test_a_run_whose_node_dies_and_whose_driver_is_killed_goes_on_with_a_spare(bed: Testbed, shared: bool) -> None:
    work = bed.shared / f"goes-on-{shared}"
    work.mkdir()
    (work / "train.py").write_text(TWICE)
    options = ["hosts=node1,node2,node3", f"shared_disk={str(shared).lower()}", "connect_timeout_seconds=3"]
    trainkit(bed, work, "init")
    trainkit(bed, work, "compute", "add", "lab", "--launcher", "ssh", *(w for o in options for w in ("--option", o)))
    trainkit(bed, work, "submit", "train.py", "--target", "lab", "--nodes", "2", "--spread", "fork", "--gpu", "no",
             "--max-restarts", "1")  # fmt: skip
    (run,) = (path.parent for path in wait_until(lambda: list(work.glob(".trainkit/runs/*/*/run.json")), 30, "a run"))
    wait_until(lambda: all((run / f"outputs/kept-{rank}").exists() for rank in range(2)), 60, "results of both ranks")
    (driver,) = bed.processes("ctl", f"trainkit.driver {run}")
    os.kill(driver, signal.SIGKILL)
    bed.kill("node2", silently=True)
    try:
        trainkit(bed, work, "wait", "last")
    finally:
        bed.boot("node2")
    told = json.loads(trainkit(bed, work, "show", "last", "--json"))
    assert told["status"] == "Completed", told
    assert [path.name for path in sorted(run.glob("attempts/*"))] == ["1", "2"]
    logs = "".join((run / f"attempts/2/logs/rank-{rank}.log").read_text() for rank in range(2))
    assert logs.count("attempt 2 finds True") == 2
    for node in bed.names:
        assert not bed.processes(node, run.name)
