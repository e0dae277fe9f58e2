"""A cluster on one machine, for tests: nodes with their own network, host name, processes, /tmp and sshd.

    with Testbed(nodes=2) as bed:
        bed.run("ctl", ["ssh", "node1", "hostname"], timeout=20)
        bed.cut("node2")

Every node, and "ctl" where launchers and tests run, sees the machine's files, but has its own /tmp (not ctl), /dev/shm,
/run, /etc (what is written there stays on the node), network and boot id. `shared` is a folder that all of them see
under one path, as are the homes of root and of the user `USER`. "ctl" has the machine's process ids: a test that runs
there sees the processes of all nodes. It needs root, and uses only iproute2, util-linux and OpenSSH.
`missing()` says what is not here. scripts/testbed is the same on the command line.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.engines import keeper, network_files
from tests.engines.nodes import PATH, Node, Switch, limit_rate
from tests.engines.slurmd import Slurm

USER = "tester"  # an ordinary user of every node
PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "tc", "ssh", "ssh-keygen", "bash")
# Variables of this process that its commands on nodes do not get: those of its login and of the test run around it
# (an inner run has marks of its own, and the testbed's end is the end of all that a node started).
_FORGOTTEN = ("SSH_", "XDG_", "TMPDIR", "TEMP", "TMP", "PYENV", "VIRTUAL_ENV", "OLDPWD", "PYTEST_", "TESTS_OF_TRAINKIT")


def missing() -> str:
    """Why there can be no testbed here; "" where there can be."""
    if os.getuid() != 0:
        return "a testbed needs root, for namespaces"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    absent += [] if Path("/usr/sbin/sshd").exists() else ["sshd"]
    if absent:
        return f"a testbed needs {', '.join(absent)}; scripts/engines installs them"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"root may make no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class Testbed:
    """Nodes node1 to nodeN and "ctl" on a switch, as a context manager or with `down`."""

    __test__ = False  # for pytest: not a class of tests

    def __init__(self, nodes: int = 2, *, detached: bool = False) -> None:
        """Start the testbed; a detached one outlives this process, until `down`."""
        reason = missing()
        if reason:
            raise RuntimeError(reason)
        self.folder, lock = keeper.claim()
        keeping = [sys.executable, "-I", keeper.__file__, str(self.folder)]
        self._keeper: subprocess.Popen[bytes] | None = subprocess.Popen(
            keeping + (["--detached"] if detached else []),
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, pass_fds=[lock], cwd="/",
        )  # fmt: skip
        os.close(lock)
        network_files.write(self.folder, nodes, USER)
        self._open()
        try:
            self.switch = Switch.start(self.folder)
            for node in self.nodes.values():
                node.begin(self.switch)
            for node in self.nodes.values():
                node.finish()
        except BaseException:
            self.down()
            raise

    def _open(self) -> None:
        lines = (self.folder / "nodes" / "addresses").read_text().splitlines()
        pairs = dict(line.split() for line in lines)
        self.nodes = {name: Node(self.folder, name, address) for name, address in pairs.items()}
        self.shared = self.folder / "shared"
        self._slurm: Slurm | None = None

    @classmethod
    def at(cls, folder: Path) -> Testbed:
        """The testbed in a folder, which another process started."""
        bed = cls.__new__(cls)
        bed.folder, bed._keeper = folder, None
        bed._open()
        bed.switch = Switch.of(folder)
        if (folder / "slurm").exists():
            bed._slurm = Slurm(bed, sacct=(folder / "slurm" / "etc" / "slurmdbd.conf").exists())
        return bed

    def __enter__(self) -> Testbed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def down(self) -> None:
        """End every process of the testbed and remove its folder; nothing is left. A second call does nothing."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait(timeout=keeper.END_SECONDS + 5)
        keeper.dismiss(self.folder)
        if self._keeper is not None:
            self._keeper.wait(timeout=keeper.END_SECONDS + 5)
        for node in self.nodes.values():
            node.reap()

    @property
    def names(self) -> list[str]:
        """The nodes, without "ctl"."""
        return [name for name in self.nodes if name != "ctl"]

    def address(self, node: str) -> str:
        """A node's IP address."""
        return self.nodes[node].address

    def home(self, user: str = "root") -> Path:
        """A user's home, the same folder on every node."""
        return self.folder / "home" / user

    def environment(self, user: str = "root", more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What commands on nodes get: this process's variables without those of its login, the user's own, `more`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FORGOTTEN)}
        home = str(self.home(user)) if self.home(user).exists() else "/"
        return {**kept, "PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", **(more or {})}

    def command(
        self, node: str, argv: Sequence[str], *, cwd: str | Path | None = None, user: str = "root"
    ) -> list[str]:
        """The command line, for this process, that runs `argv` on a node."""
        return [*self.nodes[node].enter(str(cwd or Path.cwd()), user), *map(str, argv)]

    def start(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        user: str = "root",
        **popen: Any,
    ) -> subprocess.Popen[str]:
        """Start a command on a node; it is killed when the returned process is. `popen` goes to subprocess.Popen."""
        popen.setdefault("text", True)
        popen.setdefault("start_new_session", True)
        command = self.command(node, argv, cwd=cwd, user=user)
        return subprocess.Popen(command, env=self.environment(user, env), **popen)

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        user: str = "root",
        input: str | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node and return its output as text; `env` is added to `environment`."""
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(node, argv, env=env, cwd=cwd, user=user, **pipes) as process:
            try:
                output, errors = process.communicate(input, timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        done = subprocess.CompletedProcess(list(argv), process.returncode, output, errors)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, argv))} on {node} returned {done.returncode}: {output}{errors}")
        return done

    def processes(self, node: str, needle: str = "") -> list[int]:
        """The node's processes with `needle` in their command line, by the ids that ctl and the machine use."""
        found = []
        for pid in self.nodes[node].pids():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if line and needle in line:
                found.append(pid)
        return found

    def kill(self, node: str, *, silently: bool = False) -> None:
        """Kill every process of a node; silently means as power loss does, with no word on its connections."""
        if silently:
            self.switch.leave(node)
        self.nodes[node].kill()
        self.switch.leave(node)

    def boot(self, node: str) -> None:
        """Start a killed node again: same name, address and keys, empty /tmp, new boot id, Slurm if that is up.

        Nothing happens to a node that is on.
        """
        if self.nodes[node].pid:
            return
        self.switch.leave(node)  # of a kill that failed half way
        self.nodes[node].begin(self.switch)
        self.nodes[node].finish()
        if self._slurm is not None:
            self._slurm.start(node)

    def freeze(self, node: str) -> None:
        """Stop every process of a node (SIGSTOP); its kernel still answers."""
        self.nodes[node].freeze()

    def thaw(self, node: str) -> None:
        """Let the processes of a frozen node go on."""
        self.nodes[node].thaw()

    def cut(self, node: str) -> None:
        """Unplug a node from the switch."""
        self.switch.ip(f"link set {node} down")

    def heal(self, node: str) -> None:
        """Plug a node in again; nothing happens to one that is off."""
        if self.nodes[node].pid:
            self.switch.ip(f"link set {node} up")

    def limit(self, node: str, mbit: float) -> None:
        """Limit a node's link to so many megabits a second each way; 0 takes the limit away."""
        self.switch.tc(node, mbit)
        limit_rate(["nsenter", "-t", str(self.nodes[node].pid), "-n"], "eth0", mbit)

    def _inside(self, node: str, script: str, *arguments: str) -> str:
        return self.run(node, ["bash", "-euc", script, "bash", *arguments], cwd="/", check=True).stdout

    def fill(self, node: str, path: str | Path = "/tmp", *, free_kb: int = 0) -> None:
        """Leave `free_kb` on the disk that a node has at `path`: its /tmp, its /dev/shm, or a new one over a folder."""
        self._inside(
            node,
            """
            mountpoint -q "$1" || mount -t tmpfs -o mode=1777 tmpfs "$1"
            used=$(df --output=used -k "$1" | tail -1)
            mount -o remount,size=$((used + $2 + 64))k "$1"
            head -c $((64 * 1024)) /dev/zero >"$1/.filled" || true
            """,
            str(path),
            str(free_kb),
        )

    def clear(self, node: str, path: str | Path = "/tmp") -> None:
        """Give a filled disk of a node its room back; nothing happens to a node that is off or a folder of no tmpfs."""
        if self.nodes[node].pid:
            self._inside(
                node,
                """
                mountpoint -q "$1" && [ "$(stat -f -c %T "$1")" = tmpfs ] || exit 0
                rm -f "$1/.filled"
                mount -o remount,size=2g "$1"
                """,
                str(path),
            )

    def hide(self, node: str, path: str | Path) -> None:
        """Lay an empty folder over one that a node sees."""
        self._inside(node, 'mount -t tmpfs -o mode=1777,size=1g tmpfs "$1"', str(path))

    def show(self, node: str, path: str | Path) -> None:
        """Take away what `hide`, or `fill` of an ordinary folder, laid over a folder of a node."""
        self._inside(node, 'umount -l "$1"', str(path))

    def slurm(self, *, sacct: bool = False, config: str = "") -> Slurm:
        """Start Slurm: its controller in ctl, a daemon on each node; returns when all nodes are idle.

        `config` has more lines for its slurm.conf.
        """
        self._slurm = Slurm(self, sacct=sacct, config=config)
        self._slurm.up()
        return self._slurm

    def slurm_down(self, *nodes: str, kill: bool = False) -> None:
        """Stop Slurm, or only its daemons on the named nodes ("ctl": the controller); `kill` means with SIGKILL."""
        assert self._slurm is not None, "Slurm was not started"
        for node in nodes or ("ctl", *self.names):
            self._slurm.stop(node, kill=kill)
        if not nodes:
            self._slurm = None

    def slurm_up(self, *nodes: str) -> None:
        """Start again what `slurm_down` stopped on the named nodes ("ctl": the controller)."""
        assert self._slurm is not None, "Slurm was not started"
        for node in nodes:
            self._slurm.start(node)
