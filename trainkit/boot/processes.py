"""Processes that leave nothing behind: names that are never reused, deaths that follow their parent's.

A process is named by boot id, pid and birth, so that a reused pid or a restarted machine is never taken for it. A
parent that is a subreaper inherits the orphans of its descendants and ends them as its own children: no tree is walked.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from typing import Callable, Dict, List, Mapping, Optional, Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def boot_id() -> str:
    """This start of the machine, and the namespace of pids: within both, pid and birth name one process."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return "%s.%d" % (file.read().strip(), os.stat("/proc/self/ns/pid").st_ino)


def stat_of(pid: int) -> List[str]:
    """The fields of /proc/PID/stat from the state on; empty where there is no such process."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state_of(pid: int) -> str:
    """The state of a process in one letter: T is stopped, Z has ended; X where it is gone."""
    return (stat_of(pid) or ["X"])[0]


def parent_of(pid: int) -> int:
    """The pid of a process's parent; 0 where there is no such process."""
    fields = stat_of(pid)
    return int(fields[1]) if fields else 0


def children_of(pid: int) -> List[int]:
    """The pids of what a process's first thread has started."""
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def words_of(pid: int) -> List[str]:
    """The command line that a process was started with."""
    return _texts(pid, "cmdline")


def environment_of(pid: int) -> Dict[str, str]:
    """The environment that a process was started with."""
    pairs = (text.partition("=") for text in _texts(pid, "environ"))
    return {name: value for name, equals, value in pairs if equals}


def _texts(pid: int, name: str) -> List[str]:
    try:
        with open("/proc/%d/%s" % (pid, name), "rb") as file:
            texts = os.fsdecode(file.read()).split("\0")
    except OSError:
        return []
    return texts if texts[-1] else texts[:-1]


def birth(pid: int) -> str:
    """The process's start in clock ticks since boot: with the pid, a name that is never reused. Empty if it is gone."""
    fields = stat_of(pid)
    return fields[19] if fields else ""


def identity(pid: int) -> str:
    """The name of a living process: "boot id:pid:birth"."""
    return "%s:%d:%s" % (boot_id(), pid, birth(pid))


def rebooted(name: str) -> bool:
    """Whether the process was named before the machine's last start, or on another machine."""
    return name.partition(":")[0] != boot_id()


def is_alive(name: str) -> bool:
    """Whether exactly this process still runs; a zombie does not."""
    boot, pid, born = name.split(":")
    fields = stat_of(int(pid)) if boot == boot_id() else []
    return bool(fields) and fields[19] == born and fields[0] not in "ZX"


def send(name: str, signum: int) -> bool:
    """Signal exactly this process; False where it is gone."""
    pid = int(name.split(":")[1])
    try:
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            handle = os.pidfd_open(pid)
            try:
                if not is_alive(name):
                    return False
                signal.pidfd_send_signal(handle, signum)
            finally:
                os.close(handle)
        elif is_alive(name):
            os.kill(pid, signum)
        else:
            return False
    except ProcessLookupError:
        return False
    return True


def become_subreaper() -> None:
    """From now on orphaned descendants become this process's own children."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(signum: int, parent: int) -> None:
    """Have the kernel send `signum` when the thread that started this process ends; at once if it already has."""
    _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def start(
    argv: Sequence[str], environment: Mapping[str, str], directory: str, output: int, die_signal: int
) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own that gets `die_signal` when this process dies.

    Call it from the main thread: the kernel ties the signal to the thread.
    """
    parent = os.getpid()

    def child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        die_with_parent(die_signal, parent)

    return subprocess.Popen(
        list(argv), env=dict(environment), cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        start_new_session=True, preexec_fn=child,
    )  # fmt: skip


def end(process: "subprocess.Popen[bytes]", seconds: float = 5.0) -> Optional[int]:
    """Kill a child; its status, or None where the kernel does not let it end in time (it waits for a disk or a GPU)."""
    if process.poll() is None:
        process.kill()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def children() -> List[int]:
    """Pids of this process's own children, zombies included."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open("/proc/self/task/%s/children" % task) as file:
                found += [int(pid) for pid in file.read().split()]
        except FileNotFoundError:
            pass
    return found


def end_children(spare: Callable[[int], bool] = lambda pid: False, seconds: float = 5.0) -> None:
    """Kill and reap all children, and what becomes one as they die, until none is left or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pids = [pid for pid in children() if not spare(pid)]
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in pids:
            _reap(pid, deadline)


def _reap(pid: int, deadline: float) -> None:
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(0.002)


def with_environment(name: str, value: str) -> List[int]:
    """Pids of living processes, this one apart, that were started with `name=value` in their environment."""
    wanted = ("%s=%s" % (name, value)).encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % entry, "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue
    return found


def sweep(name: str, value: str, seconds: float = 5.0, grace: float = 0.0) -> List[int]:
    """Kill every process that was started with `name=value`: for what outlived the agent that should have ended it.

    They have `grace` to end by themselves: who kills a rank's parent too soon lets escape what only that one knows of.
    """
    deadline = time.monotonic() + seconds + grace
    swept: List[int] = []
    while time.monotonic() < deadline:
        pids = [pid for pid in with_environment(name, value) if state_of(pid) not in "ZX"]
        if not pids:
            break
        for pid in pids if time.monotonic() > deadline - seconds else ():
            try:
                os.kill(pid, signal.SIGKILL)
                swept.append(pid)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    return sorted(set(swept))


def print_to(path: "os.PathLike[str]") -> None:
    """From now on what this process prints is added to a file."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)


def signal_name(number: int) -> str:
    """ "SIGKILL" for 9; the number for those without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot; 0 where it does not say."""
    values: Dict[str, int] = {}
    try:
        with open("/proc/vmstat") as file:
            for line in file:
                key, _, value = line.partition(" ")
                values[key] = int(value)
    except OSError:
        pass
    return values.get("oom_kill", 0)


def hold_lock(path: "os.PathLike[str]", wait: bool = False) -> Optional[int]:
    """An exclusive flock, released by the kernel when this process dies; None where another holds it."""
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
