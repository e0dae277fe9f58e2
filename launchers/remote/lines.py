"""Command lines of ssh, and what its refusals mean: pure functions. No word of a user's reaches a shell unquoted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from trainkit.errors import ComputeTargetException

from .hosts import Host

# Reads a program of a given length from standard input and runs it; the rest of standard input is the program's.
_RUN_INPUT = "import sys; i = sys.stdin.buffer; exec(i.read(int(i.readline())))"
_OURS = ("-T", "-x", "-a", "-oBatchMode=yes", "-oClearAllForwardings=yes")
_OPTION = re.compile(r"([A-Za-z0-9]+)[= ]([^\n\0'\"]*)")
_KEYS = "Host keys are always checked: add the hosts' keys to ~/.ssh/known_hosts."


def check_options(options: Sequence[str]) -> None:
    """Raise ComputeTargetException where one of ssh's options is malformed, or would weaken what is promised."""
    for option in options:
        match = _OPTION.fullmatch(option)
        if not match:
            raise ComputeTargetException(f"{option!r} is no option of ssh; write them as in 'ServerAliveInterval=5'.")
        key, value = match[1].lower(), match[2].strip().lower()
        if key == "stricthostkeychecking" and value not in ("yes", "ask"):
            raise ComputeTargetException(f"{option!r} is refused. {_KEYS}")
        if key in ("userknownhostsfile", "globalknownhostsfile") and "/dev/null" in value:
            raise ComputeTargetException(f"{option!r} is refused. {_KEYS}")
        if key in ("batchmode", "localcommand", "permitlocalcommand", "remotecommand", "requesttty"):
            raise ComputeTargetException(f"{option!r} is refused: nobody is there to answer, and the command is ours.")


def ssh_words(options: Sequence[str], connect_timeout_seconds: float) -> tuple[str, ...]:
    """ssh without a host: what rsync is given too."""
    timeout = f"-oConnectTimeout={max(1, round(connect_timeout_seconds))}"
    return ("ssh", *_OURS, timeout, *(f"-o{option}" for option in options))


def to_host(words: Sequence[str], host: Host) -> tuple[str, ...]:
    """ssh to a host; a command's words follow, each quoted for the shell there."""
    user = ("-l", host.user) if host.user else ()
    port = ("-p", str(host.port)) if host.port else ()
    return (*words, *user, *port, "--", host.name)


def run_input(python: str) -> str:
    """The one command that is ever run at the far end: a fixed text, and the interpreter's path in quotes."""
    return shlex.join([python, "-I", "-c", _RUN_INPUT])


def shown(words: Sequence[str]) -> str:
    """A command line as it could be typed."""
    return shlex.join(words)


def explain(host: Host, python: str, status: int, output: str) -> tuple[str, bool]:
    """Why a call came to nothing: words with the remedy, and whether trying again can help."""
    name, told = host.text, _last(output)
    if "IDENTIFICATION HAS CHANGED" in output:
        return (
            f"its host key has changed. If the machine was set up anew, remove the old key (ssh-keygen -R "
            f"{_known(host)}) and log in once by hand (ssh {name}); if not, somebody else may answer in its place",
            False,
        )
    if "Host key verification failed" in output or "host key is known for" in output:
        return (
            f"its host key is not known here. Log in once by hand (ssh {name}) and compare the fingerprint, or add "
            "its key to ~/.ssh/known_hosts",
            False,
        )
    if "Permission denied (" in output or "Too many authentication failures" in output:
        return (
            f"it refuses this user's keys ({told}). Allow one (ssh-copy-id {name}), load it (ssh-add), or name "
            "the user as in user@host",
            False,
        )
    if "Could not resolve hostname" in output:
        return f"no machine has this name ({told}). Correct it, or give it an address in ~/.ssh/config", False
    if status in (126, 127) or "No such file or directory" in output and python in output:
        return (
            f"it has no {python} ({told}). Install this interpreter there at the same path, put it on a path that "
            "all hosts share, or use an environment with inherit=False, which is built on each host",
            False,
        )
    if status == 255:
        return f"it does not answer ({told or 'ssh ended without a word'}). See that it is up and runs sshd", True
    return f"what was sent there ended with {status} ({told or 'without a word'})", False


def _known(host: Host) -> str:
    return shlex.quote(f"[{host.name}]:{host.port}" if host.port not in (0, 22) else host.name)


def _last(output: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else ""
