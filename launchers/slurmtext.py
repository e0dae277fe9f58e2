"""What is written for Slurm: options, the batch script, and what is refused before. Pure functions to text.

What Slurm answers is read by `slurmstates` and `slurmroom`; `slurm` acts. Nothing is contacted, read or written here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from trainkit.errors import LaunchError, UnsupportedJob, UserErrorException
from trainkit.job import Job, agent_command

if TYPE_CHECKING:
    from .slurm import Slurm

_WORD = re.compile(r"[A-Za-z0-9_.,:;@%+/=&|*()\[\]!~{}-]+")
_OPTION = re.compile(r"--[a-z][a-z0-9-]*(=[^\x00-\x1f\x7f]*)?")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_OURS = (  # options that decide how agents are started, or that are fields of the launcher
    "partition", "account", "qos", "time", "gpus-per-node", "gres", "cpus-per-task", "mem", "constraint", "exclude",
    "nodelist", "reservation", "requeue", "no-requeue", "signal", "comment", "nodes", "ntasks", "ntasks-per-node",
    "job-name", "output", "error", "open-mode", "export", "export-file", "parsable", "wrap", "array", "chdir", "wait",
    "test-only", "hold", "help", "usage", "version",
)  # fmt: skip
_OBEYED = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_TIMELIMIT",
         "SBATCH_CONSTRAINT", "SBATCH_RESERVATION")  # fmt: skip
_AGENT_SECONDS = 5  # for an agent to kill ranks that did not end
_END_SECONDS = 20  # for agents to end once the first of them has, beyond the ranks' own grace
_NEVER = "UNLIMITED", "INFINITE", "NONE", "N/A"


@dataclass(frozen=True)
class Handle:
    """What names a started job in any process: Slurm's id, and what is needed to see and end it."""

    id: str
    cluster: str = ""  # of several that one Slurm serves
    grace: int = 0  # seconds that the agents may take to end the ranks
    name: str = ""  # of the agents' step
    process: str = ""  # in an allocation that the user holds: what runs the script there
    restarts: int = 0  # the job's max_restarts

    def __str__(self) -> str:
        return " ".join(str(word) or "-" for word in astuple(self))

    @property
    def where(self) -> list[str]:
        """The option that finds the job."""
        return [f"--clusters={self.cluster}"] if self.cluster else []

    @classmethod
    def parse(cls, text: str) -> Handle:
        """The inverse of `str`."""
        words = ["" if word == "-" else word for word in text.split(" ")]
        return cls(words[0], words[1], int(words[2] or 0), words[3], words[4], int("".join(words[5:]) or 0))


def submitted(output: str, job: Job) -> Handle:
    """The handle of what `sbatch --parsable` has accepted: "12" or "12;cluster" on its last line."""
    line = (output.strip().splitlines() or [""])[-1]
    number, _, cluster = line.partition(";")
    if not number.isdigit():
        raise LaunchError(f"sbatch did not say the job's number, but {output.strip()!r}.", output=output)
    return Handle(number, cluster, int(job.grace_seconds), name_of(job), restarts=job.max_restarts)


def name_of(job: Job) -> str:
    """The name of the job and of its agents' step: no other has it."""
    return f"{job.run_id}.{job.attempt}"


def script_of(job: Job) -> str:
    """Where the batch script belongs."""
    return f"{job.run_dir}/attempts/{job.attempt}/slurm.sh"


def check(launcher: Slurm) -> None:
    """Raise UserErrorException for the first of the launcher's values that Slurm could misread, or that is none."""
    for name in ("partition", "account", "qos", "gres", "memory", "constraint", "exclude", "nodelist", "reservation"):
        _check_word(name, getattr(launcher, name))
    _check_word("allocation", launcher.allocation, re.compile(r"\d+"), "the number of a job")
    _check_word("gpus_per_node", str(launcher.gpus_per_node), re.compile(r"([a-zA-Z]\w*:)?\d+"), '"4" or "a100:4"')
    minutes(str(launcher.time) if launcher.time != "" else "1")
    for name in ("cpus_per_rank", "signal_seconds", "queue_timeout_seconds"):
        if not isinstance(getattr(launcher, name), int) or getattr(launcher, name) < 0:
            raise UserErrorException(f"Slurm's {name} is {getattr(launcher, name)!r}; it is a whole number from 0.")
    if launcher.signal_seconds > 65535:
        raise UserErrorException(f"Slurm's signal_seconds is {launcher.signal_seconds}; it takes at most 65535.")
    if any(ord(c) < 32 for c in launcher.comment):
        raise UserErrorException("Slurm's comment is one line of text.")
    if launcher.gres and str(launcher.gpus_per_node) != "0":
        raise UserErrorException("Slurm: gres and gpus_per_node both ask for devices; give one of them.")
    if launcher.requeue and (launcher.inside or launcher.allocation):
        raise UserErrorException("Slurm: requeue asks for a new allocation, and inside for the one that you hold.")
    for option in launcher.extra:
        _check_option(option)


