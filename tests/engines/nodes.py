"""Nodes on one machine: processes in namespaces of their own, joined by a bridge that has one too.

Nothing is made in the network, mount or host-name namespace of the machine itself, and nothing has a name there, so
all of it ends with the processes. `Switch` is the bridge, `Node` one node; `Testbed` in testbed.py is what tests use.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.engines import keeper

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_SECONDS = 30.0
CHECKOUT = Path(__file__).resolve().parents[2]

_SWITCH = """
set -eu
mount -t tmpfs "$1/switch" "$2"
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
echo "$$"
exec sleep infinity </dev/null >/dev/null
"""

# $$ and /proc/self are still those of the machine until the node mounts its own /proc. `read` fails, and with it the
# node, where the testing process ends before the node is ready.
_NODE = """
set -eu
id=$1 name=$2 folder=$3 address=$4 checkout=$5
own=$folder/own
mount -t tmpfs -o mode=755 "$id/$name" "$own"
read -r pid rest </proc/self/stat
echo "$pid"
read -r go
hostname "$name"
mkdir "$own/etc" "$own/etc.work" "$own/root" "$own/root.work" "$own/cgroup"
chmod 755 "$own/root"
cp -a "$folder/etc/." "$own/etc"
mount -t overlay -o "lowerdir=/etc,upperdir=$own/etc,workdir=$own/etc.work" "$id/$name" /etc
mount -t overlay -o "lowerdir=/root,upperdir=$own/root,workdir=$own/root.work" "$id/$name" /root
chmod 755 /root
if mount --rbind /sys/fs/cgroup "$own/cgroup" 2>/dev/null; then cgroups=1; else cgroups=; fi
mount -t sysfs sysfs /sys
[ -z "$cgroups" ] || mount --move "$own/cgroup" /sys/fs/cgroup
mount -t tmpfs -o mode=755 "$id/$name" /run
mkdir /run/sshd /run/lock
chmod 1777 /run/lock
mount -t tmpfs -o size=2g,mode=1777 "$id/$name" /dev/shm
if [ "$name" != ctl ]; then
    mkdir "$own/checkout"  # the nodes run its Python, wherever it lies
    case $checkout in /tmp/*) mount --rbind "$checkout" "$own/checkout" ;; esac
    mount -t tmpfs -o size=2g,mode=1777 "$id/$name" /tmp
    case $checkout in /tmp/*) mkdir -p "$checkout" && mount --move "$own/checkout" "$checkout" ;; esac
    mount -t proc proc /proc
fi
cat /proc/sys/kernel/random/uuid >"$own/boot_id"
mount --bind "$own/boot_id" /proc/sys/kernel/random/boot_id
ip link set lo up
ip addr add "$address/24" dev eth0
ip link set eth0 up
cd /
echo ready
exec </dev/null >>"$folder/log" 2>&1
[ "$name" != ctl ] || exec sleep infinity
exec /usr/sbin/sshd -D -e -f "$folder/sshd_config"
"""


class NodeFailed(RuntimeError):
    """A node did not start; says what its start printed."""


def _state(pid: int) -> str:
    """The letter that /proc gives a process's state: T is stopped, Z has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended


def _line(process: subprocess.Popen[str], what: str) -> str:
    """The next line that a starting process prints; raises NodeFailed with its log when it ends instead."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        process.kill()
        raise NodeFailed(f"{what} did not start: {process.communicate()[1] or 'it printed nothing'}")
    return line


def _started(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env={**os.environ, "PATH": PATH},
    )  # fmt: skip


@dataclass
class Switch:
    """The bridge that joins the nodes of one testbed. `pid` is the process that holds its network namespace."""

    pid: int

    @classmethod
    def start(cls, bed: Path) -> Switch:
        """Make the bridge of the testbed in `bed`."""
        (bed / "switch").mkdir()
        argv = ["unshare", "--net", "--mount", "bash", "-c", _SWITCH, "switch", bed.name, str(bed / "switch")]
        process = _started(argv)
        switch = cls(int(_line(process, "the switch")))
        (bed / "switch.pid").write_text(str(switch.pid))
        return switch

    @classmethod
    def of(cls, bed: Path) -> Switch:
        """The bridge that another process started."""
        return cls(int((bed / "switch.pid").read_text()))

    def ip(self, *commands: str) -> None:
        """Run lines of `ip -batch` where the bridge is."""
        subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "ip", "-batch", "-"],
            input="\n".join(commands) + "\n", text=True, check=True, capture_output=True, timeout=20,
        )  # fmt: skip

    def join(self, node: Node, pid: int) -> None:
        """Give a node, whose first process is `pid`, an eth0 that ends at this bridge; its hardware address stays."""
        hardware = "02:00:" + ":".join(f"{int(part):02x}" for part in node.address.split("."))
        self.ip(
            f"link add {node.name} type veth peer name eth0 address {hardware} netns {pid}",
            f"link set {node.name} master br0 up",
        )

    def leave(self, name: str) -> None:
        """Remove a node's link, at once and from both ends; nothing happens where there is none."""
        subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "ip", "link", "del", name], capture_output=True, timeout=20
        )

    def tc(self, name: str, mbit: float) -> None:
        """Limit what the bridge sends to a node; 0 takes the limit away."""
        limit_rate(["nsenter", "-t", str(self.pid), "-n"], name, mbit)


def limit_rate(enter: list[str], device: str, mbit: float) -> None:
    """Limit what a network device sends, with a token bucket; 0 takes the limit away."""
    if mbit:
        rate = ["tbf", "rate", f"{int(mbit * 1_000_000)}bit", "burst", "64kb", "latency", "400ms"]
        subprocess.run([*enter, "tc", "qdisc", "replace", "dev", device, "root", *rate], check=True, timeout=20)
    else:
        subprocess.run([*enter, "tc", "qdisc", "del", "dev", device, "root"], capture_output=True, timeout=20)


@dataclass
class Node:
    """One node, or "ctl", whose processes the machine's own process ids name (it has no process namespace)."""

    bed: Path
    name: str
    address: str
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """Where the testbed keeps this node's files."""
        return self.bed / "nodes" / self.name

    @property
    def mark(self) -> str:
        """What the mounts of this node's processes carry."""
        return f"{self.bed.name}/{self.name} "

    @property
    def pid(self) -> int:
        """The node's first process, as the machine sees it; 0 while the node is off."""
        try:
            pid = int((self.folder / "pid").read_text())
        except OSError:
            return 0
        try:
            return pid if self.mark in Path(f"/proc/{pid}/mountinfo").read_text() else 0
        except OSError:
            return 0

    def begin(self, switch: Switch) -> None:
        """Start the node's first process and plug it in; `finish` waits until it is ready."""
        shutil.rmtree(self.folder / "own", ignore_errors=True)
        (self.folder / "own").mkdir()
        kinds = ["--net", "--uts", "--ipc", "--mount", "--propagation", "private"]
        if self.name != "ctl":
            kinds += ["--pid", "--fork", "--kill-child"]
        arguments = ["init", self.bed.name, self.name, str(self.folder), self.address, str(CHECKOUT)]
        self._process = _started(["unshare", *kinds, "bash", "-c", _NODE, *arguments])
        pid = int(_line(self._process, self.name))
        (self.folder / "pid").write_text(str(pid))
        switch.join(self, pid)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until the node is ready: "ctl" has its network, the others answer on port 22."""
        assert self._process is not None
        _line(self._process, self.name)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        deadline = time.monotonic() + BOOT_SECONDS
        while self.name != "ctl" and not self._listens():
            if time.monotonic() > deadline or not self.pid:
                raise NodeFailed(f"sshd of {self.name} did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.005)

    def _listens(self) -> bool:
        try:
            lines = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        except OSError:
            return False
        fields = [line.split() for line in lines]
        return any(local.endswith(":0016") and state == "0A" for _, local, _, state, *_ in fields)

    def pids(self) -> list[int]:
        """All processes of the node, as the machine names them."""
        if self.name == "ctl":
            return keeper.members(self.mark)
        own = keeper.namespace(self.pid, "pid") if self.pid else ""
        return [pid for pid in keeper.pids() if keeper.namespace(pid, "pid") == own] if own else []

    def kill(self) -> None:
        """Kill the node's first process, which ends all others of the node; returns when none is left."""
        deadline = time.monotonic() + BOOT_SECONDS
        left = [self.pid] if self.pid else []
        while left:
            for pid in left:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.005)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {left} of {self.name} do not end")
            left = keeper.members(self.mark)
        self.reap()

    def reap(self) -> None:
        """Take the end of the node's first process, where this process started it."""
        if self._process is not None and not self.pid:
            self._process.wait(timeout=BOOT_SECONDS)
            self._process = None

    def freeze(self) -> None:
        """Stop every process of the node, those that are forked meanwhile too; return when none runs any more."""
        deadline = time.monotonic() + BOOT_SECONDS
        while moving := [pid for pid in self.pids() if _state(pid) not in "TtZX"]:
            for pid in moving:
                _signal(pid, signal.SIGSTOP)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {moving} of {self.name} do not stop")
            time.sleep(0.002)

    def thaw(self) -> None:
        """Let them go on, and the nsenter in front of a command: it stops itself when its command is stopped."""
        for pid in keeper.members(self.mark):
            _signal(pid, signal.SIGCONT)

    def enter(self, cwd: str, user: str) -> list[str]:
        """The start of a command line that runs the rest of it on the node, and ends with what started it."""
        kinds = ["-m", "-u", "-i", "-n"] + ([] if self.name == "ctl" else ["-p"])
        if not self.pid:
            raise RuntimeError(f"{self.name} is off; boot it first")
        argv = ["/usr/bin/nsenter", "-t", str(self.pid), *kinds, f"--wdns={cwd}", "--"]
        options = [] if self.name == "ctl" else ["--pdeathsig", "KILL"]
        options += [] if user == "root" else ["--reuid", user, "--regid", user, "--init-groups"]
        return [*argv, "/usr/bin/setpriv", *options, "--"] if options else argv
