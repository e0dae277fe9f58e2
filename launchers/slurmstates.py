"""What Slurm answers, read: squeue, scontrol, sinfo and sacct. Pure functions from text to values and words.

Times are seconds since 1970: the commands are called with SLURM_TIME_FORMAT=%s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime

from trainkit.job import Status

SQUEUE = "%T|%S|%V|%e|%N|%r"  # what is asked of squeue, for `entry`
LISTED = "%i|%T"  # what is asked of squeue, for `unended`
SACCT = "State,ExitCode,End,NodeList"  # what is asked of sacct, for `account`
SETTLE_SECONDS = 30.0  # in which a job that lost its nodes is put back into the queue, or a node cleans up
_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
_ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT", "LAUNCH_FAILED", "RECONFIG_FAIL", "FORGOTTEN",
)  # fmt: skip
_RETURNS = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED")  # states after which a job may be queued again
_FORGOTTEN = "invalid job id"
_REASONS = {
    "Resources": "waits for nodes to become free",
    "Priority": "waits behind jobs of higher priority",
    "None": "has not been looked at yet",
    "WaitingForScheduling": "has not been looked at yet",
    "BeginTime": "may not start yet",
    "Dependency": "waits for another job",
    "JobHeldUser": "is held: `scontrol release` lets it go",
    "JobHeldAdmin": "is held by an administrator",
    "Licenses": "waits for a licence",
    "PartitionDown": "waits for its partition, which is down",
    "PartitionInactive": "waits for its partition, which starts no jobs",
    "Reservation": "waits for its reservation",
    "ReqNodeNotAvail": "waits for nodes that are down, drained or reserved",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions":
        "waits for nodes that are down, drained or reserved",
    "Cleaning": "is being cleaned up before it starts again",
    "JobHoldMaxRequeue": "is held: it was queued again too often",
}  # fmt: skip
_NEVER = {
    "PartitionNodeLimit": "its partition does not have, or allow, so many nodes",
    "PartitionTimeLimit": "its time is above the partition's limit",
    "PartitionConfig": "no node of its partition is as large as asked",
    "BadConstraints": "no node meets what was asked",
    "AccountNotAllowed": "its account may not use the partition",
    "QOSNotAllowed": "its QoS may not be used there",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QoS is not valid",
    "DependencyNeverSatisfied": "the job that it waits for has failed",
}
_NEVER_LIMIT = re.compile(r"(PerJob|PerJobLimit|TimeLimit|MaxWallDuration.*)$")
_WORDS = {
    "TIMEOUT": "was ended at its time limit",
    "DEADLINE": "was ended at its deadline",
    "OUT_OF_MEMORY": "was ended because it used more memory than it had asked for",
    "CANCELLED": "was cancelled",
    "NODE_FAIL": "lost a node",
    "BOOT_FAIL": "got a node that did not start up",
    "PREEMPTED": "was preempted by another job",
    "FAILED": "ended",
    "COMPLETED": "ended",
    "REVOKED": "went to another cluster",
    "FORGOTTEN": "is not known to Slurm: it ended long ago, or Slurm has lost it",
}


@dataclass(frozen=True)
class Entry:
    """A job as Slurm tells of it; times are 0 where it does not know them."""

    state: str
    begin: float = 0.0  # began, or is expected to
    submitted: float = 0.0  # put into the queue, last
    end: float = 0.0
    nodes: str = ""
    reason: str = ""
    words: str = ""  # how it ended: "exit code 7", "by uid 0"
    output: str = ""  # the file with what its script printed, where that may say why it ended

    @property
    def queued(self) -> bool:
        """Whether it waits to be started, for the first time or again."""
        return self.state in _QUEUED

    @property
    def ended(self) -> bool:
        """Whether it has ended, or is as good as: nothing of it is started any more."""
        return self.state in _ENDED

    @property
    def may_return(self) -> bool:
        """Whether Slurm may yet start it, for the first time or again."""
        return self.queued or self.state in _RETURNS

    def returns(self, now: float) -> bool:
        """Whether it has ended in a way after which a job that asked for it is soon queued again."""
        return self.state in _RETURNS and now - self.end < SETTLE_SECONDS


def entry(output: str) -> Entry | None:
    """The line of `squeue -h -t all -o SQUEUE`; None where it has none."""
    for line in output.splitlines():
        fields = line.strip().split("|", 5)
        if len(fields) == 6 and fields[0].isupper():
            state, begin, submitted, end, nodes, reason = fields
            return Entry(state, _time(begin), _time(submitted), _time(end), nodes, reason)
    return None


def unended(output: str, returning: bool = False) -> dict[str, str]:
    """The jobs of `squeue -h -t all -o LISTED` that have not ended, by number, and if asked those that may return."""
    pairs = (line.strip().partition("|") for line in output.splitlines())
    live = {number: state for number, _, state in pairs if number.isdigit()}
    return {n: s for n, s in live.items() if s not in _ENDED or (returning and s in _RETURNS)}


def details(output: str) -> Entry | None:
    """The job of `scontrol show job -o`, with how it ended; None where it shows none."""
    values = dict(re.findall(r"(?:^|\s)([A-Z][A-Za-z]+)=(\S*)", output))
    state = values.get("JobState", "").split(",")[0]
    if not state:
        return None
    words = [_exit(values.get("ExitCode", "")) if state == "FAILED" else ""]
    if state == "TIMEOUT":
        words.append(f"TimeLimit={values.get('TimeLimit', '?')}")
    if state == "FAILED" and values.get("Reason", "None") not in ("None", "NonZeroExitCode"):
        words.append(values["Reason"])
    printed = values.get("StdOut", "") if state in ("FAILED", "OUT_OF_MEMORY") else ""
    if printed:
        words.append(f"its script's output is in {printed}")
    begin, submitted, end = (_time(values.get(key, "")) for key in ("StartTime", "SubmitTime", "EndTime"))
    nodes = values.get("NodeList", "").replace("(null)", "")
    told = ", ".join(word for word in words if word)
    return Entry(state, begin, submitted, end, nodes, values.get("Reason", ""), told, printed)


def explained(found: Entry, printed: str) -> Entry:
    """The entry with the first error of srun's in what the script has printed, since it was started last."""
    error = re.search(r"^srun: error: (.+)$", printed.rpartition("*** JOB ")[2], re.MULTILINE)
    return replace(found, words=f"srun: {error.group(1).strip()}; {found.words}") if error else found


