"""What git says of a source directory: part of every run's record."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

_SECONDS = 5.0  # a repository too large to answer in this time goes without


def read(directory: Path) -> dict[str, Any]:
    """{"uri", "branch", "commit", "dirty"} of the repository that holds `directory`; empty where there is none.

    `uri` is the remote's, without any password in it; `dirty` tells whether `directory` holds anything that the
    commit does not. Nothing of the repository's configuration is run, and nothing in it is written.
    """
    status = _git(directory, "status", "--porcelain=v2", "--branch", "--untracked-files=normal", "--", ".")
    if status is None:
        return {}
    headers = dict(re.findall(r"^# branch\.(oid|head) (.*)$", status, re.MULTILINE))
    commit, branch = headers.get("oid", ""), headers.get("head", "")
    return {
        "uri": without_credentials((_git(directory, "config", "--get", "remote.origin.url") or "").strip()),
        "branch": "" if branch == "(detached)" else branch,
        "commit": "" if commit == "(initial)" else commit,
        "dirty": any(line and not line.startswith("# ") for line in status.splitlines()),
    }


def without_credentials(uri: str) -> str:
    """A repository's address without user name and password: they are often tokens."""
    return re.sub(r"^(\w[\w+.-]*://)[^/]*@", r"\1", uri)


def _git(directory: Path, *arguments: str) -> str | None:
    """What git prints; None where it is not installed, refuses, or takes too long."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