def check_job(launcher: Slurm, job: Job) -> None:
    """Raise UnsupportedJob where the launcher and the job contradict each other."""
    devices = re.search(r"(\d+)$", launcher.gres or str(launcher.gpus_per_node))
    asked = int(devices.group(1)) if devices else 0
    if asked and "gpu" in (launcher.gres or "gpu") and asked < job.gpus_per_node:
        raise UnsupportedJob(
            f"The job uses {job.gpus_per_node} GPUs on each node, and the launcher asks Slurm for {asked}: give "
            "gpus_per_node=0 (as many as the job uses), or ask for fewer."
        )
    least = int(job.grace_seconds) + _AGENT_SECONDS
    if launcher.signal_seconds and launcher.signal_seconds < least:
        raise UnsupportedJob(
            f"signal_seconds={launcher.signal_seconds} is too late for ranks that may take grace_seconds="
            f"{job.grace_seconds:g} to end: give at least {least}."
        )
    if not job.shared:
        raise UnsupportedJob("Slurm's nodes must see the workspace's folder under the same path: give shared=True.")
    if is_path(launcher.setup_script) and not os.path.isfile(launcher.setup_script.strip()):
        raise UnsupportedJob(f"setup_script names {launcher.setup_script.strip()}, and there is no such file.")


def _check_word(name: str, value: str, pattern: re.Pattern[str] = _WORD, kind: str = "one word") -> None:
    if value and (value[0] == "-" or not pattern.fullmatch(value)):
        raise UserErrorException(f"Slurm's {name} is {value!r}; it is {kind}, without spaces and not an option.")


def _check_option(option: str) -> None:
    name = option.partition("=")[0].removeprefix("--")
    if not _OPTION.fullmatch(option):
        raise UserErrorException(f'Slurm\'s extra option {option!r} has not the form "--name" or "--name=value".')
    if name in _OURS:
        raise UserErrorException(
            f"Slurm's extra option --{name} is set by the launcher: use its field, or leave it out. "
            "Fields: partition, account, qos, time, gpus_per_node, gres, cpus_per_rank, memory, constraint, exclude, "
            "nodelist, reservation, requeue, signal_seconds, comment."
        )


def minutes(time: str) -> float:
    """A time as Slurm writes it (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S) in minutes. Raises UserErrorException."""
    if time.upper() in _NEVER:
        return float("inf")
    found = _TIME.fullmatch(time)
    if not found:
        raise UserErrorException(f"Slurm's time is {time!r}; it is minutes, HOURS:MM:SS or DAYS-HOURS[:MM[:SS]].")
    days, *rest = found.groups()
    a, b, c = (int(part) if part else None for part in rest)
    if days is not None:
        return int(days) * 1440 + (a or 0) * 60 + (b or 0) + (c or 0) / 60
    return (a or 0) * 60 + (b or 0) + c / 60 if c is not None else (a or 0) + (b or 0) / 60


def options(launcher: Slurm, job: Job) -> list[str]:
    """sbatch's options. They are on its line, where nothing in the user's environment overrides them."""
    fields = {
        "partition": launcher.partition, "account": launcher.account, "qos": launcher.qos, "time": launcher.time,
        "gres": launcher.gres, "mem": launcher.memory, "constraint": launcher.constraint, "comment": launcher.comment,
        "exclude": launcher.exclude, "nodelist": launcher.nodelist, "reservation": launcher.reservation,
        "gpus-per-node": _gpus(launcher, job),
        "signal": f"TERM@{launcher.signal_seconds}" if launcher.signal_seconds else "",
    }  # fmt: skip
    chosen = [f"--{name}={value}" for name, value in fields.items() if value not in ("", "0", 0)]
    output = output_of(job).replace("%", "%%")  # which Slurm would take for the beginning of a pattern
    return [
        f"--job-name={name_of(job)}", f"--nodes={job.nodes}", "--ntasks-per-node=1", *_cpus(launcher, job), *chosen,
        "--requeue" if launcher.requeue else "--no-requeue", f"--chdir={job.run_dir}", f"--output={output}",
        "--open-mode=append", "--export=ALL", *launcher.extra,
    ]  # fmt: skip


def _gpus(launcher: Slurm, job: Job) -> str:
    """GPUs to ask for on each node: those of the launcher, else those that the job needs."""
    if launcher.gres or str(launcher.gpus_per_node) != "0":
        return str(launcher.gpus_per_node)
    return str(job.gpus_per_node)


