"""What the ssh launcher decides without a host: names, command lines, refusals, archives, who takes which place."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot import processes
from trainkit.boot.rundir import RunDir, publish
from trainkit.errors import ComputeTargetException, LaunchError, UnsupportedJob
from trainkit.job import Job, Status
from trainkit.judging import judged
from trainkit.testing import make_job, wait_until
from trainkit_launchers.remote import agents, far, farfiles, lines, login, packing, placing, pulling, staging
from trainkit_launchers.remote.asking import Line, Reply, decode, encode
from trainkit_launchers.remote.calls import Call, run_all
from trainkit_launchers.remote.hosts import Host, parse_host, parse_hostfile, parse_hosts
from trainkit_launchers.remote.watching import UNSEEN_SECONDS, Watch
from trainkit_launchers.ssh import Ssh

JOB = Job(run_id="r", experiment="e", run_dir="/shared/r", attempt=1, interpreter="/venv/bin/python", nodes=2)


# --- hosts ---


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("node1", Host("node1")),
        ("ada@node1", Host("node1", "ada")),
        ("node1:2222", Host("node1", "", 2222)),
        ("ada@node1:2222", Host("node1", "ada", 2222)),
        ("10.0.0.7", Host("10.0.0.7")),
        ("fe80::1%eth0", Host("fe80::1%eth0")),
        ("[2001:db8::1]:2222", Host("2001:db8::1", "", 2222)),
        ("ada@corp@gate", Host("gate", "ada@corp")),
    ],
)
def test_a_host_is_read_and_written_alike(text: str, host: Host) -> None:
    assert parse_host(text) == host
    assert host.text == text


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=touch x", "a b", "a;b", "$(id)", "-l@node", "a@", "@node", "node:", "node:x", "node:0", "n\nm",
     "node:65536", "ada;id@node", "[node", "`id`"],
)  # fmt: skip
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ComputeTargetException):
        parse_host(text)


def test_a_hostfile_of_open_mpis_or_horovods_kind_is_read() -> None:
    text = "# the rack\nnode1 slots=2\nada@node2:2222 slots=4 max_slots=8 # the big one\n\nnode3\n"
    assert parse_hostfile(text, "hosts") == (Host("node1", slots=2), Host("node2", "ada", 2222, 4), Host("node3"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node1\nnode2 slots=two\n", "hosts, line 2: 'slots=two' is not understood"),
        ("node1 gpus=2\n", "'gpus=2' is not understood; possible: slots=N"),
        ("node1\n-x\n", "hosts, line 2: '-x' names no host"),
        ("node1\nnode1\n", "hosts has node1 twice"),
    ],
)
def test_a_hostfile_that_says_something_else_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ComputeTargetException) as error:
        parse_hostfile(text, "hosts")
    assert words in error.value.message


def test_a_host_twice_is_refused() -> None:
    with pytest.raises(ComputeTargetException, match="node1 twice"):
        parse_hosts(["node1", "ada@node1"])


# --- the launcher's own values ---


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"hosts": ("a",), "hostfile": "b"},
        {"hosts": ("a",), "python": "python3"},
        {"hosts": ("a",), "user": "-oX=y"},
        {"hosts": ("a",), "connect_timeout_seconds": 0},
        {"hosts": ("a",), "options": ("StrictHostKeyChecking=no",)},
        {"hosts": ("a",), "options": ("stricthostkeychecking accept-new",)},
        {"hosts": ("a",), "options": ("UserKnownHostsFile=/dev/null",)},
        {"hosts": ("a",), "options": ("BatchMode=no",)},
        {"hosts": ("a",), "options": ("-v",)},
        {"hosts": ("a",), "options": ("ProxyCommand=sh -c 'id'",)},
    ],
)
def test_wrong_values_are_refused(values: Mapping[str, Any]) -> None:
    with pytest.raises(ComputeTargetException):
        Ssh(**values)


def test_values_of_json_make_a_launcher_that_can_be_compared() -> None:
    assert hash(Ssh(hosts=["a", "b"])) == hash(Ssh(hosts=("a", "b")))  # type: ignore[arg-type]
    assert Ssh(hostfile="hosts").hostfile == os.path.abspath("hosts")


def test_a_job_that_can_never_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedJob, match=r"asks for 2 nodes, but the target has 1 host\(s\): a"):
        Ssh(hosts=("a",)).start(JOB)
    (tmp_path / "hosts").write_text("a slots=2\nb slots=1\n")
    with pytest.raises(UnsupportedJob, match="b has slots=1"):
        Ssh(hostfile=str(tmp_path / "hosts")).start(Job(**{**vars(JOB), "ranks_per_node": 2}))
    with pytest.raises(ComputeTargetException, match="cannot be read"):
        Ssh(hostfile=str(tmp_path / "none")).start(JOB)


def test_a_dry_run_says_what_would_be_sent_where() -> None:
    text = Ssh(hosts=("a", "b:2222", "c"), user="ada", options=("ServerAliveInterval=5",)).dry_run(JOB)
    assert "node 0: ssh -T -x -a -oBatchMode=yes" in text
    assert "-oServerAliveInterval=5 -l ada -p 2222 -- b" in text
    assert "/venv/bin/python -m trainkit.boot.agent /shared/r 1 1 network" in text
    assert "spare hosts: ada@c" in text


def test_no_word_of_a_users_reaches_a_shell_unquoted() -> None:
    odd = '/it\'s a "dir"/$(id)/python'
    words = shlex.split(lines.run_input(odd))
    assert words[0] == odd
    assert words[1:3] == ["-I", "-c"]


def test_a_command_for_a_node_keeps_its_words() -> None:
    handle = agents.Handle("/venv/bin/python", [(Host("a"), "m:1:2"), (Host("b"), "m:3:4")]).text()
    words = Ssh(hosts=("a", "b")).shell(handle, 1)
    assert words[:3] == (sys.executable, "-m", "trainkit_launchers.remote.login")
    ssh = login.command([*words[3:], "bash", "-c", "echo 'a  b'"], terminal=True)
    assert ssh[:2] == ["ssh", "-t"]
    assert ssh[-3:-1] == ["--", "b"]
    assert shlex.split(ssh[-1]) == ["bash", "-c", "echo 'a  b'"]
    with pytest.raises(LaunchError, match="no node 2; possible: 0 to 1"):
        Ssh(hosts=("a", "b")).shell(handle, 2)


def test_a_handle_is_read_again() -> None:
    handle = agents.Handle("/p", [(Host("fe80::1", "ada", 22), "m:1:2")], "words", "/here", 3, "/there")
    assert agents.read_handle(handle.text()) == handle
    for text in ("", "{}", "[]", '{"nodes": [["-x", "m"]], "python": "", "words": ""}'):
        with pytest.raises(LaunchError, match="no handle"):
            agents.read_handle(text)


# --- what came back ---

CHANGED = "@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed."


@pytest.mark.parametrize(
    ("status", "output", "words", "transient"),
    [
        (255, "Host key verification failed.\n", "not known here", False),
        (255, CHANGED, "ssh-keygen -R '[node1]:2222'", False),
        (255, "ada@node1: Permission denied (publickey).\n", "ssh-copy-id node1:2222", False),
        (255, "ssh: Could not resolve hostname node1: Name or service not known", "no machine has this name", False),
        (255, "ssh: connect to host node1 port 22: Connection refused", "it does not answer", True),
        (255, "ssh: connect to host node1 port 22: Connection timed out", "Connection timed out", True),
        (127, "sh: 1: /venv/bin/python: not found", "it has no /venv/bin/python", False),
        (1, "Traceback", "ended with 1 (Traceback)", False),
    ],
)
def test_a_refusal_becomes_words_with_a_remedy(status: int, output: str, words: str, transient: bool) -> None:
    told, again = lines.explain(Host("node1", "", 2222), "/venv/bin/python", status, output)
    assert words in told
    assert again is transient


def test_an_answer_is_found_among_what_login_scripts_print() -> None:
    assert decode('Welcome!\ntrainkit-answer:{"identity": "m:1:2"}\nbye\n') == {"identity": "m:1:2"}
    assert decode("Welcome!\n") is None
    assert decode("trainkit-answer:{") is None


def test_a_request_is_done_by_another_interpreter(tmp_path: Path) -> None:
    data = encode({"act": "tell", "files": {str(tmp_path / "a"): "text"}})
    (answer,) = run_all([Call((sys.executable, *shlex.split(lines.run_input("x"))[1:]), data)], 30)
    assert decode(answer.output) == {"text": None}
    assert (tmp_path / "a").read_text() == "text"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    data = encode({"act": "start", "interpreter": str(tmp_path / "none")})
    (answer,) = run_all([Call((sys.executable, *shlex.split(lines.run_input("x"))[1:]), data)], 30)
    values = decode(answer.output)
    assert values is not None
    assert values["error"].startswith(f"it has no {tmp_path}/none, the job's interpreter.")


def test_calls_run_side_by_side_and_a_slow_one_is_killed() -> None:
    begun = time.monotonic()
    slow, quick, absent = run_all([Call(("sleep", "60")), Call(("cat",), b"abc"), Call(("no-such-program",))], 1.0)
    assert time.monotonic() - begun < 30
    assert slow.status is None
    assert (quick.status, quick.output) == (0, "abc")
    assert absent.status is None
    assert "no-such-program" in absent.problem


# --- watching ---


def _unreachable(hosts: str, spares: str = "") -> Watch:
    """A watch of a job whose hosts do not answer: the ssh here refuses every call."""
    watched = [(host, "m:1:2") for host in parse_hosts(hosts)]
    watch = Watch(Line(("false",), "/venv/bin/python", 5.0), watched, parse_hosts(spares))
    watch._silent[0] = time.monotonic() - UNSEEN_SECONDS
    return watch


@pytest.mark.parametrize(("hosts", "spares"), [("a", ""), ("a", "a"), ("ab", "c")])
def test_a_job_on_hosts_that_cannot_be_reached_goes_on_until_it_is_cancelled(hosts: str, spares: str) -> None:
    watch = _unreachable(hosts, spares)
    watch._ask()
    assert watch.status.phase == "running"
    watch.cancel()
    watch._ask()
    assert watch.status.phase == "running"
    watch._cancelled -= UNSEEN_SECONDS
    watch.cancel()
    watch._ask()
    assert watch.status.phase == "lost"
    assert watch.status.words == (
        f"no host could be reached for 60 s to cancel the job; its ranks may still run on {', '.join(hosts)}"
    )


def test_a_head_that_stays_silent_is_lost_where_others_answer(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text('#!/bin/sh\n[ $2 = a ] && exit 255\nshift 2\nexec sh -c "$1"\n')
    (tmp_path / "ssh").chmod(0o755)
    watch = _unreachable("a", "b")
    watch.line = Line((str(tmp_path / "ssh"),), sys.executable, 20.0)
    watch._ask()
    assert watch.status.phase == "lost" and watch.status.words.startswith("a cannot be reached")


def test_the_words_on_a_host_that_stood_in_do_not_explain_the_jobs_end(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nexec sh -c "$3"\n')
    (tmp_path / "ssh").chmod(0o755)
    _, attempt = make_job(tmp_path / "run", "")
    with subprocess.Popen(["sleep", "600"]) as agent:
        name = processes.identity(agent.pid)
        line = Line((str(tmp_path / "ssh"),), sys.executable, 20.0)
        watch = Watch(line, [(Host("b"), name)], parse_hosts("ab"), "instead of a: it does not answer")
        assert watch.look() == Status("running", "instead of a: it does not answer")
        agent.kill()
    publish(attempt.agent(0), {"identity": name})
    wait_until(lambda: watch.look().phase == "ended", 30, "the end")
    _, verdict, _ = judged(RunDir(tmp_path / "run"), attempt, "", watch.status.words)
    assert verdict is not None and verdict["summary"] == "The agent of node 0 was killed."


def test_one_node_is_on_a_network_too() -> None:
    """Its head gives a sign of life only there."""
    assert "/shared/r 1 0 network\n" in Ssh(hosts=("a",)).dry_run(Job(**{**vars(JOB), "nodes": 1}))


# --- places ---


def _act(down: set[str]) -> placing.Act:
    def act(tried: Mapping[int, Host]) -> list[Reply]:
        return [Reply(h, {}, "down" if h.name in down else "", h.name in down) for h in tried.values()]

    return act


@pytest.mark.parametrize(
    ("down", "names"),
    [
        (set(), ["a", "b"]),
        ({"b"}, ["a", "c"]),
        ({"a"}, ["c", "b"]),
        ({"a", "c"}, ["d", "b"]),
        ({"a", "b", "c"}, ["d"]),
    ],
)
def test_spare_hosts_stand_in(down: set[str], names: list[str]) -> None:
    places = placing.Places()
    placing.place(parse_hosts("abcd"), 2, _act(down), places)
    assert [places.taken[node].host.name for node in sorted(places.taken)] == names
    assert {reply.host.name for reply in places.failed} == down & {h.name for h in places.tried}


def test_a_refusal_names_every_host_and_why() -> None:
    error = placing.refusal([Reply(Host("a"), {}, "down", True), Reply(Host("b"), {}, "shut", False)], 1, 3)
    assert error.message == "1 of 3 node(s) could be started over ssh. a: down; b: shut."
    assert (error.transient, error.available) == (True, 1)


# --- files ---


def test_the_codes_name_is_that_of_its_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.py").write_text("x = 1\n")
        (tmp_path / name / "link.py").symlink_to("sub/a.py")
    (tmp_path / "one" / "outputs").symlink_to("/elsewhere")
    same = packing.code_digest(tmp_path / "one")
    assert packing.code_digest(tmp_path / "two") == same
    (tmp_path / "two" / "sub" / "a.py").chmod(0o755)
    assert packing.code_digest(tmp_path / "two") != same


def test_an_attempt_travels_with_its_newest_checkpoints_and_without_what_stays_here(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path / "run", "")
    run = tmp_path / "run"
    for step in (5, 10, 100):
        (run / f"checkpoints/step-{step}").mkdir(parents=True)
        (run / f"checkpoints/step-{step}/manifest.json").write_text("{}")
    for name in ("state.json", "driver.log", "events/client.jsonl", "events/rank-0.jsonl", "attempts/0/key"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    archive = io.BytesIO()
    packing.pack_run(job, archive)
    archive.seek(0)
    farfiles.unpack(archive, str(tmp_path / "there"))
    there = {str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert there == {
        "attempts/1/job.json", "attempts/1/key", "events/rank-0.jsonl",
        "checkpoints/step-10/manifest.json", "checkpoints/step-100/manifest.json",
    }  # fmt: skip
    assert (tmp_path / "there/attempts/1/key").read_bytes() == attempt.key.read_bytes()
    assert (tmp_path / "there/attempts/1/key").stat().st_mode & 0o777 == 0o600


def _archive(member: tarfile.TarInfo, content: bytes = b"") -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as tar:
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    file.seek(0)
    return file


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_an_archive_that_was_cut_off_between_two_files_is_refused(tmp_path: Path) -> None:
    whole = _archive(_member("a"), b"x" * 512).getvalue()
    farfiles.unpack(io.BytesIO(whole), str(tmp_path / "whole"))
    with pytest.raises(far.Refused, match="did not arrive whole"):
        farfiles.unpack(io.BytesIO(whole[:1024]), str(tmp_path / "cut"))


@pytest.mark.parametrize(
    "member",
    [
        _member("../x"),
        _member("/tmp/x"),
        _member("a/../../x"),
        _member("x", tarfile.SYMTYPE, "/etc/passwd"),
        _member("a/x", tarfile.SYMTYPE, "../../y"),
        _member("x", tarfile.LNKTYPE, "y"),
        _member("x", tarfile.CHRTYPE),
    ],
)
def test_an_archive_never_leaves_its_folder(member: tarfile.TarInfo, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(far.Refused, match="the archive's"):
        farfiles.unpack(_archive(member, b""), str(tmp_path / "in"))
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("in", "a")] == []


@pytest.mark.parametrize(
    ("name", "welcome"),
    [
        ("outputs/model.pt", True),
        ("outputs/.hidden", True),
        ("events/rank-0.jsonl", True),
        ("attempts/2/ranks/0.json", True),
        ("attempts/2/head.json", True),
        ("samples.jsonl", True),
        ("attempts/2/job.json", False),
        ("attempts/2/key", False),
        ("attempts/1/ranks/0.json", False),
        ("attempts/2", False),
        ("events/client.jsonl", False),
        ("code/train.py", False),
        ("state.json", False),
        ("driver.lock", False),
        ("../x", False),
        ("/etc/passwd", False),
        ("outputs/../state.json", False),
    ],
)
def test_only_what_ranks_and_agents_write_comes_back(name: str, welcome: bool) -> None:
    assert packing.is_welcome(name, 2) is welcome


def test_only_what_was_written_there_is_listed(tmp_path: Path) -> None:
    job, _ = make_job(tmp_path / "run", "print(1)")
    request = packing.put_run_request(job, str(tmp_path / "cache"), packing.code_digest(tmp_path / "run" / "code"))
    archive = io.BytesIO()
    packing.pack_run(job, archive)
    archive.seek(0)
    told = farfiles.put_run(dict(request), archive)
    assert told["has_code"] is False
    there = Path(told["run_dir"])
    assert json.loads((there / "attempts/1/job.json").read_text())["run_dir"] == str(there)
    code = io.BytesIO()
    packing.pack_code(tmp_path / "run" / "code", code)
    code.seek(0)
    farfiles.put_code({**request, "run_dir": str(there)}, code)
    assert (there / "code/train.py").read_text() == "print(1)"
    assert os.readlink(there / "code/outputs") == str(there / "outputs")
    (there / "outputs/.a").write_text("x")
    (there / "attempts/1/nodes/.0.end.json").write_text("in the making")
    (there / "attempts/1/nodes/0.lock").write_text("")
    first = farfiles.changes({"run_dir": str(there), "known": ""}, io.BytesIO())
    assert first["names"] == ["outputs/.a"]
    again = farfiles.changes({"run_dir": str(there), "known": first["digest"]}, io.BytesIO())
    assert again["names"] is None
    farfiles.clean({"run_dirs": [str(there)]}, io.BytesIO())
    assert not there.exists()


def _put(tmp_path: Path, name: str, most: int = -1) -> Path:
    """Put a new run into tmp_path/cache, of whose archive at most so many bytes arrive."""
    job, _ = make_job(tmp_path / name, "")
    archive = io.BytesIO()
    packing.pack_run(job, archive)
    request = {**packing.put_run_request(job, str(tmp_path / "cache"), "0"), "name": f"{name}.1"}
    return Path(farfiles.put_run(request, io.BytesIO(archive.getvalue()[:most]))["run_dir"])


@pytest.mark.parametrize("most", [0, 700, 3000])
def test_a_transfer_that_breaks_off_leaves_nothing(tmp_path: Path, most: int) -> None:
    with pytest.raises((tarfile.ReadError, OSError)):
        _put(tmp_path, "cut", most)
    assert not list((tmp_path / "cache/runs").iterdir())


def test_old_runs_that_nobody_could_remove_are_removed_unless_an_agent_lives(tmp_path: Path) -> None:
    for name in ("ended", "alive", "writing", "young"):
        (_put(tmp_path, name) / "attempts/1/nodes/0.lock").touch()
    (tmp_path / "cache/runs/.cut.1.a.7").mkdir()
    long_ago = time.time() - farfiles._KEPT_SECONDS - 60
    for path in (tmp_path / "cache/runs").rglob("*"):
        if "young" not in str(path):
            os.utime(path, (long_ago, long_ago))
    os.utime(tmp_path / "cache/runs/writing.1/attempts/1/nodes/0.lock")
    handle = processes.hold_lock(tmp_path / "cache/runs/alive.1/attempts/1/nodes/0.lock")
    assert handle is not None
    try:
        _put(tmp_path, "new")
    finally:
        os.close(handle)
    assert sorted(path.name for path in (tmp_path / "cache/runs").iterdir()) == [
        "alive.1", "new.1", "writing.1", "young.1",
    ]  # fmt: skip


def _fetched(tmp_path: Path) -> staging.Away:
    """A job of the hosts a and b, all of whose files were fetched: each is a folder, by whose name the ssh knows it."""
    make_job(tmp_path / "here", "")
    text = f'while [ "$1" != -- ]; do shift; done\ncd {tmp_path}/hosts/$2 || exit 255\nexec sh -c "$3"\n'
    (tmp_path / "ssh").write_text(f"#!/bin/sh\n{text}")
    (tmp_path / "ssh").chmod(0o755)
    for path in ("here/checkpoints/step-1", "here/checkpoints/step-2", "hosts/a", "hosts/b/run/checkpoints/step-1"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "hosts/b/run/checkpoints/step-1/manifest.json").write_text("{}")
    line = Line((str(tmp_path / "ssh"),), sys.executable, 20.0)
    nodes = [(Host("a"), "m:1:2"), (Host("b"), "m:3:4")]
    away = staging.Away(line, agents.Handle(sys.executable, nodes, "", str(tmp_path / "here"), 1, "run"))
    for node, name in enumerate("ab"):
        request = {"run_dir": str(tmp_path / "hosts" / name / "run"), "known": ""}
        away._known[node] = farfiles.changes(request, io.BytesIO())["digest"]
    return away


def _kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "here/checkpoints").iterdir())


def test_a_checkpoint_is_forgotten_here_when_no_node_has_it_any_more(tmp_path: Path) -> None:
    away = _fetched(tmp_path)
    assert away.fetch([0]) == "" and _kept(tmp_path) == ["step-1", "step-2"]  # nobody knows what the other has
    assert away.fetch([0, 1]) == "" and _kept(tmp_path) == ["step-1"]
    (tmp_path / "hosts/b").rename(tmp_path / "hosts/gone")
    assert away.fetch([0]) == "" and _kept(tmp_path) == ["step-1"]
    assert "b: " in away.fetch([0, 1]) and _kept(tmp_path) == ["step-1"]


def test_what_is_older_than_the_attempt_stays_though_a_hosts_clock_was_ahead(tmp_path: Path) -> None:
    """And what is of the attempt goes, though a host's clock was behind: rsync keeps the times that hosts give."""
    older = tmp_path / "here/checkpoints/step-0"
    older.mkdir(parents=True)
    os.utime(older, (time.time() + 60, time.time() + 60))
    away = _fetched(tmp_path)
    os.utime(tmp_path / "here/checkpoints/step-2", (time.time() - 60, time.time() - 60))
    assert away.fetch([0, 1]) == "" and _kept(tmp_path) == ["step-0", "step-1"]


def test_results_are_brought_by_rsync_over_the_same_ssh() -> None:
    call = pulling.pull(("ssh", "-T", "-oX=a b"), Host("fe80::1", "ada", 22), "/there", "/here", ["a", "b c"])
    assert "--rsh=ssh -T '-oX=a b' -l ada -p 22" in call.argv
    assert call.argv[-2:] == ("[fe80::1]:/there/", "/here/")
    assert call.data == b"a\0b c\0"
    assert pulling.explain(0, "") == pulling.explain(24, "vanished") == ""
    assert "it has no rsync" in pulling.explain(127, "bash: rsync: command not found")
