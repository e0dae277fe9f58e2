"""Real Slurm on a testbed: munge everywhere, slurmctld in ctl, a slurmd on each node; no systemd, no cgroups.

Partitions: "debug" (the default), "low", whose jobs give way to others and are queued again, and "high". Every node has
two processors and two GPUs that are only counted. Jobs run as root and as the testbed's ordinary user.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.engines.testbed import Testbed

PROGRAMS = ("/usr/sbin/munged", "/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/bin/sbatch")
READY_SECONDS = 60.0
_GPUS = ("/dev/null", "/dev/zero")  # Slurm only counts them

_CONF = """
ClusterName=testbed
SlurmctldHost=ctl
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SwitchType=switch/none
ReturnToService=2
SlurmctldPort=6817
SlurmdPort=6818
SlurmdParameters=config_overrides
StateSaveLocation=@F@/state
SlurmdSpoolDir=@F@/spool/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=@F@/log/slurmctld.log
SlurmdLogFile=@F@/log/slurmd.%n.log
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=3
InactiveLimit=0
MinJobAge=600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
JobCompType=jobcomp/filetxt
JobCompLoc=@F@/log/jobcomp.txt
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=@ACCOUNTING@
GresTypes=gpu
NodeName=@NODES@ CPUs=2 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=5 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
# Needed even though no cgroups are used: slurmd looks for them otherwise, and dies where there are none.
_CGROUP = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
_DBD = """
AuthType=auth/munge
DbdHost=ctl
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile=@F@/log/slurmdbd.log
PidFile=/run/slurmdbd.pid
"""
_MUNGE = """
mkdir -p /run/munge /run/munged /etc/slurm
cp "$1"/etc/* /etc/slurm/
[ ! -e /etc/slurm/slurmdbd.conf ] || chmod 600 /etc/slurm/slurmdbd.conf
[ ! -S /run/munge/munge.socket.2 ] || exit 0
cp "$1/munge.key" /run/munged/key
chown -R munge:munge /run/munge /run/munged
chmod 755 /run/munge
chmod 700 /run/munged
chmod 400 /run/munged/key
own=/run/munged
exec setpriv --reuid munge --regid munge --clear-groups /usr/sbin/munged --socket=/run/munge/munge.socket.2 \
    --key-file=$own/key --pid-file=$own/pid --log-file=$own/log --seed-file=$own/seed
"""
_DATABASE = """
install -d -o mysql -g mysql "$1/mysql" /run/mysqld
mariadb-install-db --no-defaults --user=mysql --datadir="$1/mysql" --auth-root-authentication-method=normal \
    --skip-test-db >"$1/log/mysql-install.log" 2>&1
setsid mariadbd --no-defaults --user=mysql --datadir="$1/mysql" --socket=/run/mysqld/mysqld.sock --skip-networking \
    --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
    >"$1/log/mysql.log" 2>&1 </dev/null &
for try in $(seq 300); do
    mariadb-admin --no-defaults -uroot --socket=/run/mysqld/mysqld.sock ping >/dev/null 2>&1 && break
    sleep 0.1
done
/usr/sbin/slurmdbd
for try in $(seq 300); do
    sacctmgr -n list cluster >/dev/null 2>&1 && break
    sleep 0.1
done
sacctmgr -i add cluster testbed >/dev/null
"""


def missing(sacct: bool = False) -> str:
    """Why Slurm cannot be started here; "" where it can."""
    programs = PROGRAMS + (("/usr/sbin/slurmdbd", "/usr/sbin/mariadbd") if sacct else ())
    absent = [name for name in programs if not Path(name).exists()]
    return f"Slurm needs {', '.join(absent)}; scripts/engines installs them" if absent else ""


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""  # it has ended


class Slurm:
    """The Slurm of a testbed. `start` and `stop` work on one node, "ctl" being the controller."""

    def __init__(self, bed: Testbed, *, sacct: bool = False, config: str = "") -> None:
        """Name the testbed; `up` writes the files and starts it. With `sacct`, its accounts are kept in MariaDB.

        `config` has more lines for slurm.conf.
        """
        self.bed = bed
        self.folder = bed.folder / "slurm"
        self.sacct, self.config = sacct, config

    def up(self) -> None:
        """Start everything; return when every node is idle."""
        reason = missing(self.sacct)
        if reason:
            raise RuntimeError(reason)
        self._write()
        if self.sacct:
            self._inside("ctl", _MUNGE)
            self._inside("ctl", _DATABASE)
        for node in ("ctl", *self.bed.names):
            self.start(node)
        self.wait_idle(*self.bed.names)

    def _write(self) -> None:
        for name in ("etc", "state", "spool", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        names = self.bed.names
        storage = "accounting_storage/slurmdbd\nAccountingStorageHost=ctl" if self.sacct else "accounting_storage/none"
        text = (_CONF + self.config).replace("@F@", str(self.folder)).replace("@NODES@", ",".join(names))
        files = {
            "slurm.conf": text.replace("@ACCOUNTING@", storage),
            "cgroup.conf": _CGROUP,
            "gres.conf": "".join(f"NodeName={name} Name=gpu File={file}\n" for name in names for file in _GPUS),
        }
        if self.sacct:
            files["slurmdbd.conf"] = _DBD.replace("@F@", str(self.folder))
        for name, content in files.items():
            (self.folder / "etc" / name).write_text(content.lstrip())
        (self.folder / "munge.key").write_bytes(os.urandom(1024))

    def _inside(self, node: str, script: str, *arguments: str) -> str:
        argv = ["bash", "-euc", script, "bash", str(self.folder), *arguments]
        return self.bed.run(node, argv, cwd="/", check=True, timeout=120).stdout

    def start(self, node: str) -> None:
        """Start the controller ("ctl") or a node's daemon, with munge where that does not run."""
        self._inside(node, _MUNGE)
        if node == "ctl":
            self._inside(node, "/usr/sbin/slurmctld")
        else:
            self._inside(node, 'mkdir -p "$1/spool/$2"; /usr/sbin/slurmd -N "$2"', node)

    def stop(self, node: str, *, kill: bool = False) -> None:
        """End the controller ("ctl") or a node's daemon, as a restart does, or with SIGKILL; jobs' processes go on.

        A killed controller has forgotten what happened in its last seconds: jobs submitted then, and ends of jobs.
        """
        program = os.path.realpath("/usr/sbin/slurmctld" if node == "ctl" else "/usr/sbin/slurmd")
        number = signal.SIGKILL if kill else signal.SIGTERM
        deadline = time.monotonic() + READY_SECONDS
        while found := [pid for pid in self.bed.nodes[node].pids() if _program(pid) == program]:
            for pid in found:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{program} on {node} does not end")
            time.sleep(0.05)

    def wait_idle(self, *nodes: str) -> None:
        """Wait until Slurm calls these nodes idle."""
        deadline = time.monotonic() + READY_SECONDS
        query = ["sinfo", "-h", "-N", "-p", "debug", "-o", "%N %T"]
        while True:
            seen = self.bed.run("ctl", query, cwd="/", timeout=30)
            states = dict(line.split() for line in seen.stdout.splitlines())
            if all(states.get(node) == "idle" for node in nodes):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"Slurm's nodes are {states or seen.stderr}; logs are in {self.folder / 'log'}")
            time.sleep(0.05)