def _cpus(launcher: Slurm, job: Job) -> list[str]:
    cpus = launcher.cpus_per_rank * max(1, job.ranks_per_node)
    return [f"--cpus-per-task={cpus}"] if cpus else []


def output_of(job: Job) -> str:
    """Where what the batch script prints belongs: it, or Slurm, says there why no agent was started."""
    return f"{job.run_dir}/attempts/{job.attempt}/logs/slurm.log"


def script(launcher: Slurm, job: Job) -> str:
    """The batch script: the site's set-up, then one agent on each node, in the foreground."""
    run_dir = shlex.quote(job.run_dir)
    size = [f"--nodes={job.nodes}", f"--ntasks={job.nodes}", "--ntasks-per-node=1"]
    size += [] if launcher.held else _cpus(launcher, job)
    agents = [
        "srun", *size, f"--job-name={name_of(job)}", "--kill-on-bad-exit=0",
        f"--wait={int(job.grace_seconds) + _END_SECONDS}", "--mpi=none", "--export=ALL", "--input=none",
        "--unbuffered", "--open-mode=append",
    ]  # fmt: skip
    command = list(map(shlex.quote, agent_command(job.interpreter, job, "SLURM_NODEID", network=True, restarts=True)))
    command[command.index("SLURM_NODEID") - 1] = '"$attempt"'
    lines = [
        "#!/bin/bash",
        f"# trainkit: run {job.run_id}, one agent on each of {job.nodes} node(s)",
        "umask 077",
        *_setup(launcher.setup_script),
        f"newest() {{ ls {run_dir}/attempts | grep -x '[0-9]*' | sort -n | tail -n 1; }}",
        f"attempt={job.attempt}",
        "if [ ${SLURM_RESTART_COUNT:-0} -gt 0 ]; then attempt=$(($(newest) + 1)); fi  # the same job, after a requeue",
        f'folder={run_dir}/attempts/"$attempt"',
        'mkdir -p "$folder/logs"',
        f'{shlex.join(agents)} --output="${{folder//%/%%}}/logs/agent-%n.log" \\',
        f"    {' '.join(command)}",
        "code=$?",
        *(_again(run_dir, job.max_restarts) if launcher.requeue else ()),
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _setup(text: str) -> list[str]:
    if not text.strip():
        return []
    own = f". {shlex.quote(text.strip())}" if is_path(text) else text.rstrip("\n")
    said = 'echo "setup_script ended with code $setup: no agent was started" >&2'
    return ["# --- setup_script", own, f"setup=$?; if [ $setup -ne 0 ]; then {said}; exit $setup; fi", "# ---"]


def is_path(text: str) -> bool:
    """Whether a setup_script is the path of one, and not its text."""
    return text.strip().startswith("/") and not re.search(r"\s", text.strip())


def _again(run_dir: str, max_restarts: int) -> list[str]:
    """Slurm starts again only what it ends itself: ranks that it asked to end and that have saved, and jobs whose
    agents lost a node before Slurm knew, ask for it; the latter not without end, where the job says how often. What
    fails, or ends with 75 unasked, is the agents' to start again. The run's time limit is for all its attempts."""
    saved = """grep -qs '"exit_code": 75' "$folder"/ranks/*.json"""
    asked = """grep -qs '"reason": "canceled"' "$folder"/nodes/*.end.json"""  # by a signal to the agents
    late = """grep -qs '"reason": "time limit ' "$folder"/nodes/*.end.json"""  # the run's own, not Slurm's
    lost = """grep -qs '"lost": {"' "$folder"/nodes/*.end.json"""
    if max_restarts:
        lost = f'{{ [ "$attempt" -le {max_restarts} ] && {lost}; }}'
    return [
        f'attempt=$(newest); folder={run_dir}/attempts/"$attempt"  # the agents may have gone on to another',
        f"if [ ! -e {run_dir}/cancel.json ] && ! {late} && {{ {{ {saved} && {asked}; }} || {lost}; }}; then",
        '    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until Slurm ends this script',
        "fi",
    ]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for Slurm's commands: the client's, without what an outer job or the user's habits would change.

    The user's own account and the like stay defaults.
    """
    return {name: value for name, value in env.items() if name in _KEPT or not name.startswith(_OBEYED)}


def waits_for(launcher: Slurm, job: Job) -> str:
    """What a submitted job would wait for, for people."""
    if launcher.held:
        place = launcher.allocation or "around the client (SLURM_JOB_ID)"
        return f"Would run in the allocation {place}, when {job.nodes} of its nodes are free of other steps."
    where = f"the partition {launcher.partition}" if launcher.partition else "the default partition"
    limit = launcher.queue_timeout_seconds
    given_up = f"; given up after {limit} s in the queue" if limit else ""
    return f"Would wait until Slurm has {job.nodes} free node(s) of {where} for it{given_up}."
