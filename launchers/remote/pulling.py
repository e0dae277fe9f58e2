"""rsync's command lines for bringing files from a host, and what its refusals mean."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence

from trainkit.errors import LaunchError

from .calls import Call
from .hosts import Host
from .lines import to_host

_VANISHED = 24  # a file went away between its listing and its copying: it was in the making
_STALL_SECONDS = 15
_NO_RSYNC = re.compile("rsync: (command not found|not found|Permission denied|No such file)")  # of different shells


def check_here() -> None:
    """Raise LaunchError where this machine has no rsync."""
    if not shutil.which("rsync"):
        raise LaunchError(
            "This machine has no rsync, which brings results from hosts without a shared disk. Install it "
            "(apt install rsync), or use a shared path with shared_disk=True."
        )


def by_ssh(words: Sequence[str], host: Host) -> tuple[str, str]:
    """rsync's option that makes it use ssh as it reaches this host, and the host as it writes one before a path."""
    return "--rsh=" + shlex.join(to_host(words, host)[:-2]), f"[{host.name}]" if ":" in host.name else host.name


def pull(words: Sequence[str], host: Host, source: str, target: str, names: Sequence[str]) -> Call:
    """The call that brings these files of a directory on a host, and nothing else."""
    shell, place = by_ssh(words, host)
    argv = (
        "rsync", "--links", "--safe-links", "--times", "--perms", "--sparse", "--protect-args",
        f"--timeout={_STALL_SECONDS}", shell, "--from0", "--files-from=-", "--", f"{place}:{source}/", f"{target}/",
    )  # fmt: skip
    return Call(argv, b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in names))


def trial(words: Sequence[str], host: Host, source: str, target: str, name: str) -> Call:
    """The same call for one file, which it only looks at: whether results will come back."""
    call = pull(words, host, source, target, [name])
    return Call((call.argv[0], "--dry-run", *call.argv[1:]), call.data)


def explain(status: int | None, output: str) -> str:
    """Why files could not be brought; nothing where they were."""
    if status in (0, _VANISHED):
        return ""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if status is None:
        return "rsync took too long"
    if "is your shell clean" in output:
        return (
            "rsync cannot bring results, because a login script there prints something. Have ~/.bashrc (or the like) "
            "print only where the shell is interactive"
        )
    if status in (126, 127) or _NO_RSYNC.search(output):
        return "it has no rsync, which brings results back. Install it there (apt install rsync), or use a shared path"
    return f"rsync ended with {status}: {lines[0][:300] if lines else 'it says nothing'}"
