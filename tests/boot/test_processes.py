"""Processes are named for good, and nothing that one started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainkit.boot import processes
from trainkit.boot.shims import end_earlier
from trainkit.job import Job


def wait_until(condition, seconds: float = 10.0) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


def test_a_name_is_of_one_process_alone() -> None:
    child = subprocess.Popen(["sleep", "60"])
    name = processes.identity(child.pid)
    assert processes.is_alive(name)
    assert processes.send(name, signal.SIGKILL)
    assert wait_until(lambda: not processes.is_alive(name))  # a zombie is not alive
    child.wait()
    assert not processes.send(name, signal.SIGKILL)
    boot, pid, born = name.split(":")
    mine = processes.identity(os.getpid())
    assert not processes.is_alive(f"{boot}:{os.getpid()}:{born}"), "same pid, another birth"
    assert not processes.is_alive(mine.replace(boot, "0" * 8)), "same pid, another boot"
    assert processes.rebooted(mine.replace(boot, "0" * 8))


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; from trainkit.boot import processes\n"
        "child = processes.start(['sleep', '60'], os.environ, '/', 1, signal.SIGKILL)\n"
        "print(processes.identity(child.pid), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    name = parent.stdout.readline().strip()
    assert processes.is_alive(name)
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: not processes.is_alive(name))


def test_a_subreaper_ends_the_orphans_of_its_children() -> None:
    code = (
        "import subprocess; from trainkit.boot import processes\n"
        "processes.become_subreaper()\n"
        "daemon = '(setsid sleep 60 >/dev/null 2>&1 & echo $!)'\n"
        "name = processes.identity(int(subprocess.check_output(['sh', '-c', daemon])))\n"
        "assert processes.is_alive(name)\n"
        "processes.end_children(); print(processes.is_alive(name), processes.children())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["False", "[]"], done.stderr


def test_a_sweep_ends_what_carries_the_mark_and_nothing_else() -> None:
    marked = subprocess.Popen(["sleep", "60"], env={"MARK": "one"})
    other = subprocess.Popen(["sleep", "60"], env={"MARK": "two"})
    try:
        assert wait_until(lambda: processes.with_environment("MARK", "one") == [marked.pid])
        assert processes.sweep("MARK", "one") == [marked.pid]
        assert marked.wait(timeout=10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_sweep_leaves_time_to_end_well() -> None:
    script = "import signal, time; print('on', flush=True); time.sleep(0.5)"
    ending = subprocess.Popen([sys.executable, "-c", script], env={"MARK": "ending"}, stdout=subprocess.PIPE)
    staying = subprocess.Popen(["sleep", "60"], env={"MARK": "ending"})
    assert ending.stdout is not None and ending.stdout.readline() == b"on\n"
    assert processes.sweep("MARK", "ending", grace=2.0) == [staying.pid]
    assert (ending.wait(timeout=10), staying.wait(timeout=10)) == (0, -signal.SIGKILL)
    ending.stdout.close()


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from trainkit.boot import processes\n"
        "print(processes.hold_lock(Path(sys.argv[1])), flush=True); time.sleep(60)"
    )
    file = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert processes.hold_lock(file) is None
    holder.kill()
    holder.communicate()
    handle = processes.hold_lock(file)
    assert handle is not None
    os.close(handle)


def test_what_earlier_attempts_have_left_is_ended() -> None:
    job = Job(f"left_{os.getpid()}", "tests", "/nowhere", 2, sys.executable)
    names = {"TRAINKIT_RUN_ID": job.run_id}
    started = [
        subprocess.Popen(["sleep", "300"], env={**os.environ, **names, "TRAINKIT_ATTEMPT": str(number)})
        for number in (1, 2)
    ]
    try:
        end_earlier(job)
        assert started[0].wait(timeout=20) == -signal.SIGKILL
        assert started[1].poll() is None
    finally:
        for process in started:
            process.kill()
            process.wait()
