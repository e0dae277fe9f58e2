"""The testbed does what its faults are called, for real, and leaves nothing, however its testing process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.engines import keeper
from tests.engines.testbed import USER, Testbed, missing
from trainkit.testing import wait_until

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _possible() -> None:
    if missing():
        pytest.skip(missing())


@pytest.fixture
def bed() -> Iterator[Testbed]:
    """Two nodes for one test, which may break them."""
    with Testbed(nodes=2) as made:
        yield made


def hostname(bed: Testbed) -> str:
    """What node1 calls itself over ssh."""
    return bed.run("ctl", ["ssh", "node1", "hostname"], timeout=20).stdout


def reaches(bed: Testbed, node: str) -> bool:
    """Whether ctl gets an answer from a node."""
    return bed.run("ctl", ["ping", "-c", "1", "-W", "1", node], timeout=20).returncode == 0


def sleeper(bed: Testbed, node: str) -> int:
    """A process on a node that does nothing; its id."""
    bed.run(node, ["bash", "-c", "setsid -f sleep 12345 >/dev/null 2>&1"], check=True)
    wait_until(lambda: bed.processes(node, "sleep 12345"), 30, "the start of a process")
    return bed.processes(node, "sleep 12345")[0]


def gone(folder: Path) -> bool:
    """Whether nothing of a testbed is left: its folder, its processes, anything mounted."""
    mounts = Path("/proc/self/mountinfo").read_text()
    return not folder.exists() and not keeper.members(f"{folder.name}/") and folder.name not in mounts


def test_nodes_are_hosts_of_their_own(bed: Testbed) -> None:
    seen = bed.run("ctl", ["ssh", "node1", "ssh node2 hostname; hostname; ls /sys/class/net; pwd"], timeout=20)
    assert seen.stdout.split() == ["node2", "node1", "eth0", "lo", str(bed.home())]
    boots = {bed.run(node, ["cat", "/proc/sys/kernel/random/boot_id"]).stdout for node in bed.nodes}
    assert len(boots) == 3
    assert set(os.listdir("/sys/class/net")) & {"br0", "node1", "node2", "ctl"} == set()
    assert bed.run("node1", ["getent", "ahostsv4", "node2"]).stdout.split()[0] == bed.address("node2")


def test_ctl_sees_the_processes_of_all_nodes_and_a_node_only_its_own(bed: Testbed) -> None:
    pid = sleeper(bed, "node1")
    assert bed.run("ctl", ["cat", f"/proc/{pid}/comm"]).stdout == "sleep\n"
    assert bed.run("node1", ["pgrep", "-f", "sleep 12345"]).returncode == 0
    assert bed.run("node2", ["pgrep", "-f", "sleep 12345"]).returncode == 1


def test_one_folder_is_shared_and_tmp_is_not(bed: Testbed) -> None:
    bed.run("node1", ["bash", "-c", f"echo one >{bed.shared}/file; echo one >/tmp/file; echo one >/etc/file"])
    assert bed.run("node2", ["cat", f"{bed.shared}/file"]).stdout == "one\n"
    assert bed.run("node2", ["ls", "/tmp/file", "/etc/file"]).returncode
    assert not Path("/etc/file").exists()


def test_a_user_who_is_not_root_runs_here_and_by_ssh(bed: Testbed) -> None:
    asked = f"id -un; echo $HOME; touch {bed.shared}/mine; {sys.executable} -c 'print(6 * 7)'; touch /etc/mine"
    for done in (
        bed.run("ctl", ["ssh", "node1", asked], user=USER, timeout=20),
        bed.run("node1", ["bash", "-c", asked], user=USER, timeout=20),
    ):
        assert done.stdout.split() == [USER, str(bed.home(USER)), "42"]
        assert "Permission denied" in done.stderr
    assert (bed.shared / "mine").stat().st_uid != 0


def test_an_interpreter_by_name_is_the_wrong_one_in_a_shell_of_ssh(bed: Testbed) -> None:
    done = bed.run("ctl", ["ssh", "node1", "python3 -c 1"], timeout=20)
    assert done.returncode == 97 and "not the job's Python" in done.stderr


def test_a_killed_node_is_empty_and_comes_back_with_its_key_and_a_new_boot_id(bed: Testbed) -> None:
    pid = sleeper(bed, "node2")
    bed.run("node2", ["touch", "/tmp/file"])
    before = bed.run("node2", ["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    bed.kill("node2")
    assert not Path(f"/proc/{pid}/ns/net").exists() and bed.processes("node2") == []
    assert not reaches(bed, "node2") and reaches(bed, "node1")
    with pytest.raises(RuntimeError, match="node2 is off"):
        bed.run("node2", ["true"])
    bed.boot("node2")
    done = bed.run("ctl", ["ssh", "node2", "ls -d /tmp/file; cat /proc/sys/kernel/random/boot_id"], timeout=20)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and done.stdout != before


@contextmanager
def running(bed: Testbed, node: str, *argv: str) -> Iterator[tuple[IO[str], IO[str]]]:
    """A command on a node, as its standard input and output; it is killed in the end."""
    process = bed.start(node, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process:
        try:
            yield process.stdin, process.stdout
        finally:
            process.kill()


@contextmanager
def listener(bed: Testbed, script: str) -> Iterator[IO[str]]:
    """The output of a server on node2, port 7000, that listens, accepts a connection `c` and goes on with `script`."""
    serve = (
        "import socket, time\ns = socket.create_server(('', 7000))\nprint('listens', flush=True)\nc, _ = s.accept()\n"
    )
    with running(bed, "node2", sys.executable, "-c", serve + script) as (_, output):
        assert output.readline() == "listens\n"
        yield output


def test_peers_hear_of_a_kill_and_hear_nothing_of_power_loss(bed: Testbed) -> None:
    connect = "import socket\ns = socket.create_connection(('node2', 7000))\nprint('in', flush=True)\ns.settimeout(3)\n"
    told = connect + "try: print(s.recv(1))\nexcept TimeoutError: print('nothing')\nexcept OSError: print('reset')"
    answers = []
    for silently in (False, True):
        client = running(bed, "node1", sys.executable, "-c", told)
        with listener(bed, "time.sleep(60)"), client as (_, output):
            assert output.readline() == "in\n"
            bed.kill("node2", silently=silently)
            answers.append(output.readline().strip())
        bed.boot("node2")
    assert answers[0] in ("b''", "reset") and answers[1] == "nothing"


def states(pids: list[int]) -> set[str]:
    """The states of processes: T is stopped."""
    return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}


def test_a_frozen_node_answers_pings_and_does_nothing_until_it_is_thawed(bed: Testbed) -> None:
    script = "for i in $(seq 1000000); do sleep 0.01; date +%s%N >/tmp/clock; done"
    with running(bed, "node2", "bash", "-c", script):
        clock = ["cat", "/tmp/clock"]
        wait_until(lambda: bed.run("node2", clock).returncode == 0, 30, "the clock's start")
        bed.freeze("node2")
        assert states(bed.processes("node2")) == {"T"}
        frozen = bed.run("node2", clock).stdout
        assert reaches(bed, "node2")
        assert bed.run("node2", clock).stdout == frozen
        bed.thaw("node2")
        wait_until(lambda: bed.run("node2", clock).stdout not in ("", frozen), 30, "a tick after the thaw")


def test_a_cut_link_carries_nothing_and_connections_outlive_it(bed: Testbed) -> None:
    talk = "import socket, sys\ns = socket.create_connection(('node2', 7000))\nprint('in', flush=True)\n"
    talk += "sys.stdin.read(1)\ns.send(b'x')\nprint(s.recv(1))"
    client = running(bed, "node1", sys.executable, "-c", talk)
    with listener(bed, "print(c.recv(1), flush=True)") as served, client as (say, output):
        assert output.readline() == "in\n"
        bed.cut("node2")
        assert not reaches(bed, "node2") and reaches(bed, "node1")
        say.write("x")
        say.flush()
        assert not reaches(bed, "node2")
        bed.heal("node2")
        assert served.readline() == "b'x'\n"
    wait_until(lambda: reaches(bed, "node2"), 30, "the link's return")


def test_a_limited_link_is_as_slow_as_asked_both_ways(bed: Testbed) -> None:
    send = "dd if=/dev/zero bs=100k count=20 status=none"  # 16 Mbit
    copies = {"there": f"{send} | ssh node2 'cat >/dev/null'", "back": f"ssh node2 '{send}' >/dev/null"}
    bed.limit("node2", 8)
    for copy in copies.values():
        start = time.monotonic()
        bed.run("ctl", ["bash", "-c", copy], check=True, timeout=60)
        assert time.monotonic() - start > 1.5  # 2 s at 8 Mbit/s, less the bucket
    bed.limit("node2", 0)
    assert "tbf" not in bed.run("node2", ["tc", "qdisc", "show", "dev", "eth0"]).stdout


@pytest.mark.parametrize("where", ["/tmp", "/dev/shm", "folder"])
def test_a_filled_disk_refuses_more_until_it_is_cleared(bed: Testbed, where: str) -> None:
    folder = bed.shared / "data" if where == "folder" else Path(where)
    (bed.shared / "data").mkdir()
    write = ["bash", "-c", f"head -c 100000 /dev/zero >{folder}/more"]
    bed.fill("node2", folder)
    full = bed.run("node2", write)
    assert full.returncode and "No space left" in full.stderr
    assert bed.run("node1", write).returncode == 0
    bed.clear("node2", folder)
    assert bed.run("node2", write).returncode == 0
    bed.fill("node2", folder, free_kb=500)
    assert bed.run("node2", ["bash", "-c", f"head -c 400000 /dev/zero >{folder}/fits"]).returncode == 0
    assert bed.run("node2", ["bash", "-c", f"head -c 600000 /dev/zero >{folder}/fits-not"]).returncode


def test_a_hidden_folder_is_empty_there_and_nowhere_else(bed: Testbed) -> None:
    (bed.shared / "file").write_text("x")
    bed.hide("node2", bed.shared)
    assert bed.run("node2", ["ls", str(bed.shared)]).stdout == ""
    assert bed.run("ctl", ["ssh", "node1", f"ls {bed.shared}"], timeout=20).stdout == "file\n"
    bed.show("node2", bed.shared)
    assert bed.run("node2", ["ls", str(bed.shared)]).stdout == "file\n"


def test_a_command_that_runs_out_of_time_ends_on_its_node(bed: Testbed) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        bed.run("node1", ["sleep", "12345"], timeout=0.5)
    wait_until(lambda: not bed.processes("node1", "sleep 12345"), 30, "its end")


def test_two_testbeds_stand_side_by_side_and_nothing_is_left_of_either() -> None:
    with Testbed(nodes=1) as one, Testbed(nodes=1) as other:
        assert one.folder != other.folder and one.address("node1") != other.address("node1")
        for mine, others in ((one, other), (other, one)):
            assert hostname(mine) == "node1\n"
            assert mine.run("ctl", ["ping", "-c", "1", "-W", "1", others.address("node1")], timeout=20).returncode
        pid = sleeper(one, "node1")
        daemon = sleeper(one, "ctl")
        other.kill("node1")
        assert hostname(one) == "node1\n"
        one.down()
        assert gone(one.folder)
        assert not any(Path(f"/proc/{each}/ns/net").exists() for each in (pid, daemon))
        other.boot("node1")
        assert hostname(other) == "node1\n"
    assert gone(other.folder)


HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.engines.testbed import Testbed
bed = Testbed(nodes=1)
bed.run("ctl", ["bash", "-c", "setsid -f sleep 12345 >/dev/null 2>&1"])
print(bed.folder, bed._keeper.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("keeper_too", [False, True])
def test_nothing_is_left_where_the_testing_process_is_killed(keeper_too: bool) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(ROOT)], text=True, **pipes)  # type: ignore[call-overload]
    with holder:
        folder, guard = holder.stdout.readline().split()
        assert keeper.members(f"{Path(folder).name}/")
        if keeper_too:
            os.kill(int(guard), signal.SIGKILL)
            wait_until(lambda: not keeper.namespace(int(guard), "mnt"), 30, "the keeper's end")
        holder.kill()
        holder.wait(timeout=20)
    if keeper_too:  # then the next testbed does it
        Testbed(nodes=1).down()
    wait_until(lambda: gone(Path(folder)), 30, "the testbed's end")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/testbed."""
    return subprocess.run(
        [sys.executable, "scripts/testbed", *words], cwd=ROOT, text=True, capture_output=True, timeout=60
    )


def test_the_command_keeps_a_testbed_until_it_is_told() -> None:
    up = command("up", "2")
    assert up.returncode == 0 and float(up.stdout.partition(" up in ")[2].split()[0]) < 30, up.stdout + up.stderr
    number = up.stdout.split()[1].rstrip(":")
    folder = next(path for path in keeper.standing() if path.name.partition("-")[0] == number)
    try:
        assert command("--bed", number, "on", "ctl", "ssh", "node2", "hostname").stdout == "node2\n"
        assert command("--bed", number, "on", "--user", USER, "node1", "id", "-un").stdout == f"{USER}\n"
        assert f"{number} ctl node1 node2" in command("list").stdout
        for words in (("cut", "node2"), ("heal", "node2"), ("kill", "node2"), ("boot", "node2"), ("fill", "node2")):
            done = command("--bed", number, *words)
            assert done.returncode == 0, done.stderr
        assert command("--bed", number, "on", "node2", "hostname").stdout == "node2\n"
        refused = command("--bed", number, "kill", "node7")
        assert refused.returncode and "there are ctl, node1, node2" in refused.stderr
    finally:
        down = command("--bed", number, "down")
    assert down.returncode == 0, down.stderr
    assert gone(folder)