def account(output: str) -> Entry | None:
    """The job of `sacct -X -n -P -o SACCT`; its last line tells of its last start."""
    lines = [line.split("|") for line in output.strip().splitlines() if line.count("|") >= 3]
    if not lines:
        return None
    state, code, end, nodes = lines[-1][:4]
    name, _, by = state.partition(" ")  # "CANCELLED by 1000"
    words = [by.replace("by ", "by uid ") if by else "", _exit(code) if name == "FAILED" else ""]
    return Entry(name, 0.0, 0.0, _time(end), nodes, "", ", ".join(word for word in words if word))


def restarts(output: str) -> int:
    """How often the job of `scontrol show job -o` was started again."""
    found = re.search(r"(?:^|\s)Restarts=(\d+)", output)
    return int(found.group(1)) if found else 0


def _exit(code: str) -> str:
    """ "7:0" is exit code 7, "0:9" signal 9."""
    number, _, signal = code.partition(":")
    if signal not in ("", "0"):
        return f"signal {signal}"
    return f"exit code {number}" if number not in ("", "0") else ""


def _time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0  # N/A, Unknown, None


def forgotten(output: str) -> bool:
    """Whether a controller that does answer says that there is no such job."""
    return _FORGOTTEN in output.lower()


def waiting(job: str, found: Entry) -> Status:
    """Queued, with the reason, whether it can ever start, and when it is expected to."""
    code = found.reason.split(",")[0].strip()
    if code in _NEVER or _NEVER_LIMIT.search(code):
        why = f"can never start: {_NEVER.get(code, 'a limit of its account or QoS')} ({code}). Cancel it"
    else:
        why = _REASONS.get(code) or _REASONS.get(code.replace(" ", "_")) or "waits"
        why += f" ({found.reason})" if code not in ("", "None") else ""
    begin = f"; expected to start at {datetime.fromtimestamp(found.begin):%Y-%m-%d %H:%M}" if found.begin else ""
    return Status("queued", f"Slurm job {job} {why}{begin}")


def status(job: str, found: Entry, now: float, requeue: bool) -> Status:
    """What an entry means. A job that is to be queued again after losing its nodes has not ended."""
    if found.queued:
        return waiting(job, found)
    if found.ended and requeue and found.returns(now):
        return Status("queued", f"Slurm job {job} {_WORDS[found.state]}, and is to be queued again")
    if found.ended:
        more = f": {found.words}" if found.words else ""
        return Status("ended", f"Slurm job {job} {_WORDS.get(found.state, 'ended')} ({found.state}){more}")
    if found.state == "COMPLETING" and requeue and not found.end:  # of one that has ended for good it is known when
        return Status("queued", f"Slurm job {job} is to be queued again: its nodes clean up")
    if found.state == "COMPLETING" and not requeue and 0 < found.end < now - SETTLE_SECONDS:
        return Status("ended", f"Slurm job {job} ended, but a node of {found.nodes} does not answer (COMPLETING)")
    where = f" on {found.nodes}" if found.nodes else ""
    return Status("running", f"Slurm job {job} is {found.state.lower()}{where}")


def step(output: str, name: str) -> str:
    """The number ("12.0") of the step of this name in `squeue -h -s -o '%i|%j'`; empty where there is none."""
    pairs = (line.strip().partition("|") for line in output.splitlines())
    return next((number for number, _, own in pairs if own == name), "")


def inside(allocation: str, number: str, starting: bool) -> Status:
    """Where a job in an allocation is: `number` is its step's, `starting` tells that its script still runs."""
    if number:
        return Status("running", f"step {number} of the allocation {allocation}")
    if starting:
        return Status("queued", f"waits for the nodes of the allocation {allocation}: another step has them")
    return Status("ended")  # no words: they would explain an agent that was killed


def waited_too_long(job: str, found: Entry, now: float, limit: int) -> Status | None:
    """The end of a job that has waited for longer than `limit` seconds; None where it has not, or need not care."""
    if not limit or not found.queued or not found.submitted or now - found.submitted <= limit:
        return None
    why = waiting(job, found).words.removeprefix(f"Slurm job {job} ")
    return Status(
        "ended",
        f"Slurm job {job} waited for longer than queue_timeout_seconds={limit} and was cancelled: it {why}",
    )


def unreachable(last: Status, words: str) -> Status:
    """What was known last, while Slurm does not answer."""
    known = last.words.split(" (Slurm does not answer: ")[0]
    said = (words.strip().splitlines() or ["no words"])[-1]
    return Status(last.phase, f"{known} (Slurm does not answer: {said})".strip())
