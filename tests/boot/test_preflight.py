"""What nodes compare before ranks start: the sentences by themselves, and whole exchanges over real sockets."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot import findings, gpuhealth, links, nodefacts, preflight
from trainkit.boot.formation import prepare_attempt
from trainkit.boot.gathering import Gathering
from trainkit.boot.rundir import AttemptDir, RunDir, make_private, publish, read_json
from trainkit.errors import LaunchError
from trainkit.job import Job

NAMES = ("a", "b", "c")
JOB = Job("r", "e", "/runs/r", 1, "/env/bin/python", nodes=3, ranks_per_node=2)


def fact(**changes: Any) -> dict[str, Any]:
    """What a healthy node says."""
    packages = {"torch": "2.4.0", "numpy": "2.0.1", "pip": "24.0"}
    return {
        "python": {"path": JOB.interpreter, "version": "3.11.7", "digest": "d", "packages": packages},
        "code": {"digest": "c", "files": 1, "each": {"train.py": "1"}},
        "probe": "n", "nonce": "n", "boot": True, "disk_free": 10**10, "shm_free": 10**9, "shm_size": 10**9,
        "open_files": 4096, "gpus": 0, "driver": "", "gpu_health": None, "time": 1000.5, "between": [1000.0, 1001.0],
        "machine": "m", "address": "10.0.0.1", "loopback": False, "link": {"rate": 900.0, "latency": 0.1}, **changes,
    }  # fmt: skip


def problems(*changes: dict[str, Any], job: Job = JOB) -> list[str]:
    return findings.problems(job, NAMES, [fact(**change) for change in changes])


def only(found: list[str], *parts: str) -> None:
    """One sentence, which has all of these parts."""
    assert len(found) == 1, found
    assert all(part in found[0] for part in parts), found[0]


def test_nodes_that_agree() -> None:
    facts = [fact() for _ in NAMES]
    assert findings.problems(JOB, NAMES, facts) == findings.notes(JOB, NAMES, facts) == []


def test_an_interpreter_that_is_missing() -> None:
    broken = {"python": {"path": JOB.interpreter, "problem": "is missing"}}
    only(problems({}, broken, {}), "Node 1 (b)", "/env/bin/python is missing", "at the same path", "inherit=False")
    only(problems({}, broken, broken), "Each of nodes 1 (b), 2 (c) cannot run")


def packages(**changes: str | None) -> dict[str, Any]:
    found = {**fact()["python"]["packages"], **changes}
    return {"python": {**fact()["python"], "packages": {k: v for k, v in found.items() if v is not None}}}


def test_packages_that_differ_are_named() -> None:
    other = packages(torch="2.3.1", numpy=None, einops="0.8.0")
    only(
        problems({}, {}, other), "Node 2 (c)", "than a", "torch 2.3.1 (not 2.4.0)", "no numpy (2.0.1)",
        "einops 0.8.0 besides",
    )  # fmt: skip


def test_the_node_that_differs_from_most_is_named_even_where_it_is_the_head() -> None:
    only(problems(packages(torch="1.0"), {}, {}), "Node 0 (a)", "torch 1.0 (not 2.4.0)")


def test_many_packages_are_counted() -> None:
    only(problems({}, packages(**{f"p{n}": "1" for n in range(9)}), {}), "p4 1 besides and 4 more")


def test_the_installers_own_versions_do_not_matter() -> None:
    assert problems({}, packages(pip="9.9", setuptools="1"), {}) == []


def test_another_python() -> None:
    older = {"python": {**packages(torch="1.0")["python"], "version": "3.9.2"}}
    only(problems({}, older, {}), "Node 1 (b)", "Python 3.9, where a has 3.11")
    patch = {"python": {**fact()["python"], "version": "3.11.2"}}
    assert problems({}, patch, {}) == []
    only(findings.notes(JOB, NAMES, [fact(), fact(**patch), fact()]), "Node 1 (b)", "Python 3.11.2")


def test_a_clock_that_is_wrong_by_more_than_the_time_between() -> None:
    only(problems({}, {"time": 900.0}, {}), "Node 1 (b)", "clock 100 s behind the head's", "chronyd")
    only(problems({}, {}, {"time": 1011.0}), "Node 2 (c)", "clock 10 s ahead of")
    assert problems({}, {"time": 996.0}, {"time": 1005.0}) == []


def test_a_folder_that_is_not_shared() -> None:
    hidden = {"probe": "", "code": None, "disk_free": 5}
    only(problems({}, hidden, {}), "Node 1 (b)", "/runs/r", "not shared", "copy files")
    assert problems({}, {"probe": None}, {"probe": None}) == []  # nobody said that it was


def test_code_that_differs_or_is_missing() -> None:
    other = {"code": {"digest": "x", "files": 2, "each": {"train.py": "2", "more.py": "1"}}}
    only(problems({}, {}, other), "Node 2 (c)", "other code than a (more.py, train.py)")
    only(problems({}, {"code": {"digest": "x", "files": 900}}, {}), "Node 1 (b)", "other code than a. ")
    only(problems({}, {"code": None}, {}), "Node 1 (b)", "/runs/r/code")


def test_room_and_limits() -> None:
    only(problems({}, {"disk_free": 3_000_000}, {}), "Node 1 (b)", "3 MB left on the disk of /runs/r", "Make room")
    only(problems({}, {"shm_free": 1_000_000}, {}), "Node 1 (b)", "1 MB left in /dev/shm", "--shm-size")
    only(problems({}, {"shm_size": None, "shm_free": None}, {}), "Node 1 (b)", "no /dev/shm")
    assert problems({}, {"shm_free": 1}, {}, job=dataclasses.replace(JOB, ranks_per_node=1)) == []
    only(problems({}, {"open_files": 256}, {}), "Node 1 (b)", "256 files", "1024", "ulimit -n")
    assert problems({}, {"open_files": -1}, {}) == []  # no limit
    only(problems({}, {"boot": False}, {}), "Node 1 (b)", "ranks start from")


def test_gpus() -> None:
    job = dataclasses.replace(JOB, gpus_per_node=2)
    sick = {"gpus": 2, "gpu_health": {"bad": ["GPU 0 (T4): a bad memory row"], "notes": ["GPU 1 (T4): hot"]}}
    only(problems({"gpus": 2}, {"gpus": 1}, {"gpus": 2}, job=job), "Node 1 (b)", "1 of the 2 GPUs")
    only(problems({"gpus": 2}, {"gpus": 2}, sick, job=job), "Node 2 (c)", "a bad memory row")
    assert problems({}, {}, sick) == []  # the job uses none
    facts = [fact(driver="535.104.05"), fact(driver="535.104.05"), fact(driver="550.54", **sick)]
    notes = findings.notes(JOB, NAMES, facts)
    assert len(notes) == 3 and all("Node 2 (c)" in note for note in notes)
    assert any("535.104.05" in note and "550.54" in note for note in notes)


def test_a_neighbour_that_cannot_be_reached() -> None:
    cut = {"link": {"problem": "unreachable", "why": "No route to host", "port": 4711}}
    last = {"address": "10.0.0.3"}
    only(problems({}, cut, last), "Node 1 (b)", "node 2 (c) at 10.0.0.3, port 4711", "No route to host", "firewalls")
    only(problems(last, {}, cut), "Node 2 (c)", "node 0 (a) at 10.0.0.3")  # the ring closes
    only(problems({}, {"link": {"problem": "stranger"}}, last), "Node 1 (b)", "another machine than node 2 (c)")


def test_a_node_that_calls_itself_localhost() -> None:
    itself = {"loopback": True, "address": "127.0.1.1"}
    only(problems({}, itself, {}), "Node 1 (b)", "127.0.1.1", "/etc/hosts")


def test_slow_links() -> None:
    assert findings.slow([900.0, 900.0, 40.0]) == {2: 40.0}
    assert findings.slow([900.0, 900.0, 60.0]) == {}
    assert findings.slow([40.0, 40.0, 40.0]) == {}
    assert findings.slow([1.2, 1.2]) == {0: 1.2, 1: 1.2}
    assert findings.slow([None, 30.0]) == {} and findings.slow([]) == {}
    facts = [fact(), fact(link={"rate": 1.2, "latency": 3.0}), fact()]
    only(findings.notes(JOB, NAMES, facts), "Node 1 (b)", "1.2 MB/s to c", "900, 900")


def test_a_report_of_gpus() -> None:
    report = """<?xml version="1.0" ?><nvidia_smi_log>
    <gpu id="0"><product_name>T4</product_name><gpu_recovery_action>None</gpu_recovery_action>
      <ecc_errors><volatile><sram_uncorrectable>0</sram_uncorrectable><dram_uncorrectable>2</dram_uncorrectable>
      <dram_correctable>7</dram_correctable></volatile></ecc_errors>
      <clocks_event_reasons><clocks_event_reason_hw_thermal_slowdown>Active</clocks_event_reason_hw_thermal_slowdown>
      <clocks_event_reason_sw_power_cap>Active</clocks_event_reason_sw_power_cap></clocks_event_reasons></gpu>
    <gpu id="1"><product_name>T4</product_name><remapped_rows><remapped_row_failure>Yes</remapped_row_failure>
      <remapped_row_pending>Yes</remapped_row_pending></remapped_rows>
      <ecc_errors><volatile><dram_uncorrectable>N/A</dram_uncorrectable></volatile></ecc_errors></gpu>
    </nvidia_smi_log>"""
    health = gpuhealth.from_report(report)
    assert health.bad == ["GPU 1 (T4): a bad memory row could not be replaced; have the GPU exchanged"]
    assert health.notes == [
        "GPU 0 (T4): 2 uncorrectable memory errors since the driver was loaded",
        "GPU 0 (T4): slowed down by heat: check its cooling",
        "GPU 1 (T4): bad memory is replaced at its next reset",
    ]
    assert gpuhealth.from_report("No devices were found").notes == ["nvidia-smi's report could not be read"]


def test_the_drivers_events_in_words() -> None:
    log = (
        "3,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n"
        "3,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=2, GPU has fallen off the bus.\n"
        "3,1,2,-;NVRM: Xid (PCI:0000:af:00): 31, a program's own fault\n"
    )
    only(gpuhealth.from_log(log), "0000:3b:00", "fell off the bus", "Xid 79")
    assert gpuhealth.from_log(gpuhealth.kernel_log()) == []  # of this machine, whatever it holds


# Facts of this machine.


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptDir:
    """An attempt whose run has a script, as the driver makes one."""
    run = RunDir(tmp_path)
    found = run.attempt(1)
    prepare_attempt(found)
    make_private(run.code)
    (run.code / "train.py").write_text("print()\n")
    publish(found.handle, {"handle": "a test's"})
    return found


def job_in(attempt: AttemptDir, nodes: int = 1, **changes: Any) -> Job:
    return dataclasses.replace(
        Job("r", "e", str(attempt.path.parents[1]), 1, sys.executable, nodes=nodes), **changes
    )  # fmt: skip


def test_facts_are_plain_and_true(attempt: AttemptDir) -> None:
    attempt.probe.write_text(json.dumps({"nonce": "n1"}))
    found = nodefacts.facts(job_in(attempt), attempt, 0)
    assert json.loads(json.dumps(found)) == found
    assert found["probe"] == "n1" and found["boot"] and found["host"] == socket.gethostname()
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert found["python"]["main"]["trainkit"] and found["python"]["packages"]["pytest"] == pytest.__version__
    assert found["code"]["files"] == 1 and set(found["code"]["each"]) == {"train.py"}
    assert abs(found["time"] - time.time()) < 60 and found["disk_free"] > 0


def test_interpreters_that_do_not_work(tmp_path: Path) -> None:
    assert nodefacts.python("/nowhere/python", {})["problem"] == "is missing"
    plain = tmp_path / "python"
    plain.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n")
    assert "cannot be executed" in nodefacts.python(str(plain), {})["problem"]
    plain.chmod(0o755)
    assert nodefacts.python(str(plain), {})["problem"] == "does not start (no such library)"


def test_code_by_its_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.py").write_text("1\n")
        (folder / "outputs").symlink_to(tmp_path)
    assert nodefacts.code(one, False) == nodefacts.code(two, False)
    (two / "data.bin").write_bytes(b"0" * 100)
    assert nodefacts.code(one, False) != nodefacts.code(two, False)
    assert nodefacts.code(one, True) == nodefacts.code(two, True)  # a later attempt: written by a rank
    (two / "sub" / "a.py").write_text("2\n")
    assert nodefacts.code(one, True) != nodefacts.code(two, True)
    assert nodefacts.code(tmp_path / "three", False) is None


# Over sockets.


def test_a_link_is_measured() -> None:
    listener = links.Listener(1, b"key")
    try:
        found = links.measure("127.0.0.1", listener.port, 1, b"key")
    finally:
        listener.close()
    assert found["rate"] > 0 and found["latency"] >= 0 and "problem" not in found


@pytest.mark.parametrize(("node", "key"), [(1, b"another key"), (2, b"key")])
def test_who_does_not_know_the_key_or_is_another_node(node: int, key: bytes) -> None:
    listener = links.Listener(1, b"key")
    try:
        assert links.measure("127.0.0.1", listener.port, node, key) == {"problem": "stranger"}
    finally:
        listener.close()


def test_nobody_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = links.measure("127.0.0.1", taken.getsockname()[1], 1, b"key")
    assert found["problem"] == "unreachable" and "refused" in found["why"]


def test_a_listener_that_others_have_knocked_at() -> None:
    listener = links.Listener(1, b"key")
    try:
        silent = socket.create_connection(("127.0.0.1", listener.port))
        with socket.create_connection(("127.0.0.1", listener.port)) as rude:
            rude.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
            assert links.measure("127.0.0.1", listener.port, 1, b"key")["rate"] > 0
        silent.close()
    finally:
        listener.close()


def together(jobs: list[Job], attempt: AttemptDir) -> tuple[list[Any], dict[str, Any]]:
    """All nodes' parts at once, as threads over the real channel; what each returned or raised, and the record."""
    results: list[Any] = [None] * len(jobs)
    channels: list[Gathering] = [
        Gathering(job, attempt, node, False, lambda: False) for node, job in enumerate(jobs)
    ]  # fmt: skip

    def part(node: int) -> None:
        gathering = channels[node]
        try:
            gathering.meet()
            results[node] = preflight.run(
                jobs[node], attempt, node, gathering.names, ["127.0.0.1"] * len(jobs), gathering.send, gathering.receive
            )  # fmt: skip
        except LaunchError as error:
            results[node] = error

    threads = [threading.Thread(target=part, args=(node,)) for node in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results, read_json(attempt.preflight) or {}


def test_three_nodes_that_agree(attempt: AttemptDir) -> None:
    results, record = together([job_in(attempt, 3)] * 3, attempt)
    assert results == [[], [], []]
    assert record["problems"] == [] and len(record["nodes"]) == 3
    assert all(node["link"]["rate"] > 0 for node in record["nodes"])
    assert [node["name"][-2:] for node in record["nodes"]] == ["-0", "-1", "-2"]
    assert "packages" in record["nodes"][0]["python"] and "packages" not in record["nodes"][1]["python"]


def test_eight_nodes_of_which_one_is_not_fit(attempt: AttemptDir) -> None:
    jobs = [job_in(attempt, 8)] * 8
    jobs[5] = job_in(attempt, 8, interpreter="/nowhere/bin/python")
    results, record = together(jobs, attempt)
    only(results[0], "Node 5 (", "/nowhere/bin/python is missing")
    assert results[1:] == [[]] * 7 and record["problems"] == results[0]


def test_a_node_that_sees_another_folder(attempt: AttemptDir, tmp_path: Path) -> None:
    """Where the folder of this name is the node's own, what the head writes is not in it."""
    own = tmp_path / "other"
    make_private(own / "code")
    (own / "code" / "train.py").write_text("print()\n")
    elsewhere = AttemptDir(own / "attempts" / "1")
    make_private(elsewhere.path)
    elsewhere.key.write_bytes(attempt.key.read_bytes())
    elsewhere.probe.write_text('{"nonce": "of another day"}')
    found = nodefacts.facts(dataclasses.replace(job_in(attempt), run_dir=str(own)), elsewhere, 1)
    healthy = fact(nonce="today", probe="today", code=found["code"], python=found["python"])
    found.update(nonce="today", between=[found["time"], found["time"]], address="10.0.0.2")
    only(findings.problems(JOB, ("a", "b"), [healthy, found]), "Node 1 (b)", "not shared")


def test_a_node_that_dies_meanwhile(attempt: AttemptDir) -> None:
    """The head learns of it by the channel, and does not wait."""
    head = Gathering(job_in(attempt, 2), attempt, 0, False, lambda: False)
    other = Gathering(job_in(attempt, 2), attempt, 1, False, lambda: False)
    process = multiprocessing.get_context("fork").Process(target=other.meet)  # ends when it has met the head
    process.start()
    head.meet()
    with pytest.raises(LaunchError, match="Node 1 .* was lost"):
        preflight.run(job_in(attempt, 2), attempt, 0, head.names, ["127.0.0.1"] * 2, head.send, head.receive)
    process.join(30)
